"""The schema of a manifest, which every reader uses. docs/dumping.md lists the fields."""

from __future__ import annotations

import os
import re
from typing import Any, Final

from kdump.foreign import LATEST, Schema, items, load_object, mapping, maybe, number, table, text, whole

FORMAT: Final = "kdump-manifest/1"
_SIZES = whole(0, (1 << 63) - 1)
_MOST_PIECES = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")


def _file_name(value: Any) -> Any:
    text(255)(value)
    if "/" in value or "\0" in value or value in ("", ".", ".."):
        raise ValueError("the plain name of a file")
    return value


def _digest(value: Any) -> Any:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError("a SHA-256 digest, 64 hexadecimal digits")
    return value


def _file(value: Any) -> Any:
    table(_FILE, ("name", "size"))(value)
    if not (value.get("pieces") or "sha256" in value):
        raise ValueError("sha256 or pieces of each file")
    return value


_PIECE: Schema = {"offset": _SIZES, "size": _SIZES, "sha256": _digest}
_FILE: Schema = {
    "name": _file_name,
    "size": _SIZES,
    "sha256": _digest,
    "pieces": items(table(_PIECE, _PIECE), _MOST_PIECES),
}

SCHEMA: Schema = {
    "format": text(64),
    "status": text(64),
    "host": text(255),
    "signature": text(64),
    "panic_time": maybe(number(0, LATEST)),
    "saved_time": maybe(number(0, LATEST)),
    "kernel": table({"release": text(255), "build_id": text(255)}),
    "memory": maybe(table({"ram": _SIZES, "total": _SIZES, "lowest_available": _SIZES, "at_lowest": mapping(_SIZES)})),
    "files": items(_file),
}


def parse(data: bytes, path: str | os.PathLike[str] = "") -> dict[str, Any]:
    """The manifest in `data`; every field is optional, and good where it is there. Raises FormatError."""
    return load_object(data, path, SCHEMA)
