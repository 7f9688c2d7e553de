"""The machines of the matrix: what they differ in, and a choice of them in which every pair that counts occurs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any, NamedTuple

KERNELS = ("6.1", "6.1-generic", "6.1-rt", "6.12", "6.12-generic", "6.12-rt", "newest", "newest-generic")
# What a disk hangs on: the driver that makes it possible, and QEMU's arguments; the drive is called "data".
CONTROLLERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "virtio-blk": ("virtio_blk", ("virtio-blk-pci,drive=data",)),
    "virtio-scsi": ("virtio_scsi", ("virtio-scsi-pci,id=bus", "scsi-hd,bus=bus.0,drive=data")),
    "ahci": ("ahci", ("ide-hd,bus=ide.1,drive=data",)),
    "ide": ("ata_piix", ("ide-hd,bus=ide.0,drive=data",)),
    "nvme": ("nvme", ("nvme,serial=data,drive=data",)),
    "megasas": ("megaraid_sas", ("megasas,id=bus", "scsi-hd,bus=bus.0,drive=data")),
    # The driver finds no disk without a SAS address.
    "mptsas1068": ("mptsas", ("mptsas1068,id=bus", "scsi-hd,bus=bus.0,drive=data,wwn=0x5000c50015ea71ac")),
    "lsi53c895a": ("sym53c8xx", ("lsi53c895a,id=bus", "scsi-hd,bus=bus.0,drive=data")),
    "pvscsi": ("vmw_pvscsi", ("pvscsi,id=bus", "scsi-hd,bus=bus.0,drive=data")),
    "usb-bulk": ("usb_storage", ("qemu-xhci", "usb-storage,drive=data")),
    "usb-uas": ("uas", ("qemu-xhci", "usb-uas,id=bus", "scsi-hd,bus=bus.0,drive=data")),
    "sd-card": ("sdhci_pci", ("sdhci-pci", "sd-card,drive=data")),
}
BOARDS = {"ahci", "ide"}  # on the board of a newer and of an older machine
# Disks with caches and snapshots, which one kernel is enough for.
LISTS = ("lvm-cache", "lvm-origin", "lvm-snapshot")
# Network cards, in a disk controller's place: the dump goes to this host by SSH. The network behind is called "net".
CARDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "virtio-net": ("virtio_net", ("virtio-net-pci,netdev=net",)),
    "e1000": ("e1000", ("e1000,netdev=net",)),
    "e1000e": ("e1000e", ("e1000e,netdev=net",)),
    "rtl8139": ("8139cp", ("rtl8139,netdev=net",)),
    "vmxnet3": ("vmxnet3", ("vmxnet3,netdev=net",)),
    "pcnet": ("pcnet32", ("pcnet,netdev=net",)),
    "usb-net": ("cdc_ether", ("qemu-xhci", "usb-net,netdev=net")),
}
SSH = "ssh"
SERVED = ("iscsi", "nvme-tcp")  # disks of a second machine, behind a network card
VOLUMES = ("ext4", "partition", "xfs", "btrfs", "lvm", "luks", "thin", "md-1.2")
# What `kdump status` has to refuse by name: volumes, and processor models that lack what NumPy needs.
REFUSED = (
    "loop", "zram", "ram", "nbd", "drbd", "null_blk", "writecache", "integrity", "luks-adiantum", "luks-integrity",
)  # fmt: skip
OLD = ("kvm64", "qemu64")
FIRMWARE = ("bios", "uefi")
# What else a machine has, one after the other: it goes with any of the above.
REST = (
    {"cpus": 2, "memory": 1024, "cpu": "max"},
    {"cpus": 1, "memory": 1024, "cpu": "SandyBridge"},
    {"cpus": 2, "memory": 2048, "cpu": "Nehalem"},
    {"cpus": 8, "memory": 2048, "cpu": "EPYC"},
    {"cpus": 2, "memory": 1024, "cpu": "Skylake-Server"},
    {"cpus": 2, "memory": 2048, "cpu": "max", "numa": 2},
    {"cpus": 2, "memory": 1024, "cpu": "Westmere"},
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
    serial: bool = True
    crashkernel: str = "256M"
    report: bool = False  # whether the capture kernel makes a report, too: emulated, that takes its time
    beside: tuple[tuple[str, str], ...] = ()  # controllers and volumes of more disks; the dump goes to all at once

    @property
    def disks(self) -> tuple[tuple[str, str], ...]:
        """Controller and volume of each."""
        return (self.controller, self.volume), *self.beside

    @property
    def name(self) -> str:
        """For people, files and test ids."""
        size = f"{self.cpus}x{self.memory}{'' if self.serial else '-noserial'}"
        disks = "+".join(map("-".join, self.disks))
        return "-".join([self.kernel, disks, self.firmware, self.cpu.replace(",", "_"), size])

    @property
    def pairs(self) -> set[tuple[str, str]]:
        """The pairs of which each must occur: (kernel, controller), (kernel, volume), (volume, firmware)."""
        each = {((self.kernel, c), (self.kernel, v), (v, self.firmware)) for c, v in self.disks}
        return {pair for three in each for pair in three}


# The default run's: each volume once, on an ordinary kernel and on the newest, there on a processor without RDRAND and
# AES-NI.
SUBSET = (
    Row("6.12-generic", "megasas", "lvm", "bios", beside=(
        ("pvscsi", "btrfs"), ("lsi53c895a", "md-1.2"), ("usb-uas", "ext4"), ("sd-card", "partition"),
    )),
    Row("newest", "nvme", "xfs", "uefi", cpus=1, cpu="Nehalem", beside=(
        ("ahci", "thin"), ("virtio-scsi", "luks"), ("virtio-blk", "ext4"),
    )),
)  # fmt: skip


def _with_lists(*controllers: str) -> tuple[tuple[str, str], ...]:
    return tuple(zip(controllers, LISTS, strict=True))


# What the pairs do not bring: network cards, sizes, a machine without a serial port, and volumes that one kernel
# is enough for.
OTHERS = (
    Row("6.12-generic", "e1000", SSH, "bios", report=True),
    Row("6.1-generic", "e1000e", SSH, "uefi", report=True),
    Row("newest-generic", "rtl8139", SSH, "bios", report=True),
    Row("6.12-generic", "vmxnet3", SSH, "bios"),
    Row("6.1-generic", "pcnet", SSH, "bios"),
    Row("6.12-generic", "usb-net", SSH, "bios"),
    Row("newest", "virtio-net", SSH, "uefi"),
    Row("6.12-generic", "ahci", "ext4", "bios", serial=False),
    Row("newest", "virtio-blk", "ext4", "uefi", serial=False),
    Row("6.1", "virtio-blk", "ext4", "bios", cpus=1, memory=512, crashkernel="160M"),
    Row("6.12-generic", "nvme", "ext4", "uefi", cpus=8, memory=8192),
    Row("newest-generic", "virtio-scsi", "ext4", "bios", cpus=16, memory=16384, numa=2),
    Row("6.12-generic", "virtio-scsi", "md-0.90", "bios"),
    Row("6.12-generic", "virtio-scsi", "btrfs-2", "bios"),
    Row("newest-generic", "nvme", "btrfs-2", "uefi"),
    Row("6.12-generic", "virtio-scsi", "multipath", "bios"),
    Row("6.12-generic", "virtio-net", "iscsi", "bios"),
    Row("newest-generic", "e1000e", "iscsi", "uefi"),
    Row("6.12-generic", "virtio-net", "nvme-tcp", "bios"),
    Row("newest-generic", "virtio-net", "nvme-tcp", "uefi"),
    Row("6.12-generic", "virtio-blk", "unmounted", "bios"),
    Row("6.12-generic", "virtio-scsi", "bcache", "bios", beside=_with_lists("virtio-blk", "nvme", "ahci")),
    Row("newest-generic", "ahci", "bcache", "uefi", beside=_with_lists("nvme", "virtio-scsi", "virtio-blk")),
    Row("6.1-generic", "nvme", "bcache", "bios", beside=_with_lists("ahci", "virtio-blk", "virtio-scsi")),
    *(Row("6.12-generic", "virtio-scsi", volume, "bios") for volume in REFUSED),
    *(Row("newest-generic", "virtio-blk", volume, "bios") for volume in REFUSED),  # kernels name and show them anew
    *(Row("newest", "virtio-blk", "ext4", "bios", cpu=cpu) for cpu in OLD),
)


CHOICES = tuple(
    Row(*choice)
    for choice in product(KERNELS, CONTROLLERS, VOLUMES, FIRMWARE)
    if not (choice[1] == "ide" and choice[3] == "uefi")  # QEMU starts the older machine, which has it, by BIOS only
)
WANTED = {pair for row in (*CHOICES, *OTHERS) for pair in row.pairs}
DISKS = 5  # of one machine


def covering(possible: Callable[[str, str], bool], begin: Iterable[Row] = SUBSET) -> list[Row]:
    """Rows in which every pair occurs that is `possible(kernel, controller)`: greedily, each adds as many as it can."""
    choices = [row for row in CHOICES if possible(row.kernel, row.controller)]
    rows = [row for row in begin if possible(row.kernel, row.controller)]
    missing = {pair for row in choices for pair in row.pairs} - {pair for row in rows for pair in row.pairs}
    while missing:
        best = max(choices, key=lambda row: len(missing & row.pairs))
        missing -= best.pairs
        while len(best.disks) < DISKS:
            more = max(choices, key=lambda row: len(missing & row.pairs) if _goes_with(row, best) else 0)
            if not missing & more.pairs or not _goes_with(more, best):
                break
            missing -= more.pairs
            best = best._replace(beside=(*best.beside, *more.disks))
        rows.append(best._replace(**REST[len(rows) % len(REST)]))  # type: ignore[arg-type]
    return rows


def _goes_with(row: Row, other: Row) -> bool:
    """Whether a machine can have the disks of both: no two alike, and one board."""
    controllers, volumes = zip(*row.disks, *other.disks, strict=True)
    alike = len(set(controllers)) < len(controllers) or len(set(volumes)) < len(volumes)
    return row.kernel == other.kernel and row.firmware == other.firmware and not alike and not {*controllers} >= BOARDS


def every(possible: Callable[[str, str], bool], tried: Iterable[Row] = ()) -> list[Row]:
    """All machines: first the OTHERS, of which each is the only one of its kind. What was `tried` counts as chosen.

    So do the OTHERS, except those that are refused: their disks' drivers were never used.
    """
    others = [row for row in OTHERS if possible(row.kernel, row.controller)]
    chosen = (*SUBSET, *tried, *(row for row in others if row.volume not in REFUSED and row.cpu not in OLD))
    return list(dict.fromkeys((*others, *covering(possible, dict.fromkeys(chosen)))))


def by_gain(rows: Iterable[Row], tried: Iterable[Row], cost: Callable[[Row], Any]) -> list[Row]:
    """`rows`, those first that bring most pairs that none of `tried` and of the rows before has; then the cheap ones.

    So a run that ends early leaves as few pairs open as it can.
    """
    left = sorted(rows, key=cost)
    have = {pair for row in tried for pair in row.pairs}
    ordered: list[Row] = []
    while left:
        best = max(left, key=lambda row: len(row.pairs & WANTED - have))
        left.remove(best)
        have |= best.pairs
        ordered.append(best)
    return ordered
