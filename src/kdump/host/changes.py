"""Changes to a machine's configuration: shown before they are made, journalled while they are, undone from the journal.

A change is a file with its old and its new text, or a command with the one that reverses it. The journal keeps what is
needed to go back, so undoing needs no knowledge of what was done. A file that somebody changed since is left alone.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import stat
import subprocess
import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeGuard

from kdump.errors import KdumpError, reason
from kdump.files.drafts import Draft, pwrite_all, replace_file, sweep, sync_directory
from kdump.host.home import STATE

JOURNAL: Final = STATE / "setup.json"
_WIDTH: Final = 79  # columns
LONG: Final = 3  # lines of a new file that are shown unasked
TIMEOUT: Final = 300  # seconds for one command; update-grub probes disks

Runner = Callable[[Sequence[str]], None]


@dataclass(frozen=True)
class FileChange:
    """A text file's content: `before` (None: no file) and `after` (None: the file is removed)."""

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

    `again`: undoing runs the command itself once more, after the files are restored (update-grub and similar).
    `needs`: files that `undo` works on. They are kept until it has worked; once one is gone, nothing is left to undo.
    """

    argv: tuple[str, ...]
    undo: tuple[str, ...] = ()
    again: bool = False
    needs: tuple[str, ...] = ()


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
        """The planned changes, for people: diffs (`full`: of long new files, too), then commands."""
        parts = [change.diff() if full else change.shown() for change in self.files]
        for command in self.commands:
            line = "run: " + " ".join(command.argv)
            parts += textwrap.wrap(
                line, _WIDTH, subsequent_indent="     ", break_long_words=False, break_on_hyphens=False
            )
        return "\n".join(parts)


def file_change(path: str, after: str | None, root: Path, mode: int = 0o644) -> tuple[FileChange, ...]:
    """The change that gives the file at `path` (below `root`) the text `after`; none if it has that already."""
    before = text_of(below(root, path))
    return () if before == after else (FileChange(path, before, after, mode),)


def text_of(path: Path) -> str | None:
    """A file's text, byte for byte: invalid UTF-8 and line endings are preserved. None if there is no file."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None


def below(root: Path, path: str) -> Path:
    """An absolute path of the machine whose files are below `root`."""
    return root / path.lstrip("/")


def run_command(argv: Sequence[str]) -> None:
    """Run a command of the machine. Raises KdumpError with what it printed last."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="backslashreplace", timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KdumpError(f"`{' '.join(argv)}` did not run", why=reason(error)) from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise KdumpError(f"`{' '.join(argv)}` failed with status {done.returncode}", why="; ".join(last))


@dataclass
class Journal:
    """What was done to the machine, newest last, in a file that is written before each step.

    `files` are changes with every text that was written (`written`); `directories` those that were made for them.
    """

    path: Path
    files: list[dict[str, Any]] = field(default_factory=list)
    commands: list[dict[str, Any]] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.files or self.commands or self.directories)

    @classmethod
    def read(cls, path: Path) -> Journal:
        """The journal in a file; an empty one if there is none. Raises KdumpError if it is broken."""
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return cls(path)
        except (ValueError, RecursionError) as error:
            raise _broken(path, str(error)) from None
        if not isinstance(content, dict):
            raise _broken(path, "it is not an object")
        parts = [content.get(name, []) for name in ("files", "commands", "directories")]
        for name, part, good in zip(
            ("files", "commands", "directories"), parts, (_is_file, _is_command, _is_path), strict=True
        ):
            if not isinstance(part, list) or not all(map(good, part)):
                raise _broken(path, f"its {name} are not such")
        files, commands, directories = parts
        files = [{"written": [entry["after"]], **entry} for entry in files]
        return cls(path, files, [{"needs": [], **entry} for entry in commands], directories)

    def write(self) -> None:
        """Make the journal durable, mode 0600; an empty one is removed."""
        if not self:
            self.path.unlink(missing_ok=True)
            sweep(self.path)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"files": self.files, "commands": self.commands, "directories": self.directories}
        replace_file(self.path, (json.dumps(content, indent=1) + "\n").encode())

    def note(self, change: FileChange, root: Path = Path("/")) -> None:
        """A file is about to change. Its text before our first change is what undoing goes back to.

        Every text of ours is kept, too: whatever interrupts what follows, the file has one that is known.
        """
        for entry in self.files:
            if entry["path"] == change.path:
                known = (entry["before"], *entry["written"])
                entry["mixed"] = entry.get("mixed", False) or change.before not in known
                entry["written"] = [*entry["written"], change.after]
                entry["after"] = change.after
                break
        else:
            self.files.append(asdict(change) | {"written": [change.after]})
        if change.after is not None:
            self._note_parents(change.path, root)
        self.write()

    def make_directory(self, path: str, root: Path = Path("/"), mode: int = 0o755) -> None:
        """Make a directory, which undoing removes if it is empty then."""
        self._note_parents(f"{path}/x", root)
        self.write()
        below(root, path).mkdir(mode=mode, parents=True, exist_ok=True)

    def restores(self, path: str, now: str | None) -> bool:
        """Whether undoing gives a file its text of before, if it has the text `now`."""
        return any(each["path"] == path and now in each["written"] and not each.get("mixed") for each in self.files)

    def forget(self, path: str) -> None:
        """A file's change is taken back."""
        self.files = [entry for entry in self.files if entry["path"] != path]
        self.write()

    def _note_parents(self, path: str, root: Path) -> None:
        missing = [str(each) for each in Path(path).parents if not below(root, str(each)).exists()]
        self.directories += [each for each in reversed(missing) if each not in self.directories]


