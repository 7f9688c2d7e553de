"""Changes to a machine's configuration: shown before they are made, journalled while they are, undone from the journal.

A change is a file with its old and its new text, or a command with the one that reverses it. The journal keeps what is
needed to go back, so undoing needs no knowledge of what was done. A file that somebody changed since is left alone.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from kdump.errors import KdumpError

JOURNAL: Final = Path("/var/lib/kdump/setup.json")
LONG: Final = 3  # lines of a new file that are shown unasked
TIMEOUT: Final = 300  # seconds for one command; update-grub probes disks

Runner = Callable[[Sequence[str]], None]


@dataclass(frozen=True)
class FileChange:
    """A text file's content: `before` (None: there is none) and `after` (None: it goes)."""

    path: str
    before: str | None
    after: str | None
    mode: int = 0o644

    def diff(self) -> str:
        """The change as a unified diff."""
        before = (self.before or "").splitlines()
        after = (self.after or "").splitlines()
        old = self.path if self.before is not None else "/dev/null"
        new = self.path if self.after is not None else "/dev/null"
        return "\n".join(difflib.unified_diff(before, after, old, new, lineterm="", n=1))

    def shown(self) -> str:
        """The diff, or, for a long new file, that it is one."""
        count = (self.after or "").count("\n")
        return f"new file {self.path} ({count} lines)" if self.before is None and count > LONG else self.diff()


@dataclass(frozen=True)
class Command:
    """A command to run after the files are written, and the one that takes its effect back (empty: nothing does).

    `again`: undoing runs the command itself once more, after the files are restored (update-grub and its kin).
    """

    argv: tuple[str, ...]
    undo: tuple[str, ...] = ()
    again: bool = False


@dataclass(frozen=True)
class Edit:
    """Files to change and commands to run after that, in order."""

    files: tuple[FileChange, ...] = ()
    commands: tuple[Command, ...] = ()

    def __add__(self, other: Edit) -> Edit:
        return Edit(self.files + other.files, self.commands + other.commands)

    def __bool__(self) -> bool:
        return bool(self.files or self.commands)

    def shown(self, *, full: bool = False) -> str:
        """What would be done, for people: diffs (`full`: of long new files, too), then commands."""
        parts = [change.diff() if full else change.shown() for change in self.files]
        parts += ["run: " + " ".join(command.argv) for command in self.commands]
        return "\n".join(parts)


def file_change(path: str, after: str | None, root: Path, mode: int = 0o644) -> tuple[FileChange, ...]:
    """The change that gives the file at `path` (below `root`) the text `after`; none if it has that already."""
    try:
        before: str | None = below(root, path).read_text()
    except FileNotFoundError:
        before = None
    return () if before == after else (FileChange(path, before, after, mode),)


def below(root: Path, path: str) -> Path:
    """An absolute path of the machine whose files are below `root`."""
    return root / path.lstrip("/")


def run_command(argv: Sequence[str]) -> None:
    """Run a command of the machine. Raises KdumpError with what it printed last."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KdumpError(f"`{' '.join(argv)}` did not run", why=str(error)) from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise KdumpError(f"`{' '.join(argv)}` failed with status {done.returncode}", why="; ".join(last))


@dataclass
class Journal:
    """What was done to the machine, newest last, in a file that is written before each step."""

    path: Path
    files: list[dict[str, Any]] = field(default_factory=list)
    commands: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Journal:
        """The journal in a file; an empty one if there is none. Raises KdumpError if it is broken."""
        try:
            content = json.loads(path.read_text())
            return cls(path, content["files"], content["commands"])
        except FileNotFoundError:
            return cls(path)
        except (ValueError, KeyError) as error:
            raise KdumpError(f"{path} is broken", why=str(error), remedy="restore the files by hand") from None

    def write(self) -> None:
        """Make the journal durable."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(json.dumps({"files": self.files, "commands": self.commands}, indent=1))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)

    def note(self, change: FileChange) -> None:
        """A file is about to change. Its text before our first change is what undoing goes back to."""
        for entry in self.files:
            if entry["path"] == change.path:
                entry["after"] = change.after
                break
        else:
            self.files.append(asdict(change))
        self.write()


def apply(edit: Edit, journal: Journal, root: Path = Path("/"), run: Runner = run_command) -> None:
    """Make the changes. Raises KdumpError or OSError; what was done until then is in the journal."""
    for change in edit.files:
        journal.note(change)
        put(below(root, change.path), change.after, change.mode)
    for command in edit.commands:
        entry = asdict(command)
        if (command.undo or command.again) and entry not in journal.commands:
            journal.commands.append(entry)
            journal.write()
        run(command.argv)


def undo(journal: Journal, root: Path = Path("/"), run: Runner = run_command) -> list[str]:
    """Take back everything in the journal, and the journal. Returns what could not be taken back, and why."""
    left: list[str] = []

    def attempt(argv: Sequence[str]) -> None:
        try:
            run(argv)
        except KdumpError as error:
            left.append(str(error))

    for entry in reversed(journal.commands):
        if entry["undo"]:
            attempt(entry["undo"])
    for entry in reversed(journal.files):
        path = below(root, entry["path"])
        now = path.read_text() if path.exists() else None
        if now not in (entry["after"], entry["before"]):
            left.append(f"{entry['path']} was changed since, and is left as it is")
            continue
        put(path, entry["before"], entry["mode"])
    for entry in journal.commands:
        if entry["again"]:
            attempt(entry["argv"])
    journal.path.unlink(missing_ok=True)
    return left


def put(path: Path, text: str | None, mode: int) -> None:
    """Give a file its text, or remove it, and its directory if that leaves it empty and it is ours by its name."""
    if text is None:
        path.unlink(missing_ok=True)
        if path.parent.name.startswith("kdump") and path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    if path.exists():
        shutil.copystat(path, draft)
        owner = path.stat()
        os.chown(draft, owner.st_uid, owner.st_gid)
    else:
        draft.chmod(mode)
    draft.replace(path)


def combined(edits: Iterable[Edit]) -> Edit:
    """Several edits as one; a command that several ask for runs once, after all files."""
    files: list[FileChange] = []
    commands: dict[Command, None] = {}
    for edit in edits:
        files += edit.files
        commands |= dict.fromkeys(edit.commands)
    return Edit(tuple(files), tuple(commands))
