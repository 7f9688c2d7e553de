from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from tests.targets.servers import may_mount, small_filesystem

from kdump.errors import KdumpError
from kdump.targets import target_for
from kdump.targets.file import DirectorySession, FileTarget
from kdump.targets.mountinfo import mount_of
from kdump.targets.protocol import Ground, Spec


def ground(tmp_path: Path, mounted: list[tuple[str, ...]]) -> Ground:
    """Ground on which mounting is remembered instead of done; devices are files."""
    (tmp_path / "sys/class/block").mkdir(parents=True, exist_ok=True)
    return Ground(
        mount=lambda source, where, fstype, _flags, options: mounted.append((source, where, fstype, options)),
        unmount=lambda where, _flags: mounted.append(("gone", where)),
        say=lambda _: None,
        remaining=lambda: 0.3,
        run=str(tmp_path / "run"),
        dev=str(tmp_path / "dev"),
        sysfs=str(tmp_path / "sys"),
    )


def add_disk(tmp_path: Path, name: str, content: bytes) -> None:
    entry = tmp_path / "sys/class/block" / name
    entry.mkdir(parents=True)
    (entry / "size").write_text("2048\n")
    (tmp_path / "dev").mkdir(exist_ok=True)
    (tmp_path / "dev" / name).write_bytes(content)


XFS = b"XFSB" + bytes(28) + bytes(range(16)) + bytes(4096)
XFS_UUID = "00010203-0405-0607-0809-0a0b0c0d0e0f"


def test_a_file_is_incomplete_until_sealed(tmp_path: Path) -> None:
    session = DirectorySession(str(tmp_path), "web1-x")
    stream = session.create("vmcore")
    stream.skip(4)
    stream.write(b"body")
    stream.pwrite(b"head", 0)
    incomplete = tmp_path / "web1-x/vmcore.incomplete"
    assert stat.S_IMODE(incomplete.stat().st_mode) == 0o600
    assert stat.S_IMODE(incomplete.parent.stat().st_mode) == 0o700
    stream.seal()
    assert (tmp_path / "web1-x/vmcore").read_bytes() == b"headbody"
    assert not incomplete.exists()


def test_an_aborted_file_stays_incomplete(tmp_path: Path) -> None:
    stream = DirectorySession(str(tmp_path), "c").create("vmcore")
    stream.write(b"some")
    stream.abort()
    stream.abort()
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"vmcore.incomplete", "manifest.json.incomplete"}


def test_large_writes_are_pushed_out_and_whole(tmp_path: Path) -> None:
    stream = DirectorySession(str(tmp_path), "c").create("vmcore")
    block = os.urandom(1 << 20)
    for number in range(20):
        assert stream.write(bytes([number]) + block[1:]) == 1 << 20
    stream.seal()
    data = (tmp_path / "c/vmcore").read_bytes()
    assert [data[n << 20] for n in range(20)] == list(range(20))


def test_the_file_system_is_found_by_uuid_and_mounted(tmp_path: Path) -> None:
    add_disk(tmp_path, "vda", bytes(8192))
    add_disk(tmp_path, "vdb", XFS)
    mounted: list[tuple[str, ...]] = []
    spec = Spec("file:///var/crash", {"uuid": XFS_UUID, "fstype": "xfs", "options": "nouuid", "path": "/lib/crash"})
    session = target_for(spec).open("web1-x", ground(tmp_path, mounted))
    where = f"{tmp_path}/run/{XFS_UUID}"
    assert mounted == [(f"{tmp_path}/dev/vdb", where, "xfs", "nouuid")]
    assert session.where == "/var/crash/web1-x"
    assert Path(where, "lib/crash/web1-x").is_dir()
    session.close()
    session.close()
    assert mounted[1:] == [("gone", where)]


def test_a_device_that_does_not_come_is_an_error_that_lists_what_is_there(tmp_path: Path) -> None:
    add_disk(tmp_path, "vdb", XFS)
    spec = Spec("file:///x", {"uuid": "missing", "fstype": "ext4"})
    with pytest.raises(KdumpError) as caught:
        target_for(spec).open("c", ground(tmp_path, []))
    assert "missing did not appear" in str(caught.value)
    assert XFS_UUID in str(caught.value)


def test_unmounted_again_if_the_directory_cannot_be_made(tmp_path: Path) -> None:
    add_disk(tmp_path, "vdb", XFS)
    mounted: list[tuple[str, ...]] = []
    spec = Spec("file:///x", {"uuid": XFS_UUID, "fstype": "xfs", "path": "/occupied"})
    where = tmp_path / "run" / XFS_UUID
    where.mkdir(parents=True)
    (where / "occupied").write_text("a file")
    with pytest.raises(OSError, match="occupied"):
        target_for(spec).open("c", ground(tmp_path, mounted))
    assert mounted[-1] == ("gone", str(where))


TABLE = """\
1 0 254:1 / / rw,relatime - ext4 /dev/root rw,errors=remount-ro
2 1 254:2 /@var /var rw shared:1 - btrfs {device} rw,subvolid=256,subvol=/@var
3 1 0:20 / /tmp rw - tmpfs tmpfs rw
4 1 254:3 / /with\\040space rw - vfat {device} rw
5 1 254:3 / /ro ro - ext4 {device} ro
"""


