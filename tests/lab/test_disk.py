"""Disk images made, listed, read, fetched and checked without root."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kdump.errors import KdumpError
from kdump.lab import disk

UUID = "01234567-89ab-cdef-0123-456789abcdef"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    content = tmp_path / "content"
    (content / "var/crash/one").mkdir(parents=True)
    (content / "var/crash/one/vmcore").write_bytes(bytes(range(256)) * 1000)
    (content / "var/crash/a name").write_text("text")
    return disk.create_ext4(tmp_path / "disk", 64 << 20, uuid=UUID, label="kdump", content=content)


def test_the_file_system_is_as_ordered_and_sparse(image: Path) -> None:
    assert image.stat().st_size == 64 << 20
    assert image.stat().st_blocks * 512 < 16 << 20
    said = subprocess.run(["blkid", "-p", "-o", "export", image], capture_output=True, text=True, check=True).stdout
    assert f"UUID={UUID}\n" in said
    assert "LABEL=kdump\n" in said
    assert "TYPE=ext4\n" in said
    assert disk.is_clean(image)


def test_files_come_out_as_they_went_in(image: Path, tmp_path: Path) -> None:
    assert disk.listing(image, "/var/crash") == {"one": 0, "a name": 4}
    assert disk.listing(image, "/nowhere") == {}
    assert disk.read(image, "/var/crash/a name") == b"text"
    fetched = disk.fetch(image, "/var/crash/one", tmp_path / "out")
    assert fetched == tmp_path / "out/one"
    assert (fetched / "vmcore").read_bytes() == bytes(range(256)) * 1000


def test_what_is_not_there_is_an_error(image: Path, tmp_path: Path) -> None:
    with pytest.raises(KdumpError, match="/no/file cannot be read"):
        disk.read(image, "/no/file")
    with pytest.raises(KdumpError, match="/no/file is not in the file system"):
        disk.fetch(image, "/no/file", tmp_path / "out")
    with pytest.raises(KdumpError, match=r"mkfs\.ext4 failed"):
        disk.create_ext4(tmp_path / "small", 64 << 20, uuid="no uuid")


def test_damage_is_found_and_repaired_or_reported(image: Path, tmp_path: Path) -> None:
    with image.open("r+b") as file:  # an inode table's start
        subprocess.run(["debugfs", "-w", "-R", "clri /var/crash/one", image], capture_output=True, check=True)
        file.flush()
    assert not disk.is_clean(image)
    disk.check(image)
    assert disk.is_clean(image)
    blank = disk.create(tmp_path / "blank", 1 << 20)
    with pytest.raises(KdumpError, match="is damaged"):
        disk.check(blank)
