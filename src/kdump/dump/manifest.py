"""The manifest beside a dump: what it holds, where it comes from, and SHA-256 digests that `kdump verify` checks.

JSON, `"format": "kdump-manifest/1"`; docs/dumping.md lists the fields. The capture kernel writes `manifest.json` for a
whole crash; `kdump save` writes `NAME.manifest.json` beside the file it made.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kdump import __version__
from kdump.dump import manifest_schema
from kdump.dump.manifest_schema import FORMAT
from kdump.errors import FormatError, KdumpError
from kdump.files.digest import sha256
from kdump.files.directory import open_regular, read_regular
from kdump.files.drafts import replace_file
from kdump.kernel import vmcoreinfo
from kdump.memory.protocol import Dump

NAME = "manifest.json"
STEP = 4 << 20  # bytes hashed at a time


class Finding(NamedTuple):
    """Something wrong with a file: `offset` and `size` say where, as narrowly as the digests allow."""

    name: str
    what: str
    offset: int = 0
    size: int = 0


def manifest_path(dump: str | os.PathLike[str]) -> Path:
    """Where the manifest of a single dump file lies."""
    path = Path(dump)
    return path.with_name(f"{path.name}.{NAME}")


def describe(dump: Dump, files: list[dict[str, Any]], summary: dict[str, Any], status: str) -> dict[str, Any]:
    """The manifest of `kdump save`; `files` are as `digest.Pieces.describe` gives them, with their names."""
    info = vmcoreinfo.parse(dump.vmcoreinfo)
    return {
        "format": FORMAT,
        "status": status,
        "source": {"path": os.path.basename(dump.path), "format": dump.format},  # noqa: PTH119 -- a plain string
        "live": dump.format == "kcore",
        "kernel": {"release": info.release, "build_id": info.build_id},
        "panic_time": info.crash_time,
        "saved_time": round(time.time(), 3),
        "files": files,
        "dump": summary,
        "kdump": __version__,
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a manifest; mode 0600, durable, never half there."""
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode())


def read(path: Path) -> dict[str, Any]:
    """Read a manifest. Raises `FormatError` if it is not one."""
    content = manifest_schema.parse(read_regular(path), path)
    if content.get("format") != FORMAT:
        raise FormatError(f"not a manifest of the format {FORMAT}", path=path, field="format")
    if "files" not in content:
        raise FormatError("has no list of files", path=path, field="files")
    return content


def find(path: Path) -> Path | None:
    """The manifest that covers `path` (a dump, or the directory of a crash), or None."""
    if path.is_dir():
        beside = path / NAME
        return beside if beside.exists() else None
    if (own := manifest_path(path)).exists():
        return own
    if path.suffix[1:].isdigit() and (whole := manifest_path(path.with_suffix(""))).exists():
        return whole  # of a split set
    shared = path.parent / NAME
    if shared.exists() and any(entry["name"] == path.name for entry in read(shared)["files"]):
        return shared
    return None


def check(
    directory: Path, entry: dict[str, Any], tick: Callable[[int], None] = lambda _size: None
) -> Iterator[Finding]:
    """Compare one file with its entry; yields what differs. `tick` is told of each piece of bytes hashed."""
    name = entry["name"]
    path = directory / name
    try:
        descriptor = open_regular(path)
    except OSError as error:
        yield Finding(name, error.strerror or "cannot be opened")
        return
    try:
        size = os.fstat(descriptor).st_size
        if size != entry["size"]:
            yield Finding(name, f"is {size} bytes long, not {entry['size']}")
            return
        pieces = entry.get("pieces") or [{"offset": 0, "size": size, "sha256": entry["sha256"]}]
        at = 0
        for piece in sorted(pieces, key=lambda each: int(each["offset"])):
            if piece["offset"] < at or piece["size"] > size - piece["offset"]:
                yield Finding(name, "has digests that do not fit it", piece["offset"], piece["size"])
                return
            if piece["offset"] != at:
                yield Finding(name, "has bytes that no digest covers", at, piece["offset"] - at)
            at = piece["offset"] + piece["size"]
            if _digest(descriptor, piece["offset"], piece["size"], tick) != piece["sha256"]:
                yield Finding(name, "has been changed", piece["offset"], piece["size"])
        if at != size:
            yield Finding(name, "has bytes that no digest covers", at, size - at)
    finally:
        os.close(descriptor)


def _digest(descriptor: int, offset: int, size: int, tick: Callable[[int], None]) -> str:
    digest = sha256()
    buffer = memoryview(bytearray(min(STEP, size)))
    while size:
        count = os.preadv(descriptor, [buffer[: min(size, STEP)]], offset)
        if not count:
            raise KdumpError("a file became shorter while it was read")
        digest.update(buffer[:count])
        tick(count)
        offset, size = offset + count, size - count
    return digest.hexdigest()
