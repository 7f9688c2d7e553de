"""Crash directories under attack: as nobody, in a directory where everybody may write, against root's commands."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.dump.machine import PageMachine, fill

from kdump.cli.main import main
from kdump.errors import KdumpError
from kdump.files.digest import Pieces
from kdump.files.directory import Directory, read_regular
from kdump.host import aftermath, drill, in_force, stored
from kdump.host.config import Config, Notify, Retention
from kdump.targets.file import DirectorySession
from kdump.targets.retention import older

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be nobody as well")

NOBODY = 65534
LOG = "[1.0] BUG: kernel NULL pointer dereference, address: 0000000000000040\n[1.1] Kernel panic - not syncing: Fatal\n"
NAME = "h-20261123T120000Z-{:04x}"


@pytest.fixture(scope="module")
def vmcore(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    machine = PageMachine("6.12")
    fill(machine, 1024)
    path = tmp_path_factory.mktemp("dump")
    (path / "elf").write_bytes(machine.elf())
    assert main(["save", str(path / "elf"), str(path / "vmcore")]) == 0
    return (path / "vmcore").read_bytes()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """/var/crash as distributions have it: everybody may make directories."""
    everything = Path(tempfile.gettempdir())
    for each in (tmp_path, *tmp_path.parents):
        if everything in each.parents:  # pytest's own directories are for root alone
            each.chmod(0o755)
    path = tmp_path / "crash"
    path.mkdir()
    path.chmod(0o1777)
    return path


@pytest.fixture
def settings(place: Path) -> Config:
    return Config(targets=(f"file://{place}",), retention=Retention(keep=0, min_free=0))


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Do as nobody."""
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def crash(place: Path, number: int, vmcore: bytes = b"", *, when: float = 0) -> Path:
    """A complete crash, made by whoever is at work now."""
    path = place / NAME.format(number)
    path.mkdir(mode=0o700)
    entries = []
    for name, data in {"vmcore-dmesg.txt": LOG.encode(), "vmcore": vmcore}.items():
        (path / name).write_bytes(data)
        pieces = Pieces()
        pieces.add(0, data)
        entries.append({"name": name, **pieces.describe()})
    manifest = {
        "format": "kdump-manifest/1", "status": "complete", "host": "h", "panic_time": when or time.time() - 3600,
        "files": entries,
    }  # fmt: skip
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def deal(settings: Config, tmp_path: Path) -> list[aftermath.Examined]:
    return list(aftermath.deal_with_new(settings, tmp_path / "state"))


@pytest.mark.parametrize("name", [aftermath.REPORT, stored.FULL_REPORT])
def test_a_link_planted_in_a_crash_of_nobodys_makes_root_write_nowhere(
    name: str, place: Path, settings: Config, vmcore: bytes, tmp_path: Path
) -> None:
    """From "nobody" to root: report-full.txt -> /etc/cron.d/owned."""
    (tmp_path / "cron.d").mkdir()
    with nobody():
        path = crash(place, 1, vmcore)
        (path / name).symlink_to(tmp_path / "cron.d/owned")
    (found,) = deal(settings, tmp_path)
    assert found.problems == (f"foreign, and left alone: owned by user {NOBODY}",)
    assert list((tmp_path / "cron.d").iterdir()) == []
    assert deal(settings, tmp_path) == []  # it is said once


@pytest.mark.parametrize("name", [aftermath.REPORT, stored.FULL_REPORT])
def test_nor_does_a_link_in_a_crash_of_roots(
    name: str, place: Path, settings: Config, vmcore: bytes, tmp_path: Path
) -> None:
    (tmp_path / "cron.d").mkdir()
    path = crash(place, 1, vmcore)
    (path / name).symlink_to(tmp_path / "cron.d/owned")
    deal(settings, tmp_path)
    assert list((tmp_path / "cron.d").iterdir()) == []


def test_root_s_own_crash_gets_its_report(place: Path, settings: Config, vmcore: bytes, tmp_path: Path) -> None:
    path = crash(place, 1, vmcore)
    deal(settings, tmp_path)
    assert (path / aftermath.REPORT).exists() and (path / stored.FULL_REPORT).exists()
    assert stat.S_IMODE((path / aftermath.REPORT).stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_directory_in_which_others_may_write_is_foreign(
    mode: int, place: Path, settings: Config, vmcore: bytes, tmp_path: Path
) -> None:
    path = crash(place, 1, vmcore)
    path.chmod(mode)
    (found,) = deal(settings, tmp_path)
    assert found.problems[0].startswith("foreign, and left alone: others may write in it")
    assert not (path / aftermath.REPORT).exists()
    with Directory.open(path) as directory, pytest.raises(PermissionError):
        directory.write("x", b"x")


def test_foreign_crashes_are_listed_as_such_and_do_not_count(
    place: Path, settings: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = crash(place, 1)
    with nobody():
        for number in range(2, 7):
            crash(place, number, when=time.time() + 60 * number)
    assert main(["list", str(place)]) == 0
    assert capsys.readouterr().out.count(f"FOREIGN: owned by user {NOBODY}") == 5
    rules = Retention(keep=1, max_age=60, max_size=1, min_free=1 << 60)
    assert stored.victims(stored.scan([place]), rules, 0) == []  # root's is the only one
    begun = drill.Drill(time.time() - 7200, "another boot")
    monkeypatch.setattr(drill, "BOOT_ID", "boot_id")
    (tmp_path / "boot_id").write_text("this boot")
    found = drill.check(begun, settings, tmp_path)
    assert found.crash and found.crash.path == real


HANGS: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "device": lambda path: os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5)),
    "directory": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path.name),
    "huge": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 1 << 40),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
}


