"""Reboot into the kernel that is loaded: at once, or by way of a clean shutdown.

Source: reboot(2), include/uapi/linux/reboot.h; systemctl(1), kexec verb; netdevice(7) for taking interfaces down.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from kdump.errors import KdumpError, reason
from kdump.kexec.state import read_state

RB_KEXEC = 0x45584543  # LINUX_REBOOT_CMD_KEXEC, by way of reboot(3)
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 0x1
IFREQ = struct.Struct("16sh22x")  # struct ifreq: name, flags


def reboot_now(*, sync: bool = True, ifdown: bool = True) -> None:
    """Start the loaded kernel without a shutdown. Returns only by raising KdumpError."""
    _need_loaded()
    if sync:
        os.sync()
    if ifdown:
        take_interfaces_down()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.reboot(ctypes.c_int(RB_KEXEC))
    raise KdumpError(
        "the loaded kernel was not started",
        why=os.strerror(ctypes.get_errno()),
        remedy="only root may (CAP_SYS_BOOT), and only from the machine's own PID namespace",
    )


def shut_down_and_reboot() -> None:
    """Shut the system down cleanly, then start the loaded kernel. Returns when the shutdown is under way.

    Under systemd that is `systemctl kexec`; elsewhere `shutdown -r now`, whose scripts are expected to call kexec -e.
    """
    import subprocess

    _need_loaded()
    systemd = Path("/run/systemd/system").is_dir()
    command = ["systemctl", "kexec"] if systemd else ["shutdown", "-r", "now"]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise KdumpError(
            "the shutdown did not start", why=reason(error), remedy="`kdump kexec -e` starts the kernel without one"
        ) from None


def take_interfaces_down() -> None:
    """Clear IFF_UP of every network interface but lo, so that no device writes into the next kernel's memory."""
    import fcntl
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for _, name in socket.if_nameindex():
            if name == "lo":
                continue
            request = IFREQ.pack(name.encode(), 0)
            try:
                _, flags = IFREQ.unpack(fcntl.ioctl(control, SIOCGIFFLAGS, request))
                fcntl.ioctl(control, SIOCSIFFLAGS, IFREQ.pack(name.encode(), flags & ~IFF_UP))
            except OSError as error:
                raise KdumpError(f"interface {name} cannot be taken down", why=error.strerror or "") from None


def _need_loaded() -> None:
    if not read_state().loaded:
        raise KdumpError("no kernel is loaded to reboot into", remedy="load one first: `kdump kexec -l KERNEL`")
