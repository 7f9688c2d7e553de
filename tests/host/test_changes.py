"""Changes are shown, made, journalled and taken back; what others changed since is left alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from kdump.errors import KdumpError
from kdump.host.changes import Command, Edit, FileChange, Journal, apply, combined, file_change, run_command, undo


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "state/setup.json")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/old").write_text("one\ntwo\n")
    (tmp_path / "root/etc/old").chmod(0o640)
    return tmp_path / "root"


def test_the_diff_shows_old_and_new(root: Path) -> None:
    (change,) = file_change("/etc/old", "one\nthree\n", root)
    assert change.diff().splitlines() == ["--- /etc/old", "+++ /etc/old", "@@ -1,2 +1,2 @@", " one", "-two", "+three"]
    (made,) = file_change("/etc/kdump/new", "x\n", root)
    assert made.diff().splitlines()[:2] == ["--- /dev/null", "+++ /etc/kdump/new"]
    assert file_change("/etc/old", "one\ntwo\n", root) == ()
    assert "run: a b" in Edit((), (Command(("a", "b")),)).shown()


def test_done_and_undone(root: Path, journal: Journal) -> None:
    ran: list[Sequence[str]] = []
    edit = combined(
        [
            Edit(file_change("/etc/old", "one\n", root), (Command(("update-grub",), again=True),)),
            Edit(file_change("/etc/kdump/new", "x\n", root, 0o755), (Command(("enable",), undo=("disable",)),)),
            Edit((), (Command(("update-grub",), again=True),)),
        ]
    )
    apply(edit, journal, root, ran.append)
    assert ran == [("update-grub",), ("enable",)]
    assert (root / "etc/old").read_text() == "one\n"
    assert (root / "etc/old").stat().st_mode & 0o777 == 0o640
    assert (root / "etc/kdump/new").stat().st_mode & 0o777 == 0o755
    # A second set-up changes the same file again; the way back is still to the first text.
    apply(Edit(file_change("/etc/old", "ONE\n", root)), Journal.read(journal.path), root, ran.append)
    ran.clear()
    assert undo(Journal.read(journal.path), root, ran.append) == []
    assert ran == [["disable"], ["update-grub"]]
    assert (root / "etc/old").read_text() == "one\ntwo\n"
    assert not (root / "etc/kdump").exists()
    assert not journal.path.exists()


def test_a_file_that_was_changed_since_is_left_alone(root: Path, journal: Journal) -> None:
    apply(Edit(file_change("/etc/old", "one\n", root)), journal, root)
    (root / "etc/old").write_text("mine\n")
    assert undo(Journal.read(journal.path), root) == ["/etc/old was changed since, and is left as it is"]
    assert (root / "etc/old").read_text() == "mine\n"


def test_what_was_done_before_a_failure_is_in_the_journal(root: Path, journal: Journal) -> None:
    edit = Edit(file_change("/etc/old", "one\n", root), (Command(("false",), undo=("true",)),))
    with pytest.raises(KdumpError, match="`false` failed with status 1"):
        apply(edit, journal, root)
    assert undo(Journal.read(journal.path), root) == []
    assert (root / "etc/old").read_text() == "one\ntwo\n"


def test_a_broken_journal_and_a_missing_command_say_so(tmp_path: Path) -> None:
    broken = tmp_path / "setup.json"
    broken.write_text("{")
    with pytest.raises(KdumpError, match="is broken"):
        Journal.read(broken)
    with pytest.raises(KdumpError, match="did not run"):
        run_command(["/nonexistent/tool"])


def test_the_journal_is_private(root: Path, journal: Journal) -> None:
    journal.note(FileChange("/etc/x", None, "secret"))
    assert journal.path.stat().st_mode & 0o777 == 0o600
    assert json.loads(journal.path.read_text())["files"][0]["path"] == "/etc/x"
