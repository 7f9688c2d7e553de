"""Undoing under attack: killed at any moment, files changed by hand, commands that fail, journals that lie."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kdump.errors import KdumpError
from kdump.files.directory import exclusive
from kdump.host import neighbours
from kdump.host.changes import Command, Edit, FileChange, Journal, apply, file_change, put, run_command, undo

OLD = {"etc/default/grub": 'GRUB_CMDLINE="quiet"\r\n# caf\udce9\n', "etc/fstab": "x\n"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in OLD.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return tmp_path / "root"


def edit(root: Path, number: int) -> Edit:
    return Edit(
        file_change("/etc/default/grub", f"GRUB_CMDLINE=crashkernel={number}\n", root)
        + file_change("/etc/kdump/kdump.toml", f"# secret {number}\n", root, 0o600)
        + file_change("/etc/systemd/system/a.d/b.conf", f"{number}\n", root),
        (Command(("update",), again=True), Command(("enable",), undo=("disable",))),
    )


def content(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_bytes().decode("utf-8", "surrogateescape")
        for path in root.rglob("*") if path.is_file()
    }  # fmt: skip


def nothing(_argv: Sequence[str]) -> None:
    """A command that works."""


def die_at(step: int) -> None:
    """From now on this process dies in the step-th call that changes what is on the disk."""
    count = iter(range(step))

    for name in ("rename", "unlink", "rmdir", "mkdir", "open", "pwrite", "fchmod"):
        real = getattr(os, name)

        def call(*args: object, real: object = real, name: str = name, **options: object) -> object:
            writes = name != "open" or (len(args) > 1 and int(str(args[1])) & os.O_CREAT)
            if writes and next(count, None) is None:
                os._exit(9)
            return real(*args, **options)  # type: ignore[operator]

        setattr(os, name, call)


@pytest.mark.parametrize("what", ["setup", "second setup", "undo"])
def test_killed_at_any_moment_all_can_be_taken_back(what: str, tmp_path: Path) -> None:
    """Every call that changes the disk is once the last one."""
    for step in range(1000):
        here = tmp_path / str(step)
        root = here / "root"
        for name, text in OLD.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        path = here / "state/setup.json"
        path.parent.mkdir()
        if what != "setup":
            apply(edit(root, 1), Journal.read(path), root, nothing)
        child = os.fork()
        if not child:
            try:
                die_at(step)
                if what == "undo":
                    undo(Journal.read(path), root, nothing)
                else:
                    apply(edit(root, 2), Journal.read(path), root, nothing)
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 9)
        assert undo(Journal.read(path), root, nothing) == []
        assert content(root) == OLD
        assert not (root / "etc/kdump").exists() and not (root / "etc/systemd").exists()
        assert list(path.parent.iterdir()) == []
        if status == 0:
            assert step > 10
            return
    pytest.fail("it never ended")


def test_what_was_changed_by_hand_is_remembered_until_it_can_be_taken_back(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "setup.json"
    apply(edit(root, 1), Journal.read(path), root, nothing)
    mine = root / "etc/default/grub"
    ours = mine.read_text()
    mine.write_text(ours + "mine\n")
    for _ in range(2):
        assert undo(Journal.read(path), root, nothing) == ["/etc/default/grub was changed since, and is left as it is"]
        assert mine.read_text() == ours + "mine\n"
        assert [entry["path"] for entry in Journal.read(path).files] == ["/etc/default/grub"]
    mine.write_text(ours)
    ran: list[Sequence[str]] = []
    assert undo(Journal.read(path), root, ran.append) == []
    assert ran == [["update"]]  # the boot loader's menu has to follow
    assert content(root) == OLD
    assert not path.exists()


def test_an_edit_between_two_setups_is_not_undone_with_them(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "setup.json"
    apply(edit(root, 1), Journal.read(path), root, nothing)
    (root / "etc/default/grub").write_text("mine\n")
    apply(edit(root, 2), Journal.read(path), root, nothing)
    assert undo(Journal.read(path), root, nothing) == [
        "/etc/default/grub was changed by hand between two setups, and is left as it is"
    ]
    (entry,) = Journal.read(path).files
    assert entry["before"] == OLD["etc/default/grub"]


def test_a_command_that_fails_is_tried_again(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "setup.json"
    apply(edit(root, 1), Journal.read(path), root, nothing)

    def broken(argv: Sequence[str]) -> None:
        raise KdumpError(f"`{argv[0]}` failed")

    assert undo(Journal.read(path), root, broken) == ["`disable` failed", "`update` failed"]
    assert content(root) == OLD
    ran: list[Sequence[str]] = []
    assert undo(Journal.read(path), root, ran.append) == []
    assert ran == [["disable"], ["update"]]
    assert not path.exists()


UNIT = "/etc/systemd/system/x.service"


def with_unit(root: Path) -> Edit:
    enable = Command(("enable", "x"), undo=("disable", "x"), needs=(UNIT,))
    return edit(root, 1) + Edit(file_change(UNIT, "[Service]\n", root), (enable,))


def fails_for(*words: str) -> Callable[[Sequence[str]], None]:
    def run(argv: Sequence[str]) -> None:
        if tuple(argv) == words:
            raise KdumpError(f"`{' '.join(argv)}` failed")

    return run


def test_what_an_undo_needs_is_kept_until_it_has_worked(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "setup.json"
    apply(with_unit(root), Journal.read(path), root, nothing)
    for _ in range(2):
        left = undo(Journal.read(path), root, fails_for("disable", "x"))
        assert left == ["`disable x` failed", f"{UNIT} is kept: `disable x` needs it"]
        assert content(root) == OLD | {UNIT[1:]: "[Service]\n"}
    ran: list[Sequence[str]] = []
    assert undo(Journal.read(path), root, ran.append) == []
    assert ran == [["disable", "x"], ["update"]]
    assert content(root) == OLD
    assert not path.exists()


def test_an_undo_whose_file_is_gone_is_done(root: Path, tmp_path: Path) -> None:
    """A package of a neighbour is purged, a unit removed by hand: there is nothing to take back any more."""
    path = tmp_path / "setup.json"
    apply(with_unit(root), Journal.read(path), root, nothing)
    (root / UNIT[1:]).unlink()
    assert undo(Journal.read(path), root, fails_for("disable", "x")) == []
    assert content(root) == OLD
    assert not path.exists()


def test_a_neighbours_hook_that_was_purged_stops_no_undo(root: Path, tmp_path: Path) -> None:
    hook = root / "etc/kernel/postinst.d/kdump-tools"
    hook.parent.mkdir(parents=True)
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    unit = root / "lib/systemd/system/kdump-tools.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n")

    def run(argv: Sequence[str]) -> None:
        if argv[0] == "chmod":
            run_command([*argv[:2], str(root) + argv[2]])

    path = tmp_path / "setup.json"
    (found,) = neighbours.edit(root)
    apply(found, Journal.read(path), root, run)
    assert not os.access(hook, os.X_OK)
    hook.unlink()
    assert undo(Journal.read(path), root, run) == []
    assert not path.exists()


def test_one_file_that_cannot_be_written_stops_no_other(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "setup.json"
    apply(edit(root, 1), Journal.read(path), root, nothing)
    broken = root / "etc/kdump/kdump.toml"
    broken.unlink()
    broken.mkdir()
    (left,) = undo(Journal.read(path), root, nothing)
    assert left.startswith("/etc/kdump/kdump.toml: ")
    assert (root / "etc/default/grub").read_bytes() == OLD["etc/default/grub"].encode("utf-8", "surrogateescape")


def test_a_secret_is_private_from_its_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts are looked at whenever something is written to a file."""
    seen: set[int] = set()
    real = os.pwrite

    def look(descriptor: int, data: bytes, offset: int) -> int:
        seen.add(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", look)
    before = os.umask(0)
    try:
        put(tmp_path / "kdump.toml", "webhook = secret", 0o600)
        (tmp_path / "kdump.toml").chmod(0o640)
        put(tmp_path / "kdump.toml", "webhook = secrets", 0o644)
    finally:
        os.umask(before)
    assert seen == {0o600}
    assert stat.S_IMODE((tmp_path / "kdump.toml").stat().st_mode) == 0o640


def test_a_link_stays_and_the_file_behind_it_changes(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    put(tmp_path / "link", "new", 0o644)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "null", '"x"', "[" * 100_000, '{"files": {}}', '{"files": [1]}', '{"files": [{"path": "/x"}]}',
        '{"files": [{"path": "x", "before": null, "after": null, "mode": 420}], "commands": []}',
        '{"files": [{"path": "/../x", "before": null, "after": null, "mode": 420}], "commands": []}',
        '{"files": [{"path": "/x", "before": 7, "after": null, "mode": 420}], "commands": []}',
        '{"files": [{"path": "/x", "before": null, "after": null, "mode": "0644"}], "commands": []}',
        '{"files": [], "commands": [{"argv": "rm", "undo": [], "again": true}]}',
        '{"files": [], "commands": [{"argv": [1], "undo": [], "again": true}]}',
        '{"files": [], "commands": [{"argv": ["a"], "undo": ["b"], "again": true, "needs": ["x"]}]}',
        '{"files": [], "commands": [{"argv": [], "undo": ["b"], "again": true}]}',
        '{"files": [], "commands": [{"argv": ["a"], "undo": ["b\\u0000"], "again": false}]}',
        '{"files": [], "commands": [{"argv": ["\\ud800"], "undo": [], "again": true}]}',
        '{"files": [{"path": "/x", "before": "\\ud800", "after": null, "mode": 420}]}',
        '{"files": [{"path": "/x", "before": null, "after": "a", "written": ["\\ud800"], "mode": 420}]}',
        '{"files": [], "commands": [], "directories": [7]}',
        '{"files": [], "commands": [], "directories": ["/\\ud800"]}',
        "\xff",
    ],
)  # fmt: skip
def test_a_malformed_journal_says_so(text: str, tmp_path: Path) -> None:
    (tmp_path / "setup.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(KdumpError, match=r"setup\.json is broken"):
        Journal.read(tmp_path / "setup.json")
    assert (tmp_path / "setup.json").exists()


def test_a_journal_of_an_older_version_is_read(root: Path, tmp_path: Path) -> None:
    old = {"path": "/etc/fstab", "before": "y\n", "after": "x\n", "mode": 420}
    (tmp_path / "setup.json").write_text(json.dumps({"files": [old], "commands": []}))
    assert undo(Journal.read(tmp_path / "setup.json"), root, nothing) == []
    assert (root / "etc/fstab").read_text() == "y\n"


def test_directories_of_others_stay(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "setup.json"
    journal = Journal.read(path)
    apply(Edit((FileChange("/etc/kdump/kdump.toml", None, "x"),)), journal, root, nothing)
    journal.make_directory("/var/crash", root, 0o700)
    (root / "var/crash/dump").write_text("precious")
    (root / "etc/kdump/mine").write_text("precious")
    assert undo(Journal.read(path), root, nothing) == []
    assert content(root) == OLD | {"var/crash/dump": "precious", "etc/kdump/mine": "precious"}


def test_two_setups_exclude_each_other(tmp_path: Path) -> None:
    code = (
        "import sys, time; from kdump.files.directory import exclusive\n"
        "with exclusive(sys.argv[1]) as got: print(got, flush=True); time.sleep(100)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout
        assert other.stdout.readline() == "True\n"
        with exclusive(tmp_path) as got:
            assert not got
        other.send_signal(signal.SIGKILL)
        other.wait()
        with exclusive(tmp_path) as got:
            assert got  # whoever dies lets go
    finally:
        other.kill()
        other.wait()
