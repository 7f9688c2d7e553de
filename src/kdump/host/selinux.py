"""The SELinux labels that a target's files must have, as restorecon(8) would give them.

The capture kernel has no policy, and what it writes would be unlabelled on a root that is labelled. So the policy's
file contexts are read here, and the labels go into the plan.

Sources: file_contexts(5), selabel_file(5), selabel_lookup(3).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CONFIG: Final = "etc/selinux/config"
ENABLED: Final = "sys/fs/selinux/enforce"
DIRECTORY, FILE = "-d", "--"  # how a line of file_contexts names them
_SPECIAL: Final = frozenset(".^$?*+|[({")
_LONGEST: Final = 16 << 20  # bytes of a file of contexts
_NONE: Final = "<<none>>"


def labels(directory: str, root: Path = Path("/")) -> dict[str, str]:
    """Facts for a target: "directory_label" and "file_label" of a crash below `directory`; none without SELinux."""
    if not (root / ENABLED).exists():
        return {}
    place = _policy(root)
    found = {
        "directory_label": lookup(f"{directory.rstrip('/')}/crash", DIRECTORY, place),
        "file_label": lookup(f"{directory.rstrip('/')}/crash/vmcore", FILE, place),
    }
    return {name: label for name, label in found.items() if label}


def lookup(path: str, kind: str, place: Path) -> str:
    """The label that the contexts in `place` give a path of a kind (DIRECTORY, FILE); empty if they give it none.

    The last line that fits counts; lines without special characters come after all others.
    """
    wanted = _substituted(path, place)
    best, exact = "", ""
    for name in ("file_contexts", "file_contexts.homedirs", "file_contexts.local"):
        for pattern, only, label in _lines(place / name):
            if only not in ("", kind):
                continue
            stem, special = _stem(pattern)
            if not special:
                exact = label if stem == wanted else exact
            elif wanted.startswith(stem) and _fits(pattern, wanted):
                best = label
    found = exact or best
    return "" if found == _NONE else found


def _policy(root: Path) -> Path:
    """The directory of the policy's file contexts."""
    kind = next((words[2] for words in _words(root / CONFIG, "=") if words[0] == "SELINUXTYPE"), "targeted")
    return root / "etc/selinux" / kind / "contexts/files"


def _words(path: Path, separator: str) -> Iterator[tuple[str, str, str]]:
    for line in _text(path).splitlines():
        name, found, value = line.partition(separator)
        if found and not name.lstrip().startswith("#"):
            yield name.strip(), found, value.strip()


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """Pattern, kind (empty: any) and label of each line."""
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) in (2, 3) and not words[0].startswith("#"):
            yield words[0], words[1] if len(words) == 3 else "", words[-1]


def _stem(pattern: str) -> tuple[str, bool]:
    """The text that a pattern begins with, and whether anything special follows."""
    text, at = "", 0
    while at < len(pattern):
        if pattern[at] in _SPECIAL:
            # What "?", "*" and "{" repeat may be missing.
            return (text[:-1] if pattern[at] in "?*{" else text), True
        at += pattern[at] == "\\"
        text += pattern[at : at + 1]
        at += 1
    return text, False


def _fits(pattern: str, path: str) -> bool:
    try:
        return re.fullmatch(pattern, path, re.DOTALL) is not None
    except (re.error, RecursionError, OverflowError):
        return False  # Perl has more than Python: such a line fits nothing here


def _substituted(path: str, place: Path) -> str:
    """The path that the policy speaks of where it calls one like another, "/run /var/run"."""
    for name in ("file_contexts.subs", "file_contexts.subs_dist"):
        for line in _text(place / name).splitlines():
            words = line.split()
            if len(words) == 2 and (path == words[0] or path.startswith(f"{words[0]}/")):
                path = words[1] + path[len(words[0]) :]
                break
    return path


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            return file.read(_LONGEST)
    except OSError:
        return ""
