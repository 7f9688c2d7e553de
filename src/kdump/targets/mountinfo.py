"""Which mount a directory is on, from /proc/self/mountinfo (Documentation/filesystems/proc.rst, 3.5)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from kdump.targets.superblock import identify

_TABLE = "/proc/self/mountinfo"


class Mount(NamedTuple):
    """The mount under a directory.

    `path` is the directory's path below the file system's own root (bind mounts and subvolumes are undone);
    `filesystem_options` are those that the second kernel must repeat to see the same tree.
    """

    source: str
    fstype: str
    uuid: str
    path: str
    options: str
    filesystem_options: str


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _mount_id(directory: str) -> str:
    """The kernel's number of the mount that a directory, or its nearest ancestor that exists, is on; or "".

    Opening it mounts what an automount there stands for.
    """
    descriptor = -1
    for existing in (Path(directory), *Path(directory).parents):
        try:
            descriptor = os.open(existing, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            break
        except FileNotFoundError:
            continue
        except OSError:
            return ""  # not for us to open
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
        return next((line.split()[1] for line in lines if line.startswith("mnt_id:")), "")
    finally:
        os.close(descriptor)


def mount_of(directory: str, table: str = _TABLE) -> Mount:
    """The mount that holds `directory` (or its nearest ancestor that exists). Raises OSError.

    The kernel says which: a mount above the directory may hide one that was made in it before.
    """
    resolved = os.path.realpath(directory)
    number = _mount_id(resolved) if table == _TABLE else ""
    best: tuple[str, list[str], list[str]] | None = None
    with open(table, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            left, _, right = line.rstrip("\n").partition(" - ")
            fields = left.split(" ")
            point = _unescape(fields[4])
            inside = resolved == point or resolved.startswith(point.rstrip("/") + "/")
            if inside and fields[0] == number:
                best = point, fields, right.split(" ")
                break
            if inside and (best is None or len(point) >= len(best[0])):  # a later mount hides an earlier one
                best = point, fields, right.split(" ")
    if best is None:
        raise FileNotFoundError(2, "no mount holds it", directory)
    point, fields, rest = best
    fstype, source, super_options = rest[0], _unescape(rest[1]), rest[2]
    root = _unescape(fields[3])
    below = resolved[len(point.rstrip("/")) :]
    # btrfs shows the subvolume as the mount's root: mounting the top-level volume (5) makes every path valid.
    options = "subvolid=5" if fstype == "btrfs" else ""
    content = identify(source) if source.startswith("/dev/") and Path(source).exists() else None
    return Mount(
        source,
        fstype,
        content.uuid if content else "",
        root.rstrip("/") + below or "/",
        f"{fields[5]},{super_options}",
        options,
    )
