"""The machines of the matrix: what they differ in, and a choice of them in which every pair that counts occurs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import NamedTuple

KERNELS = ("6.1", "6.1-generic", "6.1-rt", "6.12", "6.12-generic", "6.12-rt", "newest", "newest-generic")
# What a disk hangs on: the driver that makes it possible, and QEMU's arguments; the drive is called "data".
CONTROLLERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "virtio-blk": ("virtio_blk", ("virtio-blk-pci,drive=data",)),
    "virtio-scsi": ("virtio_scsi", ("virtio-scsi-pci,id=bus", "scsi-hd,bus=bus.0,drive=data")),
    "ahci": ("ahci", ("ide-hd,bus=ide.1,drive=data",)),
    "ide": ("ata_piix", ("ide-hd,bus=ide.0,drive=data",)),
    "nvme": ("nvme", ("nvme,serial=data,drive=data",)),
    "megasas": ("megaraid_sas", ("megasas,id=bus", "scsi-hd,bus=bus.0,drive=data")),
    "mptsas1068": ("mptsas", ("mptsas1068,id=bus", "scsi-hd,bus=bus.0,drive=data")),
    "lsi53c895a": ("sym53c8xx", ("lsi53c895a,id=bus", "scsi-hd,bus=bus.0,drive=data")),
    "pvscsi": ("vmw_pvscsi", ("pvscsi,id=bus", "scsi-hd,bus=bus.0,drive=data")),
    "usb-bulk": ("usb_storage", ("qemu-xhci", "usb-storage,drive=data")),
    "usb-uas": ("uas", ("qemu-xhci", "usb-uas,id=bus", "scsi-hd,bus=bus.0,drive=data")),
    "sd-card": ("sdhci_pci", ("sdhci-pci", "sd-card,drive=data")),
}
VOLUMES = ("ext4", "partition", "xfs", "btrfs", "lvm", "luks", "thin", "loop")
FIRMWARE = ("bios", "uefi")
# What else a machine has, one after the other: it goes with any of the above.
REST = (
    {"cpus": 2, "memory": 1024, "cpu": "max"},
    {"cpus": 1, "memory": 1024, "cpu": "SandyBridge"},
    {"cpus": 2, "memory": 2048, "cpu": "Nehalem"},
    {"cpus": 8, "memory": 2048, "cpu": "EPYC"},
    {"cpus": 2, "memory": 1024, "cpu": "Skylake-Server"},
    {"cpus": 2, "memory": 2048, "cpu": "max", "numa": 2},
    {"cpus": 2, "memory": 1024, "cpu": "kvm64"},
    {"cpus": 1, "memory": 768, "cpu": "max,la57=off"},
    {"cpus": 16, "memory": 4096, "cpu": "max"},
)


class Row(NamedTuple):
    """One machine."""

    kernel: str
    controller: str
    volume: str
    firmware: str
    cpus: int = 2
    memory: int = 1024  # MiB
    cpu: str = "max"
    numa: int = 1

    @property
    def name(self) -> str:
        """For people, files and test ids."""
        return "-".join([self.kernel, self.controller, self.volume, self.firmware, self.cpu.replace(",", "_")])


Choice = tuple[str, str, str, str]
# The default run's: an ordinary kernel on a SAS controller, the newest on NVMe, a set-up that must be refused.
SUBSET = (
    Row("6.1-generic", "megasas", "lvm", "bios"),
    Row("newest", "nvme", "xfs", "uefi"),
    Row("6.12", "virtio-scsi", "thin", "bios", cpus=1, cpu="SandyBridge"),
)


def pairs(choice: Choice) -> Iterator[tuple[str, str]]:
    """The pairs of which each must occur: (kernel, controller), (kernel, volume), (volume, firmware)."""
    kernel, controller, volume, firmware = choice
    yield from ((kernel, controller), (kernel, volume), (volume, firmware))


def covering(possible: Callable[[str, str], bool], begin: Iterable[Row] = SUBSET) -> list[Row]:
    """Rows in which every pair occurs that is `possible(kernel, controller)`: greedily, each adds as many as it can.

    The older IDE controller belongs to a machine that QEMU starts by BIOS only.
    """
    every: list[Choice] = [
        choice
        for choice in product(KERNELS, CONTROLLERS, VOLUMES, FIRMWARE)
        if possible(choice[0], choice[1]) and not (choice[1] == "ide" and choice[3] == "uefi")
    ]
    rows = [row for row in begin if possible(row.kernel, row.controller)]
    missing = {pair for choice in every for pair in pairs(choice)}
    missing -= {pair for row in rows for pair in pairs(row[:4])}
    while missing:
        best = max(every, key=lambda choice: len(missing & set(pairs(choice))))
        missing -= set(pairs(best))
        rest = REST[len(rows) % len(REST)]
        rows.append(Row(*best)._replace(**rest))  # type: ignore[arg-type]
    return rows
