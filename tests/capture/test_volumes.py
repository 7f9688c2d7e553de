"""bcache devices, origins of snapshots, and the whole among what it is made of; real ones are machines of
docs/machines.md.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from kdump.capture import bcache, devicemapper
from kdump.errors import KdumpError
from kdump.targets import devices
from kdump.targets.devices import find_uuid
from kdump.targets.superblock import Content, recognise


def disk(sysfs: Path, name: str, **files: str) -> Path:
    place = sysfs / "class/block" / name
    (place / "holders").mkdir(parents=True)
    (place / "size").write_text("2048\n")
    for file, text in files.items():
        path = place / file.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return place


def test_disks_of_bcache_are_registered_until_the_device_is_there(tmp_path: Path) -> None:
    cached, cache = disk(tmp_path, "vda"), disk(tmp_path, "vdb")
    (cache / "bcache").mkdir()  # an earlier attempt got so far
    device = disk(tmp_path, "bcache3", bcache__writeback_running="1")
    register = tmp_path / "fs/bcache/register"
    register.parent.mkdir(parents=True)
    register.write_text("")
    said: list[str] = []

    def kernel() -> None:
        while register.read_text() != "/dev/vda":
            pass
        (cached / "holders/bcache3").symlink_to(device)

    thread = threading.Thread(target=kernel, daemon=True)
    thread.start()
    paths = {"one": "/dev/vda", "two": "/dev/vdb"}
    volume = {"bcache": ["one", "two"], "name": "bcache0"}
    bcache.assemble(volume, paths.__getitem__, 30, said.append, str(tmp_path))
    assert said == ["bcache bcache3: 2 disks"]
    assert (device / "bcache/writeback_running").read_text() == "0"
    (cached / "holders/bcache3").unlink()
    with pytest.raises(KdumpError, match="the bcache device bcache0 does not start"):
        bcache.assemble(volume, paths.__getitem__, 0, said.append, str(tmp_path))


def test_an_origin_is_not_used_without_its_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written to without them, it would change what they show."""
    monkeypatch.setattr(devicemapper, "is_active", lambda name: name == "vg-good")
    made: list[str] = []
    monkeypatch.setattr(devicemapper, "create", lambda name, _uuid, _table: made.append(name))
    volume = {"name": "vg-crash", "uuid": "LVM-x", "table": [], "needs": ["vg-good", "vg-full"]}
    with pytest.raises(KdumpError, match="vg-crash cannot be used without its snapshots vg-full"):
        devicemapper.assemble(volume, str, print)
    assert not made
    devicemapper.assemble(volume | {"needs": ["vg-good"]}, str, print)
    assert made == ["vg-crash"]


def test_of_devices_with_one_content_the_whole_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror's half, the disk below a cache and a snapshot's origin carry the same UUID."""
    half = disk(tmp_path, "dm-0", dm__name="vg-crash_rimage_0")
    whole = disk(tmp_path, "dm-2", dm__name="vg-crash")
    disk(tmp_path, "sda")
    (half / "holders/dm-2").symlink_to(whole)
    monkeypatch.setattr(devices, "identify", lambda _path: Content("ext4", "ABCD"))
    around = str(tmp_path), "/dev"
    assert find_uuid("abcd", *around) == "/dev/dm-2"
    assert find_uuid("abcd", *around, volume="vg-crash_rimage_0") == "/dev/dm-0"
    # The volume could not be put together: nothing else is taken for it.
    assert find_uuid("abcd", *around, volume="vg-gone") is None
    assert find_uuid("other", *around) is None


def test_a_disk_of_bcache_is_known_by_its_own_uuid() -> None:
    head = bytearray(8192)
    head[1024 + 0x38 : 1024 + 0x3A] = b"\x53\xef"  # a file system that was there before
    head[4096 + 24 : 4096 + 40] = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
    head[4096 + 40 : 4096 + 56] = bytes(range(16))
    head[4096 + 72 : 4096 + 76] = b"fast"
    assert recognise(bytes(head)) == Content("bcache", "00010203-0405-0607-0809-0a0b0c0d0e0f", "fast")
