"""QEMU's command line: what a machine consists of, as data, and the arguments that give it that."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdump.errors import KdumpError

_BUS_DEVICES = {"virtio": "virtio-blk-pci", "nvme": "nvme", "sata": "ide-hd", "usb": "usb-storage"}


@dataclass(frozen=True)
class Disk:
    """A disk image given to the machine. `snapshot` keeps the guest's writes out of the file."""

    path: Path
    serial: str = ""
    format: str = "raw"
    bus: str = "virtio"
    readonly: bool = False
    snapshot: bool = False


@dataclass(frozen=True)
class Nic:
    """A network card (virtio). `backend` is a -netdev value without its id: "user" is QEMU's own network with DHCP.

    Machines that share a network ("socket,mcast=230.0.0.1:1234") need different MAC addresses.
    """

    backend: str = "user"
    mac: str = ""


@dataclass(frozen=True)
class Spec:
    """What to boot and on what. `memory` in bytes; without a `kernel` the machine boots from its first disk."""

    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = "console=ttyS0"
    disks: Sequence[Disk] = ()
    memory: int = 512 << 20
    cpus: int = 1
    cpu: str = "max"
    nics: Sequence[Nic] = ()
    reboots: bool = False  # let the guest restart; otherwise a reboot ends the machine
    firmware: Path | None = None  # a UEFI image instead of SeaBIOS
    serial: bool = True  # without a serial port, the console is what the guest sends to a virtio console (hvc0)
    extra: Sequence[str] = field(default=())


def qemu_path() -> str:
    """The emulator, or a KdumpError that says how to get it."""
    found = shutil.which("qemu-system-x86_64")
    if not found:
        raise KdumpError(
            "QEMU is not installed",
            why="qemu-system-x86_64 is not on PATH",
            remedy="install it: apt-get install qemu-system-x86 (or qemu-kvm)",
        )
    return found


def qemu_arguments(spec: Spec, accelerator: str, monitor: Path | None) -> list[str]:
    """The whole command line, machine type, devices and all; nothing comes from a user's QEMU configuration."""
    arguments = [qemu_path(), "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,graphics=off"]
    arguments += ["-accel", accelerator, "-cpu", spec.cpu, "-smp", str(spec.cpus), "-m", f"{spec.memory >> 20}M"]
    arguments += ["-chardev", "stdio,id=console,signal=off"]
    if spec.serial:
        arguments += ["-serial", "chardev:console"]
    else:
        arguments += ["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=console"]
    if monitor:
        arguments += ["-qmp", f"unix:{monitor},server=on,wait=off"]
    if not spec.reboots:
        arguments += ["-no-reboot"]
    if spec.firmware:
        arguments += ["-bios", str(spec.firmware)]
    if spec.kernel:
        arguments += ["-kernel", str(spec.kernel), "-append", spec.cmdline]
        if spec.initrd:
            arguments += ["-initrd", str(spec.initrd)]
    if any(disk.bus == "usb" for disk in spec.disks):
        arguments += ["-device", "qemu-xhci"]
    for number, disk in enumerate(spec.disks):
        arguments += _disk_arguments(f"disk{number}", disk)
    for number, nic in enumerate(spec.nics):
        mac = nic.mac or f"52:54:00:6b:64:{number:02x}"
        arguments += ["-netdev", f"{nic.backend},id=net{number}"]
        arguments += ["-device", f"virtio-net-pci,netdev=net{number},mac={mac}"]
    return [*arguments, *spec.extra]


def _disk_arguments(name: str, disk: Disk) -> list[str]:
    path = str(disk.path).replace(",", ",,")
    drive = f"if=none,id={name},format={disk.format},file={path},cache=unsafe,discard=unmap"
    drive += ",werror=report"  # a full disk here is an error there; else the machine would be stopped, and wait
    drive += ",readonly=on" * disk.readonly + ",snapshot=on" * disk.snapshot
    serial = disk.serial or ("kdump-" + name if disk.bus == "nvme" else "")  # an NVMe controller must have one
    device = f"{_BUS_DEVICES[disk.bus]},drive={name}" + (f",serial={serial}" if serial else "")
    return ["-drive", drive, "-device", device]
