"""Which old crashes of this host go when a new one is safe; for targets that are directories."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

_NAME = re.compile(r"^(.+)-\d{8}T\d{6}Z-[0-9a-f]{4}$")


def prune(directory: str, newest: str, keep: int, min_free: int) -> Iterator[str]:
    """Remove crashes beside `newest` (a crash's name), oldest first; yields the name of each that went.

    At most `keep` of the same host stay, `newest` included (0: any number), and more go until `min_free` bytes are
    free. Other hosts' crashes and whatever is not named like a crash are not touched. Raises OSError.
    """
    mine = older([entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)], newest)
    while mine and ((keep and len(mine) >= keep) or _free(directory) < min_free):
        name = mine.pop(0)
        _remove(f"{directory}/{name}")
        yield name


def older(names: Iterable[str], newest: str) -> list[str]:
    """Those of `names` that are other crashes of the host of the crash `newest`, oldest first."""
    found = _NAME.match(newest)
    if not found:
        return []
    mine = [name for name in names if (match := _NAME.match(name)) and match[1] == found[1] and name != newest]
    return sorted(mine, key=lambda name: name[len(found[1]) :])


def _remove(directory: str) -> None:
    """As shutil.rmtree, which would bring three compressors into the image."""
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            _remove(entry.path)
        else:
            os.unlink(entry.path)  # noqa: PTH108 -- a DirEntry's path
    os.rmdir(directory)  # noqa: PTH106 -- likewise


def _free(directory: str) -> int:
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize
