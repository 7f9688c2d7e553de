"""SHA-256 by Python or by the kernel, and digests of files that are not written front to back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Protocol

_BLOCK = 64  # bytes that SHA-256 takes in at a time

KERNEL_MODULES = ("af_alg", "algif_hash")  # what a kernel needs for this, in load order
PROCESSOR_MODULE = "sha256_ssse3"  # of use where the processor has SHA instructions
_MSG_MORE = 0x8000  # include/linux/socket.h


class Hash(Protocol):
    """The interface of hash objects."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take in more."""

    def hexdigest(self) -> str:
        """The digest so far."""


class KernelHash:
    """SHA-256 by the running kernel. Source: Documentation/crypto/userspace-if.rst.

    Raises OSError where the kernel has no such sockets (AF_ALG, algif_hash).
    """

    def __init__(self) -> None:
        import _socket

        algorithm = _socket.socket(_socket.AF_ALG, _socket.SOCK_SEQPACKET)
        algorithm.bind(("hash", "sha256"))
        self._operation = _accept(algorithm)

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take in more."""
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[self._operation.send(rest, _MSG_MORE) :]

    def hexdigest(self) -> str:
        """The digest so far: of a copy, which accept(2) makes, so that more may follow."""
        digest: bytes = _accept(self._operation).recv(32)
        return digest.hex()


def _accept(listening: Any) -> Any:
    import _socket

    descriptor, _ = listening._accept()
    return _socket.socket(_socket.AF_ALG, _socket.SOCK_SEQPACKET, 0, descriptor)


def _own() -> Hash:
    """Python's: OpenSSL's, which knows the processor's SHA instructions; CPython's own code in the capture image."""
    return hashlib.sha256()


_make: Callable[[], Hash] = _own


def prefer_kernel() -> bool:
    """Use the kernel from now on, if it can: it knows the processor's SHA instructions, too. Whether it can."""
    global _make  # noqa: PLW0603 -- one choice for the process, made by its entry point
    try:
        KernelHash()
    except OSError:
        return False
    _make = KernelHash
    return True


def kernel_hashes() -> bool:
    """Whether digests are the kernel's work."""
    return _make is KernelHash


def sha256() -> Hash:
    """A new SHA-256: this Python's best unless the kernel's was preferred."""
    return _make()


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
