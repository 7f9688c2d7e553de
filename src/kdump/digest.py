"""SHA-256 without OpenSSL's 5 MB of libcrypto, and digests of files that are not written front to back."""

from __future__ import annotations

import sys
from typing import Any, Protocol

__capture_imports__ = ("_sha2" if sys.version_info >= (3, 12) else "_sha256",)


class Hash(Protocol):
    """What hash objects offer."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take in more."""

    def hexdigest(self) -> str:
        """The digest so far."""


def sha256() -> Hash:
    """A new SHA-256 from CPython's own module (named _sha2 since 3.12)."""
    if sys.version_info >= (3, 12):
        import _sha2 as module
    else:
        import _sha256 as module  # type: ignore[import-not-found]
    found: Hash = module.sha256()
    return found


class Pieces:
    """Digests of a file's pieces: each run of bytes that was written in order is one.

    A dump is written body first, head last: its digest as one stream could only be had by reading it again. The
    pieces cover the file without gaps or overlaps, which `describe` asserts in its output by their offsets and sizes.
    """

    def __init__(self) -> None:
        self._pieces: list[list[Any]] = []  # [offset, size, hash], in the order of writing
        self._last: list[Any] | None = None

    def add(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """`data` was written at `offset`."""
        size = memoryview(data).nbytes
        if not size:
            return
        if self._last is None or offset != self._last[0] + self._last[1]:
            self._last = [offset, 0, sha256()]
            self._pieces = [piece for piece in self._pieces if piece[0] != offset] + [self._last]
        self._last[1] += size
        self._last[2].update(data)

    def describe(self) -> dict[str, Any]:
        """`size` in bytes and `sha256` of a file of one piece; `pieces` with offset, size and sha256 otherwise."""
        pieces = sorted((offset, size, digest.hexdigest()) for offset, size, digest in self._pieces)
        total = max((offset + size for offset, size, _ in pieces), default=0)
        if not pieces:
            return {"size": 0, "sha256": sha256().hexdigest()}
        if len(pieces) == 1 and pieces[0][0] == 0:
            return {"size": total, "sha256": pieces[0][2]}
        return {
            "size": total,
            "pieces": [{"offset": offset, "size": size, "sha256": digest} for offset, size, digest in pieces],
        }
