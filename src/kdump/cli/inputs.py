"""The file that a command reads when it is given the directory of a crash."""

from __future__ import annotations

from pathlib import Path

from kdump.errors import KdumpError
from kdump.files.directory import Directory

HELP = "a dump, or the directory of a crash; several files are a split dump"
_DUMPS = ("vmcore", "vmcore.incomplete")
_LOG = "vmcore-dmesg.txt"


def dump(path: str) -> str:
    """The dump in the directory of a crash; any other path as it is. For argparse's `type`. Raises KdumpError."""
    return _first(path, _DUMPS)


def dump_or_log(path: str) -> str:
    """The same; the log if the directory has no dump."""
    return _first(path, (*_DUMPS, _LOG))


def _first(path: str, wanted: tuple[str, ...]) -> str:
    if not Path(path).is_dir():
        return path
    with Directory.open(path) as crash:
        for name in wanted:
            if crash.has_file(name):
                return str(Path(path) / name)
        encrypted = any(crash.has_file(f"{name}.age") for name in wanted)
        has_log = crash.has_file(_LOG)
    if encrypted:
        raise KdumpError(f"{path}: the dump in this directory is encrypted", remedy="use `kdump decrypt` first")
    what = " and no ".join((_DUMPS[0], *wanted[len(_DUMPS) :]))
    if has_log:
        remedy = f"it has {_LOG}: `kdump report` reads that"
    else:
        remedy = "`kdump list DIRECTORY` shows the crashes in a directory"
    raise KdumpError(f"{path}: there is no {what} in this directory", remedy=remedy)
