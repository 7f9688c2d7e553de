"""Copies of disks under the targets, as udev's database tells of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdump.errors import KdumpError
from kdump.host.copies import refuse_copies
from kdump.host.storage import Layer, Storage
from kdump.targets.protocol import Spec

FS, PARTITION, PV = "11111111-2222-4333-8444-555555555509", "0b9d9f5c-01", "yBCjN4-x4Nn-XXXX-XXXX-XXXX-XXXX-qw3rty"
SDA, SDB = Layer("sda", "8:0", "disk"), Layer("sdb", "8:16", "disk")
SDA1, SDA3 = (Layer(f"sda{n}", f"8:{n}", "partition", beneath=("sda",)) for n in (1, 3))
SDB1 = Layer("sdb1", "8:17", "partition", beneath=("sdb",))
MAP = Layer("dm-0", "253:0", "multipath", "mpatha", "mpath-x", ("sda",))
VOLUME = Layer("dm-1", "253:1", "lvm", "vg-other", "LVM-x", ("sdb1",))
LAYERS = {
    "8:1": (SDA1, SDA),
    "8:3": (SDA3, SDA),
    "8:17": (SDB1, SDB),
    "253:0": (MAP, SDA),
    "253:1": (VOLUME, SDB1, SDB),
}
FILE = Spec("file:///var/crash", {"uuid": FS})


def look(
    database: Path, spec: Spec, ours: tuple[Layer, ...], made: tuple[dict[str, Any], ...] = (), wwid: str = ""
) -> None:
    def walk(device: str) -> Storage:
        if device not in LAYERS:
            raise KdumpError(f"no block device {device}")
        return Storage(LAYERS[device], (), ())

    refuse_copies([spec], made, ours, database=database, walk=walk, identity=lambda name: wwid or name)


def udev(directory: Path, **found: str) -> Path:
    (directory / "c1:3").write_text("E:ID_FS_UUID=no disk\n")
    (directory / "n2").write_bytes(b"\xff\xfe")
    for device, line in found.items():
        (directory / device.replace("_", ":")).write_bytes(
            f"S:disk/by-uuid/x\nI:17\nE:{line}\nE:X=\xff\n".encode("latin-1")
        )
    return directory


@pytest.mark.parametrize("copy", ["b8_17", "b8_3"])
def test_a_copy_on_another_partition_is_refused(copy: str, tmp_path: Path) -> None:
    database = udev(tmp_path, b8_1=f"ID_FS_UUID={FS}", **{copy: f"ID_FS_UUID={FS.upper()}"})
    with pytest.raises(KdumpError, match=r"is a copy of a disk under the target file:///var/crash"):
        look(database, FILE, (SDA1, SDA))


def test_what_is_no_copy(tmp_path: Path) -> None:
    """The device itself, one that went away, a volume that only the running system has, another path to the disk."""
    database = udev(
        tmp_path, b8_1=f"ID_FS_UUID={FS}", b9_9=f"ID_FS_UUID={FS}", b253_1=f"ID_FS_UUID={FS}", b253_0=f"ID_FS_UUID={FS}"
    )
    look(database, FILE, (SDA1, SDA))
    look(udev(tmp_path, b8_17=f"ID_FS_UUID={FS}"), FILE, (SDA1, SDA), wwid="naa.1")
    look(tmp_path / "none", FILE, (SDA1, SDA))


def test_partitions_and_volumes_are_looked_at_by_what_they_are_found_by(tmp_path: Path) -> None:
    block = Spec("block:///dev/disk/by-partuuid/0b9d9f5c-01", {"partuuid": PARTITION})
    with pytest.raises(KdumpError, match=PARTITION):
        look(udev(tmp_path, b8_17=f"ID_PART_ENTRY_UUID={PARTITION}"), block, (SDA1, SDA))
    volume = {"name": "vg-crash", "uuid": "LVM-x", "table": [[0, 2048, "linear", f"<{PV}> 384"]]}
    named = Spec("file:///var/crash", {"uuid": FS, "volume": "vg-crash"})
    look(udev(tmp_path, b8_17=f"ID_FS_UUID={FS}"), named, (SDA1, SDA), (volume,))
    with pytest.raises(KdumpError, match="under the volume vg-crash"):
        look(udev(tmp_path, b8_17=f"ID_FS_UUID={PV}"), named, (SDA1, SDA), (volume,))


def test_a_partition_of_an_arrays_disk_shows_what_the_array_holds(tmp_path: Path) -> None:
    array = Layer("md0", "9:0", "md", "raid1", beneath=("sda", "sdb"), metadata="1.0")
    ours = (Layer("md0p1", "259:0", "partition", beneath=("md0",)), array, SDA, SDB)
    look(udev(tmp_path, b8_1=f"ID_FS_UUID={FS}", b8_17=f"ID_FS_UUID={FS}"), FILE, ours)
