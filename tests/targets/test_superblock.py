from __future__ import annotations

import struct
import subprocess
import uuid
from pathlib import Path

import pytest

from kdump.targets import devices
from kdump.targets.superblock import Content, identify, lvm_uuid, parts_elsewhere, recognise

UUID = "0b9d9f5c-3b8e-4a77-9a0c-d5a3b1c2e4f6"


@pytest.mark.parametrize("version", ["ext2", "ext3", "ext4"])
def test_ext_as_its_own_tool_makes_it(tmp_path: Path, version: str) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run([f"mkfs.{version}", "-q", "-F", "-U", UUID, "-L", "dumps", image], check=True, capture_output=True)
    assert identify(str(image)) == Content(version, UUID, "dumps")


def place(**pieces: bytes) -> bytes:
    head = bytearray(0x11000)
    for where, what in pieces.items():
        offset = int(where[1:], 16)
        head[offset : offset + len(what)] = what
    return bytes(head)


RAW = uuid.UUID(UUID).bytes
RAID = b"\xfc\x4e\x2b\xa9\x01".ljust(16, b"\0") + RAW + b"host:0".ljust(32, b"\0")


@pytest.mark.parametrize(("tail", "expected"), [(0, Content("linux_raid_member", UUID, "host:0")), (4096, None)])
def test_a_superblock_at_the_end_counts_where_it_says_that_it_is(
    tmp_path: Path, tail: int, expected: Content | None
) -> None:
    """Metadata 1.0: a disk whose last partition is a member ends like the member, but is not one itself."""
    sector = ((1 << 20) // 512 - 16) & ~7
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate((1 << 20) + tail)
        file.seek(sector * 512 + tail)
        file.write(RAID.ljust(144, b"\0") + sector.to_bytes(8, "little"))
    assert identify(str(image)) == expected


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 65535])
def test_metadata_090_lies_in_the_last_whole_block(tmp_path: Path, size: int) -> None:
    """The array's UUID is in two parts; the file system that the mirror's half begins with does not count."""
    image = tmp_path / "disk"
    words = struct.pack("<6I", 0xA92B4EFC, 0, 90, 0, 0, int.from_bytes(RAW[:4], "little")).ljust(52, b"\0") + RAW[4:]
    with image.open("wb") as file:
        file.write(place(x438=b"\x53\xef"))
        file.truncate(size)
        file.seek((1 << 20) - (64 << 10))
        file.write(words)
    assert identify(str(image)) == Content("linux_raid_member", UUID)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (place(x0=b"XFSB", x20=RAW, x6c=b"data"), Content("xfs", UUID, "data")),
        (place(x10040=b"_BHRfS_M", x10020=RAW, x1012b=b"pool"), Content("btrfs", UUID, "pool")),
        (place(x52=b"FAT32   ", x43=b"\x4d\x3c\x2b\x1aEFI        ", x1fe=b"\x55\xaa"), Content("vfat", "1A2B-3C4D", "EFI")),  # noqa: E501
        (place(x0=b"LUKS\xba\xbe", xa8=UUID.encode()), Content("crypto_LUKS", UUID)),
        (place(x1000=RAID, x438=b"\x53\xef"), Content("linux_raid_member", UUID, "host:0")),
        (place(x0=RAID), Content("linux_raid_member", UUID, "host:0")),
        (place(x0=b"\0"), None),
        (b"XFSB", None),
        (b"", None),
    ],
)  # fmt: skip
def test_signatures(head: bytes, expected: Content | None) -> None:
    assert recognise(head) == expected


def test_lvm_label_points_at_the_physical_volume() -> None:
    plain = "q0H6hWxYnT2v5ZdAkLmN3pR7sUb9cEfG"
    label = b"LABELONE" + bytes(12) + (32).to_bytes(4, "little") + b"LVM2 001" + plain.encode()
    assert recognise(place(x200=label)) == Content("LVM2_member", lvm_uuid(plain))
    assert lvm_uuid(plain) == "q0H6hW-xYnT-2v5Z-dAkL-mN3p-R7sU-b9cEfG"


def test_a_disk_that_ends_like_its_last_partition_is_no_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata 0.90 does not say where its member begins."""
    for place in ("sda", "sda/sda1", "sdb"):
        real = tmp_path / "devices" / place
        real.mkdir(parents=True)
        link = tmp_path / "class/block" / real.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(real)
    (tmp_path / "devices/sda/sda1/partition").write_text("1\n")
    found = [(f"/dev/{name}", Content("linux_raid_member", UUID)) for name in ("sda", "sdb", "sda1")]
    monkeypatch.setattr(devices, "contents", lambda *_: iter(found))
    assert devices.members(UUID, str(tmp_path)) == ["/dev/sdb", "/dev/sda1"]


@pytest.mark.parametrize(
    ("options", "part"), [([], ""), (["-l", "logdev={}"], "its log"), (["-r", "rtdev={}"], "its realtime section")]
)
def test_what_xfs_keeps_on_another_device(tmp_path: Path, options: list[str], part: str) -> None:
    image, other = tmp_path / "disk", tmp_path / "other"
    for path in (image, other):
        with path.open("wb") as file:
            file.truncate(320 << 20)
    words = [word.format(other) for word in options]
    subprocess.run(["mkfs.xfs", "-q", *words, image], check=True, capture_output=True)
    assert parts_elsewhere(str(image)) == part


def test_a_journal_on_another_device(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^metadata_csum", image], check=True, capture_output=True)
    assert not parts_elsewhere(str(image))
    with image.open("r+b") as file:
        file.seek(1024 + 0xE0)
        file.write(struct.pack("<II", 0, 0x811))
    told = subprocess.run(["dumpe2fs", "-h", image], check=True, capture_output=True, text=True).stdout
    assert "0x0811" in told
    assert parts_elsewhere(str(image)) == "its journal"
