"""A cache of an image's parts, by the digest of their input, which makes a rebuild quick.

Compiled modules and compressed blocks are the same from one image to the next until Python or kdump is replaced. The
file is a cache: without it, or with a damaged one, everything is made anew, and comes out the same.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import marshal
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from kdump.files.drafts import file_version, replace_file

_CHECKSUM = struct.Struct("<I")  # CRC-32, in front of what it is of: a damaged file is noticed


def content_digest(parts: Iterable[bytes | memoryview]) -> str:
    """A digest of contents one after another; each is preceded by its length, so that none can run into the next.

    It is BLAKE2b, for it never leaves the machine: where a processor has no SHA instructions, SHA-256 takes two to
    seven times as long.
    """
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """`content_digest` of a file; read once while it stays the same file of the same size and time."""
    return _file_digest(path, file_version(path))


@functools.lru_cache(maxsize=1024)
def _file_digest(path: Path, _version: tuple[int, ...]) -> str:
    return content_digest([path.read_bytes()])


class Made:
    """Results by their recipe: in memory, and kept in a file if there is one."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known = _read(path) if path else {}
        self._used: dict[str, bytes] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing was known when this was made."""
        return not self._known

    def get(
        self,
        recipe: str,
        source: bytes,
        make: Callable[[], bytes],
        valid: Callable[[bytes], bool] = lambda _result: True,
    ) -> bytes:
        """The result of `make()`; `recipe` names what it does to `source`, with everything else that the result is due
        to.

        If it is due to what is only found out by making it, `valid` says whether a result of before still holds. To be
        called from any thread.
        """
        key = content_digest([recipe.encode(), source])
        result = self._used.get(key) or self._known.get(key)
        if not result or not valid(result):
            result = make()
        self._used[key] = result
        return result

    def keep(self) -> None:
        """Write the file, mode 0600, with what was used since this was made. An error costs time at the next build."""
        if self._path is None or self._used == self._known:
            return
        content = marshal.dumps(self._used)
        with contextlib.suppress(OSError):
            replace_file(self._path, _CHECKSUM.pack(zlib.crc32(content)) + content, durable=False)


def _read(path: Path) -> dict[str, bytes]:
    try:
        data = path.read_bytes()
    except OSError:
        return {}
    content = memoryview(data)[_CHECKSUM.size :]
    if data[: _CHECKSUM.size] != _CHECKSUM.pack(zlib.crc32(content)):
        return {}
    known: dict[str, bytes] = marshal.loads(content)  # noqa: S302 -- as we wrote it
    return known
