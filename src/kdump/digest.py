"""SHA-256 without OpenSSL's 5 MB of libcrypto, and digests of files that are not written front to back."""

from __future__ import annotations

import sys
from typing import Any, Protocol

__capture_omits__ = ("hashlib",)

_BLOCK = 64  # bytes that SHA-256 takes in at a time

_openssl = False


class Hash(Protocol):
    """What hash objects offer."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take in more."""

    def hexdigest(self) -> str:
        """The digest so far."""


def prefer_openssl() -> None:
    """Use hashlib from now on: it knows the processor's SHA instructions. Not for the capture kernel."""
    global _openssl  # noqa: PLW0603 -- one choice for the process, made by its entry point
    _openssl = True


def sha256() -> Hash:
    """A new SHA-256: from CPython's own module (named _sha2 since 3.12) unless `prefer_openssl` was called."""
    if _openssl:
        import hashlib

        return hashlib.sha256()
    if sys.version_info >= (3, 12):
        import _sha2 as module
    else:
        import _sha256 as module  # type: ignore[import-not-found]
    found: Hash = module.sha256()
    return found


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA-256 (RFC 2104)."""
    if len(key) > _BLOCK:
        key = _digest(key)
    padded = key.ljust(_BLOCK, b"\0")
    inner = _digest(bytes(byte ^ 0x36 for byte in padded) + message)
    return _digest(bytes(byte ^ 0x5C for byte in padded) + inner)


def _digest(data: bytes) -> bytes:
    found = sha256()
    found.update(data)
    return bytes.fromhex(found.hexdigest())


class Pieces:
    """Digests of a file's pieces: each run of bytes that was written in order is one.

    A dump is written body first, head last: its digest as one stream could only be had by reading it again. The
    pieces cover the file without gaps or overlaps, which `describe` shows by their offsets and sizes.
    """

    def __init__(self) -> None:
        self._pieces: dict[int, list[Any]] = {}  # by the offset at which the piece ends: [offset, hash]

    def add(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """`data` was written at `offset`. What is written where a piece began takes its place."""
        size = memoryview(data).nbytes
        if not size:
            return
        piece = self._pieces.pop(offset, None)
        if piece is None:
            self._pieces = {end: known for end, known in self._pieces.items() if known[0] != offset}
            piece = [offset, sha256()]
        piece[1].update(data)
        self._pieces[offset + size] = piece

    def describe(self) -> dict[str, Any]:
        """`size` in bytes and `sha256` of a file of one piece; `pieces` with offset, size and sha256 otherwise."""
        pieces = sorted((start, end - start, digest.hexdigest()) for end, (start, digest) in self._pieces.items())
        total = max(self._pieces, default=0)
        if not pieces:
            return {"size": 0, "sha256": sha256().hexdigest()}
        if len(pieces) == 1 and pieces[0][0] == 0:
            return {"size": total, "sha256": pieces[0][2]}
        return {
            "size": total,
            "pieces": [{"offset": offset, "size": size, "sha256": digest} for offset, size, digest in pieces],
        }
