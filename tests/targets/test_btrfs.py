"""btrfs on several devices: counted from a real superblock, found in sysfs, waited for, refused if one is missing."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from kdump.errors import KdumpError
from kdump.targets import btrfs

UUID = "11111111-2222-4333-8444-555555555507"
MIB = 1 << 20


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """The devices of one file system, made by mkfs.btrfs."""
    paths = [tmp_path / "dev" / name for name in ("vda", "vdb")]
    paths[0].parent.mkdir()
    for path in paths:
        with path.open("wb") as file:
            file.truncate(256 * MIB)
    subprocess.run(["mkfs.btrfs", "-q", "-U", UUID, "-d", "raid0", "-m", "raid1", *paths], check=True)
    return paths


def sysfs_of(directory: Path, *names: str) -> str:
    """A sysfs that shows these block devices."""
    for name in names:
        place = directory / "sys/class/block" / name
        place.mkdir(parents=True)
        (place / "size").write_text("524288\n")
    return str(directory / "sys")


def test_the_superblock_says_how_many_devices_there_are(two: list[Path]) -> None:
    assert [btrfs.device_count(str(path)) for path in two] == [2, 2]
    with two[0].open("r+b") as file:
        file.seek(0x10000 + 0x88)
        file.write(struct.pack("<Q", 1 << 40))
    with pytest.raises(KdumpError, match=r"superblock of .*vda is damaged"):
        btrfs.device_count(str(two[0]))


def test_all_devices_are_told_to_the_kernel(two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dev/btrfs-control").touch()
    told: list[tuple[int, str]] = []

    def ioctl(_fd: int, code: int, arguments: bytearray) -> None:
        told.append((code, arguments[8:].rstrip(bytes(1)).decode()))

    # This machine's kernel must not hear of them: the lab's machines have the real call.
    monkeypatch.setattr("kdump.targets.btrfs.fcntl.ioctl", ioctl)
    btrfs.register(str(two[0]), UUID, 1.0, sysfs_of(tmp_path, "vda", "vdb"), str(tmp_path / "dev"))
    assert told == [(0x50009404, str(path)) for path in two]


def test_a_device_that_does_not_appear_is_said(two: list[Path], tmp_path: Path) -> None:
    with pytest.raises(KdumpError, match=UUID) as caught:
        btrfs.register(str(two[0]), UUID, 0.2, sysfs_of(tmp_path, "vda"), str(tmp_path / "dev"))
    assert "1 of its 2 devices are here" in caught.value.why


def test_copies_of_a_device_are_never_told_to_the_kernel(two: list[Path], tmp_path: Path) -> None:
    """It would take the last one for the file system's own. What lies below a cache counts for nothing."""
    copy = two[0].with_name("vdc")
    copy.symlink_to(two[0])
    sysfs = sysfs_of(tmp_path, "vda", "vdb", "vdc")
    with pytest.raises(KdumpError, match=UUID) as caught:
        btrfs.register(str(two[0]), UUID, 1.0, sysfs, str(tmp_path / "dev"))
    assert str(two[0]) in caught.value.why
    assert str(two[1]) not in caught.value.why
    (tmp_path / "sys/class/block/vdc/holders/dm-0").mkdir(parents=True)
    assert btrfs.present(UUID, sysfs, str(tmp_path / "dev")) == [str(path) for path in two]


@pytest.mark.parametrize("there", [0, 1])
def test_a_file_system_with_a_missing_device_is_refused(there: int, two: list[Path]) -> None:
    btrfs.require_all(["254:0", "254:16"], str(two[0]), "/crash")
    with pytest.raises(KdumpError, match="/crash cannot take dumps") as caught:
        btrfs.require_all(["254:0"][:there], str(two[0]), "/crash")
    assert f"{there} of the 2 devices" in caught.value.why


def test_mounted_devices_are_those_that_sysfs_links_to(tmp_path: Path) -> None:
    for name, number in (("vda", "254:0"), ("vdb", "254:16")):
        place = tmp_path / "fs/btrfs" / UUID / "devices" / name
        place.mkdir(parents=True)
        (place / "dev").write_text(number + "\n")
    assert btrfs.devices(UUID, tmp_path) == ["254:0", "254:16"]
    assert btrfs.devices("another", tmp_path) == []