@pytest.mark.parametrize("kind", [*HANGS])
@pytest.mark.parametrize("name", ["manifest.json", "report.json", "report-full.json", "vmcore-dmesg.txt", "vmcore"])
def test_what_is_no_regular_file_of_bounded_size_stops_nobody(
    name: str, kind: str, place: Path, settings: Config, tmp_path: Path
) -> None:
    crash(place, 1)
    bad = crash(place, 2)
    (bad / name).unlink(missing_ok=True)
    HANGS[kind](bad / name)
    ended = []

    def work() -> None:
        ended.append(main(["list", str(place)]))
        ended.append(main(["verify", str(bad)]))
        ended.append(len(deal(settings, tmp_path)))
        ended.append(len(stored.victims(stored.scan([place]), Retention(keep=1), 1 << 60)))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), f"it hangs after {ended}"
    assert ended[0] == 0 and ended[2] == 2


def test_deep_and_wide_trees_are_bounded(place: Path) -> None:
    with nobody():
        path = crash(place, 1)
        inside = path
        for _ in range(100):
            inside = inside / "d"
            inside.mkdir()
    began = time.monotonic()
    (found,) = stored.scan([place])
    assert found.foreign and time.monotonic() - began < 5
    with Directory.open(place) as parent, pytest.raises(OSError, match="too deeply"):
        parent.remove(path.name)


def test_what_is_removed_is_what_was_looked_at(place: Path, tmp_path: Path) -> None:
    """Links are removed, not followed; and a crash that became somebody else's meanwhile stays."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    path = crash(place, 1)
    (path / "link").symlink_to(precious)
    (path / "sub").mkdir()
    (path / "sub/up").symlink_to("..")
    found = stored.read(path)
    stored.remove(found)
    assert (precious / "file").exists() and not path.exists()
    other = stored.read(crash(place, 2))
    os.chown(other.path, NOBODY, NOBODY)
    with pytest.raises(KdumpError, match="is not deleted"):
        stored.remove(other)
    shutil.rmtree(other.path)
    other.path.symlink_to(precious)
    with pytest.raises(KdumpError, match="cannot be deleted"):
        stored.remove(other)
    assert (precious / "file").exists()


def test_a_directory_that_is_exchanged_is_not_written_to(place: Path, vmcore: bytes, tmp_path: Path) -> None:
    """What was opened stays the same, whoever renames what in a directory without the sticky bit."""
    place.chmod(0o777)
    path = crash(place, 1, vmcore)
    victim = tmp_path / "victim"
    victim.mkdir()
    with Directory.open(place) as parent, parent.enter(path.name) as directory:
        with nobody():
            path.rename(place / "away")
            path.symlink_to(victim)
        assert list(aftermath.report(directory)) == []
    assert list(victim.iterdir()) == []
    assert (place / "away" / aftermath.REPORT).exists()


def test_the_capture_kernel_neither_enters_nor_counts_what_others_made(place: Path) -> None:
    ours, next_one = NAME.format(1), NAME.format(2)
    for name in (ours, NAME.format(9)):
        DirectorySession(str(place), name).close()
    with nobody():
        for number in range(3, 8):
            crash(place, number)
        (place / next_one).mkdir()
        (place / NAME.format(8)).symlink_to("/etc")
    for name in (next_one, NAME.format(3)):
        with pytest.raises(KdumpError, match=f"owned by user {NOBODY}"):
            DirectorySession(str(place), name)
    with pytest.raises(OSError, match="Not a directory"):
        DirectorySession(str(place), NAME.format(8))
    session = DirectorySession(str(place), ours)  # a second attempt goes on in its own
    assert older(session.names(), ours) == [NAME.format(9)]
    assert session.prune(2, 0) == []


def test_only_regular_files_are_read_and_only_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    assert read_regular(tmp_path / "file", 100) == b"x" * 100
    with pytest.raises(OSError, match="more than 99 bytes"):
        read_regular(tmp_path / "file", 99)
    with Directory.open(tmp_path) as directory:
        for name in ("", ".", "..", "a/b", "a\0b"):
            with pytest.raises(OSError, match="is not the name"):
                directory.read(name)


def test_a_prune_that_was_killed_is_ended_by_the_next(place: Path) -> None:
    crash(place, 1)
    doomed = crash(place, 2)
    doomed.rename(place / f".deleting-{doomed.name}")
    with nobody():
        (place / ".deleting-other").mkdir()
    list(stored.prune(Config(targets=(f"file://{place}",), retention=Retention(keep=0, min_free=0))))
    assert {path.name for path in place.iterdir()} == {NAME.format(1), ".deleting-other"}


def test_collect_as_root_runs_by_it(
    place: Path, settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole command, with somebody's crash in front of the real one."""
    with nobody():
        crash(place, 1, when=time.time() - 7200)
    crash(place, 2)
    told = tmp_path / "told"
    notify = Notify(command=("/bin/sh", "-c", f"cat >> {told}"))
    monkeypatch.setattr(
        in_force, "load", lambda *_: Config(targets=settings.targets, retention=settings.retention, notify=notify)
    )
    monkeypatch.setattr("kdump.host.home.settled", lambda: tmp_path / "state")
    assert main(["collect", "--new"]) == 3
    out = capsys.readouterr().out
    assert "foreign, and left alone" in out
    assert json.loads(told.read_text())["crash"] == NAME.format(2)
