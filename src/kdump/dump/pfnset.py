"""A set of page frame numbers as large as the machine, in little memory: a bitmap kept compressed in chunks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import zstandard
from numpy.typing import NDArray

CHUNK = 1 << 19  # pfns of one chunk: 64 KiB of bitmap, 2 GiB of memory
_PIECE = CHUNK // 64  # bytes of bitmap whose members are told at a time


class PfnSet:
    """Bits for pfns 0 to `limit` - 1, written once per chunk in any order; chunks that are never written are empty.

    Bits are packed as kdump-compressed bitmaps are: least significant first.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0
        self._chunks: dict[int, bytes] = {}
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._full = self._pack(np.ones(CHUNK, np.bool_))

    def put(self, chunk: int, members: NDArray[np.bool_]) -> None:
        """Set chunk number `chunk` to the bits in `members` (shape (CHUNK,) or shorter). Once for each chunk."""
        held = int(np.count_nonzero(members))
        if held:
            self.count += held
            # Most chunks of a large machine's memory are full, and all of these are the same object.
            self._chunks[chunk] = self._full if held == CHUNK else self._pack(members)

    def remove(self, pfns: NDArray[np.int64]) -> None:
        """Take members out again: pages that turned out to be unreadable. Rare, so each chunk is packed anew."""
        for chunk in dict.fromkeys((pfns // CHUNK).tolist()):  # np.unique would import numpy.ma
            members = np.unpackbits(self.bits(chunk), bitorder="little").view(np.bool_)
            before = int(np.count_nonzero(members))
            members[pfns[pfns // CHUNK == chunk] - chunk * CHUNK] = False
            self.count -= before - int(np.count_nonzero(members))
            self._chunks[chunk] = self._pack(members)

    def numbers(self) -> list[int]:
        """The chunks that have members, in order."""
        return sorted(self._chunks)

    def holds(self, chunk: int) -> bool:
        """Whether a chunk has members."""
        return chunk in self._chunks

    def is_full(self, chunk: int) -> bool:
        """Whether all pfns of a chunk are members."""
        return self._chunks.get(chunk) is self._full

    def bits(self, chunk: int) -> NDArray[np.uint8]:
        """The packed bits of a chunk: shape (CHUNK // 8,), dtype u1."""
        packed = np.zeros(CHUNK // 8, np.uint8)
        if data := self._chunks.get(chunk):
            found = np.frombuffer(zstandard.ZstdDecompressor().decompress(data), np.uint8)
            packed[: len(found)] = found
        return packed

    def pfns(self, without: PfnSet | None = None) -> Iterator[NDArray[np.int64]]:
        """The members in order, in arrays of half a megabyte at most; those of `without` are left out."""
        for chunk in self.numbers():
            bits = self.bits(chunk)
            if without is not None:
                bits &= ~without.bits(chunk)
            for start in range(0, len(bits), _PIECE):
                found = np.flatnonzero(np.unpackbits(bits[start : start + _PIECE], bitorder="little"))
                if len(found):
                    found += chunk * CHUNK + start * 8
                    yield found

    def chunks(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """(chunk number, its members in order) of every chunk that has any."""
        for chunk in self.numbers():
            yield chunk, np.flatnonzero(np.unpackbits(self.bits(chunk), bitorder="little")) + chunk * CHUNK

    def bitmap(self) -> Iterator[NDArray[np.uint8]]:
        """The packed bits of all chunks up to `limit`, empty ones included; the last is cut at `limit`, rounded up."""
        for chunk in range(-(-self.limit // CHUNK)):
            left = -(-(self.limit - chunk * CHUNK) // 8)
            yield self.bits(chunk)[:left]

    def _pack(self, members: NDArray[np.bool_]) -> bytes:
        # A copy: the compressor's bytes were cut from a block of the worst-case size, whose rest no other chunk fits.
        return bytes(memoryview(self._compressor.compress(np.packbits(members, bitorder="little").tobytes())))
