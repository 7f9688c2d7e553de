"""JSON that others wrote, or that lay where others can write: bounded, and checked against a schema before it is used.

A schema is data: each known key and the reader of its value. Unknown keys pass, for a newer version may write them.
Imports stay few: the capture kernel reads old manifests with this.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO, Final, NoReturn

from kdump.errors import FormatError
from kdump.units import size_text

LIMIT: Final = 16 << 20  # bytes of a JSON text
LATEST: Final = 253402300799  # Unix time of the last second of the year 9999, after which no calendar goes
_LONGEST: Final = 4096  # characters of a string that is a name, a title, a path

Read = Callable[[Any], Any]  # gives the value back; raises ValueError that says what is expected
Schema = Mapping[str, Read]


def read_file(path: str | os.PathLike[str], limit: int = LIMIT) -> bytes:
    """A file that a person named, whole; it may be a pipe. Raises FormatError if it has no end within `limit` bytes,
    OSError.
    """
    with open(path, "rb") as file:
        return read_rest(file, path, limit)


def read_rest(file: BinaryIO, path: str | os.PathLike[str], limit: int, start: bytes = b"") -> bytes:
    """The same of a file that is open, and of which `start` was read: a pipe has it only once."""
    data = start + file.read(max(0, limit + 1 - len(start)))
    if len(data) > limit:
        raise FormatError(f"larger than {size_text(limit)}", path=path, why="files of this kind are never that large")
    return data


def read_text(path: str | os.PathLike[str], limit: int = LIMIT) -> str:
    """As `read_file`, as text. Raises FormatError if it is not UTF-8, too."""
    try:
        return read_file(path, limit).decode()
    except UnicodeDecodeError as error:
        raise FormatError("not text in UTF-8", path=path, why=str(error)) from None


def load_object(
    data: bytes | str, path: str | os.PathLike[str] = "", schema: Schema | None = None, *, limit: int = LIMIT
) -> dict[str, Any]:
    """The JSON object in `data`, with the values that `schema` knows checked. Raises FormatError."""
    if len(data) > limit:
        raise FormatError(f"larger than {limit >> 20} MiB", path=path, why="files of this kind are never that large")
    try:
        content = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # the latter: a thousand brackets in each other
        raise FormatError("not JSON", path=path, why=str(error)[:200]) from None
    if not isinstance(content, dict):
        raise FormatError("not a JSON object", path=path)
    check(content, schema or {}, path)
    return content


def check(content: Mapping[str, Any], schema: Schema, path: str | os.PathLike[str] = "", where: str = "") -> None:
    """Raise FormatError, naming the key, unless each known key of an object has a value that its reader takes."""
    for name, read in schema.items():
        if name in content:
            try:
                read(content[name])
            except ValueError as error:
                raise FormatError(f"expected {error}", path=path, field=f"{where}{name}") from None


def boolean(value: Any) -> Any:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004 -- a reader raises ValueError
    return value


def text(longest: int = _LONGEST) -> Read:
    """A string of bounded length."""

    def read(value: Any) -> Any:
        if not isinstance(value, str) or len(value) > longest:
            raise ValueError(f"a string of at most {longest} characters")
        return value

    return read


def path_text(value: Any) -> Any:
    """An absolute path: a string without NUL."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value or len(value) > _LONGEST:
        raise ValueError("an absolute path")
    return value


def number(low: float, high: float) -> Read:
    """A number in bounds, both included."""

    def read(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"a number from {low} to {high}")
        return value

    return read


def whole(low: int, high: int) -> Read:
    """A whole number in bounds, both included."""

    def read(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return read


def maybe(read: Read) -> Read:
    """null, or what another reader takes."""
    return lambda value: value if value is None else read(value)


def table(schema: Schema, required: Iterable[str] = ()) -> Read:
    """An object with a schema of its own, and keys that it must have."""
    needed = frozenset(required)

    def inner(value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError("an object")  # noqa: TRY004 -- a reader raises ValueError
        if missing := sorted(needed - value.keys()):
            raise ValueError(f"an object with {', '.join(missing)}")
        try:
            check(value, schema)
        except FormatError as error:
            raise ValueError(f"an object with valid values ({error.what})") from None
        return value

    return inner


def mapping(item: Read, most: int = 10000) -> Read:
    """An object with any keys, whose values another reader takes."""

    def read(value: Any) -> Any:
        if not isinstance(value, dict) or len(value) > most:
            raise ValueError(f"an object of at most {most} entries")
        for each in value.values():
            item(each)
        return value

    return read


def items(item: Read, most: int = 10000) -> Read:
    """A list of bounded length, each of whose entries another reader takes."""

    def read(value: Any) -> Any:
        if not isinstance(value, list) or len(value) > most:
            raise ValueError(f"a list of at most {most} entries")
        for each in value:
            item(each)
        return value

    return read


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
