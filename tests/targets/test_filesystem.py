"""fs:// targets: a file system named by UUID or label, mounted or not; what cannot take dumps is refused by name."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.targets.servers import may_mount

from kdump.errors import KdumpError
from kdump.lab import disk
from kdump.targets import filesystem, target_for
from kdump.targets.protocol import Spec
from kdump.targets.superblock import Content, identify

UUID = "11111111-2222-4333-8444-555555555508"
EXT4 = Content("ext4", UUID, "dumps")


def found(monkeypatch: pytest.MonkeyPatch, *pairs: tuple[str, Content]) -> None:
    """These are the machine's devices, none of them mounted; each can be mounted."""
    monkeypatch.setattr(filesystem, "contents", lambda: iter(pairs))
    monkeypatch.setattr(filesystem, "_mounted", lambda device: False)
    monkeypatch.setattr(filesystem, "_try_mount", lambda *arguments: None)
    monkeypatch.setattr(filesystem, "refuse_parts_elsewhere", lambda *arguments: None)


@pytest.mark.parametrize("name", [f"UUID={UUID}", f"UUID={UUID.upper()}", "LABEL=dumps"])
def test_found_by_uuid_or_label(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, ("/dev/vda", Content("xfs", "another", "DUMPS")), ("/dev/vdb", EXT4))
    spec = target_for(Spec(f"fs://{name}/crash/here")).check()
    assert spec.facts == {"uuid": UUID, "fstype": "ext4", "path": "/crash/here"}


def test_labels_are_percent_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, ("/dev/vda", EXT4._replace(label="a/b c")))
    assert target_for(Spec("fs://LABEL=a%2Fb%20c")).check().facts["path"] == "/"


@pytest.mark.parametrize("url", ["fs:///crash", "fs://dumps/crash", "fs://PARTUUID=1/crash", "fs://UUID=/crash"])
def test_other_names_are_refused(url: str) -> None:
    with pytest.raises(KdumpError, match="not a file system target"):
        target_for(Spec(url))


@pytest.mark.parametrize(
    ("devices", "why"),
    [
        ([], "no file system has LABEL=dumps"),
        ([("/dev/vda", EXT4), ("/dev/vdb", EXT4._replace(uuid="2"))], "not one file system"),
        ([("/dev/vda", EXT4._replace(fstype="vfat"))], "LABEL=dumps cannot take dumps"),
        ([("/dev/vda", EXT4._replace(fstype="crypto_LUKS"))], "LABEL=dumps cannot take dumps"),
    ],
)
def test_what_cannot_take_dumps(devices: list[tuple[str, Content]], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, *devices)
    with pytest.raises(KdumpError, match=why):
        target_for(Spec("fs://LABEL=dumps/crash")).check()


def test_the_array_comes_before_its_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, ("/dev/sda", EXT4), ("/dev/md0", EXT4))
    tried: list[str] = []
    monkeypatch.setattr(filesystem, "_try_mount", lambda device, *_: tried.append(device))
    target_for(Spec("fs://LABEL=dumps/crash")).check()
    assert tried == ["/dev/md0"]


def test_a_file_system_and_its_snapshot_are_not_confused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing says which one is meant; the file system that is found by its label could be the wrong one."""
    found(monkeypatch, ("/dev/dm-4", EXT4), ("/dev/dm-7", EXT4), ("/dev/sda", EXT4))
    names = {"/dev/dm-4": "vg-dumps", "/dev/dm-7": "vg-before"}
    monkeypatch.setattr(filesystem, "volume_name", lambda path: names.get(path, ""))
    with pytest.raises(KdumpError, match="LABEL=dumps is on several volumes: vg-before, vg-dumps"):
        target_for(Spec("fs://LABEL=dumps/crash")).check()
    del names["/dev/dm-7"]
    assert target_for(Spec("fs://LABEL=dumps/crash")).check().facts["uuid"] == UUID


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    """A real block device with ext4 on it."""
    image = disk.create_ext4(tmp_path / "image", 16 << 20, uuid=UUID, label="dumps")
    done = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=False)
    if not may_mount() or done.returncode:
        pytest.skip("no loop devices here")
    try:
        yield done.stdout.strip()
    finally:
        subprocess.run(["losetup", "--detach", done.stdout.strip()], check=True)


def test_it_is_mounted_for_the_check_without_a_write(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = identify(device)
    assert content
    monkeypatch.setattr(filesystem, "contents", lambda: iter([(device, content)]))
    before = Path(device).read_bytes()
    assert target_for(Spec(f"fs://UUID={UUID}/crash")).check().facts["uuid"] == UUID
    assert Path(device).read_bytes() == before
    with open(device, "r+b") as raw:  # the root directory's inode and its group go, the superblock stays
        raw.seek(2048)
        raw.write(bytes(64 << 10))
    subprocess.run(["blockdev", "--flushbufs", device], check=True)
    with pytest.raises(KdumpError, match="cannot take dumps") as caught:
        target_for(Spec(f"fs://UUID={UUID}/crash")).check()
    assert "cannot be mounted" in caught.value.why