def apply(edit: Edit, journal: Journal, root: Path = Path("/"), run: Runner = run_command) -> None:
    """Make the changes. Raises KdumpError or OSError; what was done until then is in the journal."""
    for change in edit.files:
        journal.note(change, root)
        put(below(root, change.path), change.after, change.mode)
    for command in edit.commands:
        entry: dict[str, Any] = json.loads(json.dumps(asdict(command)))  # as it is read back
        if (command.undo or command.again) and entry not in journal.commands:
            journal.commands.append(entry)
            journal.write()
        run(command.argv)


def undo(journal: Journal, root: Path = Path("/"), run: Runner = run_command, keep: Collection[str] = ()) -> list[str]:
    """Take back everything in the journal; what was taken back leaves it at once, except the files in `keep`.

    Returns what could not be taken back, and why: it stays in the journal, for another attempt.
    """
    left: list[str] = []

    def attempt(argv: Sequence[str], needs: Iterable[str] = ()) -> bool:
        try:
            run(argv)
        except KdumpError as error:
            if all(os.path.lexists(below(root, path)) for path in needs):
                left.append(str(error))
                return False
        return True

    def forget(entry: dict[str, Any], done: str) -> None:
        if entry[done] and not (done == "undo" and entry["again"]):
            journal.commands.remove(entry)
            journal.write()

    needed: dict[str, str] = {}
    for entry in reversed(journal.commands):
        if entry["undo"] and attempt(entry["undo"], entry["needs"]):
            forget(entry, "undo")
        elif entry["undo"]:
            needed |= dict.fromkeys(entry["needs"], " ".join(entry["undo"]))
    for entry in reversed(journal.files):
        if entry["path"] in needed:
            left.append(f"{entry['path']} is kept: `{needed[entry['path']]}` needs it")
        elif problem := _take_back(entry, root):
            left.append(problem)
        elif entry["path"] not in keep:
            journal.forget(entry["path"])
    for entry in list(journal.commands):
        # As long as a file is left it will have to run again.
        if entry["again"] and attempt(entry["argv"]) and not journal.files:
            forget(entry, "again")
    for path in reversed(journal.directories):
        with contextlib.suppress(OSError):  # somebody else's things are in it, or it is gone
            below(root, path).rmdir()
    if not (journal.files or journal.commands):
        journal.directories = []
    journal.write()
    return left


def put(path: Path, text: str | None, mode: int) -> None:
    """Give a file its text, durably, or remove it. A new file has `mode` from its first byte, another keeps its own.

    If the path is a link, the file behind it is meant. Raises OSError.
    """
    path = Path(os.path.realpath(path))
    if text is None:
        if path.exists():
            path.unlink()
            sync_directory(str(path.parent))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Draft(path, mode=0o600 if path.exists() else mode)
    try:
        pwrite_all(draft.fd, text.encode("utf-8", "surrogateescape"), 0)
        if path.exists():
            _like(path, draft.fd)
        draft.commit()
    finally:
        draft.discard()


def _like(path: Path, descriptor: int) -> None:
    """Give a file another's owner, extended attributes (SELinux's label is one) and mode."""
    state = path.stat()
    os.fchown(descriptor, state.st_uid, state.st_gid)
    for name in os.listxattr(path):
        with contextlib.suppress(OSError):  # not every one can be set
            os.setxattr(descriptor, name, os.getxattr(path, name))
    os.fchmod(descriptor, stat.S_IMODE(state.st_mode))


def _take_back(entry: dict[str, Any], root: Path) -> str:
    """Give a file its text of before; why not, if that cannot be."""
    path, before = below(root, entry["path"]), entry["before"]
    sweep(os.path.realpath(path))
    try:
        now = text_of(path)
        if now == before:
            return ""
        if now not in entry["written"]:
            return f"{entry['path']} was changed since, and is left as it is"
        if entry.get("mixed"):
            return f"{entry['path']} was changed by hand between two setups, and is left as it is"
        put(path, before, entry["mode"])
    except OSError as error:
        return f"{entry['path']}: {error.strerror or error}"
    return ""


def _broken(path: Path, why: str) -> KdumpError:
    return KdumpError(f"{path} is broken", why=why, remedy="restore the files that it names by hand, then remove it")


def _is_file(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and _is_path(entry.get("path"))
        and all(_is_text_or_none(entry.get(name, 0)) for name in ("before", "after"))  # 0: it is missing
        and isinstance(entry.get("mode"), int)
        and 0 <= entry["mode"] <= 0o7777
        and isinstance(entry.get("written", []), list)
        and all(map(_is_text_or_none, entry.get("written", [])))
    )


def _is_command(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("again"), bool)
        and all(isinstance(entry.get(name), list) and all(map(_is_word, entry[name])) for name in ("argv", "undo"))
        and bool(entry["argv"])
        and isinstance(entry.get("needs", []), list)
        and all(map(_is_path, entry.get("needs", [])))
    )


def _is_path(entry: object) -> bool:
    return _is_word(entry) and entry.startswith("/") and ".." not in entry.split("/")


def _is_word(entry: object) -> TypeGuard[str]:
    return _is_text_or_none(entry) and entry is not None and "\0" not in entry


def _is_text_or_none(entry: object) -> TypeGuard[str | None]:
    """Whether it is what `text_of` returns: the only surrogates are those that stand for bytes."""
    if isinstance(entry, str):
        with contextlib.suppress(UnicodeEncodeError):
            entry.encode("utf-8", "surrogateescape")
            return True
    return entry is None


def combined(edits: Iterable[Edit]) -> Edit:
    """Several edits as one; a command that several ask for runs once, after all files."""
    files: list[FileChange] = []
    commands: dict[Command, None] = {}
    for edit in edits:
        files += edit.files
        commands |= dict.fromkeys(edit.commands)
    return Edit(tuple(files), tuple(commands))