def test_the_mount_of_a_directory(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE.format(device="/dev/none"))
    found = mount_of("/var/crash", str(table))
    assert (found.source, found.fstype, found.path, found.filesystem_options) == (
        "/dev/none", "btrfs", "/@var/crash", "subvolid=5",
    )  # fmt: skip
    assert mount_of("/with space/x", str(table)).fstype == "vfat"
    assert mount_of("/srv", str(table)).path == "/srv"


@pytest.mark.skipif(not may_mount(), reason="needs root to mount a small file system")
def test_a_mount_that_another_one_hides_is_not_the_directorys(tmp_path: Path) -> None:
    with small_filesystem(tmp_path / "var/crash", "1m"):
        assert mount_of(f"{tmp_path}/var/crash/x").path == "/x"
        with small_filesystem(tmp_path / "var", "1m"):
            assert mount_of(f"{tmp_path}/var/crash/x").path == "/crash/x"


def test_the_check_refuses_what_cannot_hold_a_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE.format(device="/dev/none"))
    real = mount_of
    monkeypatch.setattr("kdump.targets.mountinfo.mount_of", lambda directory: real(directory, str(table)))
    for directory, reason in (
        ("/with space", "4 GiB"),
        ("/tmp/x", "gone after the reboot"),
        ("/ro", "no file system UUID"),
    ):
        with pytest.raises(KdumpError, match=reason):
            FileTarget(Spec(f"file://{directory}")).check()


@pytest.mark.skipif(not may_mount(), reason="needs root to mount a small file system")
def test_a_full_disk_still_takes_the_dumps_head_and_the_manifest(tmp_path: Path) -> None:
    with small_filesystem(tmp_path / "small", "2m") as small:
        session = DirectorySession(str(small), "c")
        stream = session.create("vmcore")
        stream.skip(1 << 20)
        with pytest.raises(OSError, match="No space left"):
            for _ in range(100):
                stream.write(os.urandom(100_000))
        stream.pwrite(b"h" * (1 << 20), 0)
        stream.abort()
        manifest = session.create("manifest.json")
        manifest.write(b"{}" * 1000)
        manifest.seal()
        assert (small / "c/manifest.json").read_bytes() == b"{}" * 1000
        dump = (small / "c/vmcore.incomplete").read_bytes()
        assert dump[: 1 << 20] == b"h" * (1 << 20)
        assert (len(dump) - (1 << 20)) % 100_000 == 0


@pytest.mark.skipif(not may_mount(), reason="needs root to mount a small file system")
def test_blocks_allocated_ahead_leave_no_room_unused(tmp_path: Path) -> None:
    with small_filesystem(tmp_path / "small", "60m") as small:
        session = DirectorySession(str(small), "c")
        stream = session.create("vmcore")
        for _ in range(200):
            stream.write(b"x" * 100_000)
        assert (small / "c/vmcore.incomplete").stat().st_blocks * 512 > 24_000_000
        with pytest.raises(OSError, match="No space left"):
            for _ in range(1000):
                stream.write(b"x" * 100_000)
        stream.abort()
        dump = (small / "c/vmcore.incomplete").stat()
        assert 60 * 2**20 - 1_000_000 < dump.st_size <= dump.st_blocks * 512 < dump.st_size + 100_000


def test_blocks_allocated_ahead_are_given_back(tmp_path: Path) -> None:
    stream = DirectorySession(str(tmp_path), "c").create("vmcore")
    for _ in range(101):
        stream.write(b"x" * 100_000)
    stream.seal()
    dump = (tmp_path / "c/vmcore").stat()
    assert dump.st_size == 10_100_000 and dump.st_blocks * 512 < 10_200_000


def test_a_file_system_that_cannot_allocate_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    class Library:
        def __init__(self, _name: None) -> None:
            pass

        def fallocate(self, *given: object) -> int:
            calls.append(given)
            return -1

    monkeypatch.setattr("ctypes.CDLL", Library)
    stream = DirectorySession(str(tmp_path), "c").create("vmcore")
    for _ in range(400):
        stream.write(b"x" * 100_000)
    stream.seal()
    assert len(calls) == 1 and (tmp_path / "c/vmcore").stat().st_size == 40_000_000


def test_a_file_begun_again_has_nothing_of_the_first(tmp_path: Path) -> None:
    session = DirectorySession(str(tmp_path), "c")
    first = session.create("vmcore")
    first.write(b"x" * 1000)
    first.abort()
    second = session.create("vmcore")
    second.write(b"y" * 10)
    second.seal()
    assert (tmp_path / "c/vmcore").read_bytes() == b"y" * 10


@pytest.mark.parametrize(("deadline", "found"), [(60.0, False), (180.0, True)])
def test_a_device_may_take_as_long_as_the_target_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deadline: float, found: bool
) -> None:
    """A SAN's disk that appears after two minutes. The clock is a made-up one: nothing waits."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + 100 * seconds))
    monkeypatch.setattr("kdump.targets.file.find_uuid", lambda _uuid, *_: "/dev/sda1" if now[0] - 1000 >= 120 else None)
    monkeypatch.setattr("kdump.targets.devices.contents", lambda *_: [])
    mounted: list[str] = []
    ground = Ground(
        lambda device, *_: mounted.append(device), lambda *_: None, lambda _: None, lambda: 1000 + deadline - now[0],
        run=str(tmp_path),
    )  # fmt: skip
    target = FileTarget(Spec("file:///d", {"uuid": "1234", "fstype": "ext4", "path": "/"}))
    if found:
        target.open("crash", ground)
        assert mounted == ["/dev/sda1"]
        return
    with pytest.raises(KdumpError, match="did not appear within 48 s"):
        target.open("crash", ground)
