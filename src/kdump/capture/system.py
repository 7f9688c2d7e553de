"""The system calls that Python's `os` lacks and a first process needs: mounts, modules, loop devices, reboot.

Self-contained on purpose (nothing of kdump, only `ctypes`, `fcntl` and `os`): the image's first stage ships this
very file. Every function raises `OSError` with the kernel's errno and the path concerned.

Sources: mount(2), umount2(2), finit_module(2), reboot(2), loop(4); include/uapi/linux/{mount,loop,reboot}.h.
"""

from __future__ import annotations

import ctypes
import fcntl
import os

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_NOATIME = 0x400
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000

MNT_FORCE = 0x1
MNT_DETACH = 0x2

RESTART = 0x01234567
HALT = 0xCDEF0123
POWER_OFF = 0x4321FEDC
KEXEC = 0x45584543

MODULES = "/usr/lib/modules"  # where the image has kernel modules, each as NAME.ko
MODPROBE = "/usr/bin/modprobe"  # what the kernel starts when it wants a module
REQUESTS = "/etc/kdump/requests"  # what that answers: `kdump.capture.modprobe`

_SYS_FINIT_MODULE = {"x86_64": 313, "aarch64": 273, "riscv64": 273}
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_SET_FD = 0x4C00
_LOOP_CLR_FD = 0x4C01

_M_ARENA_MAX = -8  # glibc, malloc.h

_MCL_CURRENT = 1  # include/uapi/asm-generic/mman.h
_MCL_ONFAULT = 4

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, path: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def mount(source: str, target: str, fstype: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2). `options` are the file system's own, comma separated; the generic ones are `flags` (MS_*)."""
    arguments = (source.encode(), target.encode(), fstype.encode() or None, ctypes.c_ulong(flags))
    _check(_libc.mount(*arguments, options.encode() or None), target)


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2); `flags` are MNT_*."""
    _check(_libc.umount2(target.encode(), flags), target)


def load_module(path: str, parameters: str = "") -> bool:
    """finit_module(2) on an uncompressed module. False if the kernel has it already."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.syscall(_SYS_FINIT_MODULE[os.uname().machine], descriptor, parameters.encode(), 0), path)
    except FileExistsError:
        return False
    finally:
        os.close(descriptor)
    return True


def attach_loop(path: str) -> str:
    """Bind the file to a free loop device, read-only, and return the device's path. Needs the loop driver and /dev."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    backing = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
        # A backing file opened read-only makes the device read-only.
        loop = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(loop, _LOOP_SET_FD, backing)
        finally:
            os.close(loop)
        return device
    finally:
        os.close(backing)
        os.close(control)


def detach_loop(device: str) -> None:
    """Release a loop device bound by `attach_loop`."""
    loop = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(loop, _LOOP_CLR_FD, 0)
    finally:
        os.close(loop)


def one_malloc_arena() -> None:
    """mallopt(3): threads otherwise get an arena each, and keep what they freed. For glibc; others have no arenas."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_ARENA_MAX, 1)


def lock_memory() -> None:
    """mlockall(2) with MCL_CURRENT and MCL_ONFAULT: what this process has in memory now stays there."""
    _check(_libc.mlockall(_MCL_CURRENT | _MCL_ONFAULT), "mlockall")


def reboot(action: int = RESTART) -> None:
    """sync(2), then reboot(2) with RESTART, HALT, POWER_OFF or KEXEC. Returns only by raising."""
    os.sync()
    _check(_libc.reboot(ctypes.c_int(action - (1 << 32) if action >> 31 else action)), "reboot")
