"""QEMU's command line: what a machine consists of, as data, and the arguments that give it that."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdump import arch
from kdump.arch import Architecture
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
    """The machine and the kernel to boot. `memory` in bytes; without a `kernel` the machine boots from its first disk.

    `machine` is the architecture as `uname -m` prints it, "" for this machine's; `cpu` is QEMU's model, "" for the most
    capable one.
    """

    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    disks: Sequence[Disk] = ()
    memory: int = 512 << 20
    cpus: int = 1
    cpu: str = ""
    nics: Sequence[Nic] = ()
    reboots: bool = False  # let the guest restart; otherwise a reboot ends the machine
    firmware: Path | None = None  # a UEFI image instead of SeaBIOS, or of none
    serial: bool = True  # without a serial port, the console is what the guest sends to a virtio console (hvc0)
    extra: Sequence[str] = field(default=())
    machine: str = ""

    @property
    def architecture(self) -> Architecture:
        """The machine's architecture."""
        return architecture(self.machine)


def architecture(machine: str = "") -> Architecture:
    """The architecture that `uname -m` calls so, "" for this machine's."""
    return arch.by_machine(machine) if machine else arch.native()


def qemu_path(machine: str = "") -> str:
    """The emulator of an architecture, or a KdumpError that says how to get it."""
    emulated = architecture(machine).emulated
    found = shutil.which(emulated.program)
    if not found:
        raise KdumpError(
            "QEMU is not installed",
            why=f"{emulated.program} is not on PATH",
            remedy=f"install it: apt-get install {emulated.package}",
        )
    return found


def qemu_arguments(spec: Spec, accelerator: str, monitor: Path | None) -> list[str]:
    """The whole command line, machine type, devices and all; nothing comes from a user's QEMU configuration."""
    emulated = spec.architecture.emulated
    arguments = [qemu_path(spec.machine), "-nodefaults", "-no-user-config", "-display", "none"]
    arguments += [
        "-machine",
        emulated.machine,
        "-accel",
        accelerator,
        "-cpu",
        spec.cpu or emulated.cpu,
        "-smp",
        str(spec.cpus),
        "-m",
        f"{spec.memory >> 20}M",
    ]
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
        arguments += ["-kernel", str(spec.kernel), "-append", spec.cmdline or f"console={spec.architecture.console}"]
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
