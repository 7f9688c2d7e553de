"""One file of a kdump-compressed dump: its bitmaps, and from a pfn to its descriptor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kdump.elf import big_endian
from kdump.errors import FormatError, NotPresentError
from kdump.memory.kdump_format import DESCRIPTOR, DESCRIPTOR_FIELDS, STATUS_INCOMPLETE, read_header
from kdump.memory.source import Source

RANK_STEP = 512  # bytes of bitmap between two stored ranks
DESCRIPTORS_CHUNK = 1 << 14
RUNS_CHUNK = 1 << 16  # bytes of bitmap unpacked together


class Part:
    """One file of a dump: header, bitmaps, descriptors. `first`..`end` are the pfns whose descriptors it holds."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.header = header = read_header(source)
        big = header.order == "big"
        self._descriptor = DESCRIPTOR.newbyteorder(">") if big else DESCRIPTOR
        self._fields = big_endian(DESCRIPTOR_FIELDS) if big else DESCRIPTOR_FIELDS
        block = header.block_size
        self._bitmap_offset = (1 + header.sub_blocks) * block
        self._half = header.bitmap_blocks // 2 * block
        self.descriptors_offset = self._bitmap_offset + 2 * self._half
        sub = header.sub
        self.max_pfn = sub["max_mapnr_64"] or header.max_mapnr
        self.split = bool(sub["split"])
        self.first = (sub["start_pfn_64"] or sub["start_pfn"]) if self.split else 0
        self.end = min((sub["end_pfn_64"] or sub["end_pfn"]) if self.split else self.max_pfn, self.max_pfn)
        if self.max_pfn > self._half * 8:
            raise FormatError(
                f"{self.max_pfn:#x} pages, but a bitmap of {self._half:#x} bytes",
                path=source.path,
                offset=block + 96,
                field="max_mapnr",
            )
        if self.descriptors_offset > source.size:
            raise FormatError(
                f"two bitmaps of {self._half:#x} bytes do not fit the file ({source.size:#x} bytes)",
                path=source.path,
                offset=436,
                field="bitmap_blocks",
            )
        self._ranks: NDArray[np.int64] | None = None

    def present(self, first_byte: int, end_byte: int) -> NDArray[np.uint8]:
        """Bytes of the first bitmap: memory that existed."""
        return np.frombuffer(self.source.view(self._bitmap_offset + first_byte, end_byte - first_byte), np.uint8)

    def dumped(self, first_byte: int, end_byte: int) -> NDArray[np.uint8]:
        """Bytes of the second bitmap: pages with a descriptor."""
        offset = self._bitmap_offset + self._half + first_byte
        return np.frombuffer(self.source.view(offset, end_byte - first_byte), np.uint8)

    def rank(self, pfn: int) -> int:
        """How many bits of the second bitmap are set before `pfn`."""
        if self._ranks is None:
            self._ranks = self._count()
        step = (pfn >> 3) // RANK_STEP
        count = int(self._ranks[step])
        tail = self.dumped(step * RANK_STEP, pfn >> 3)
        count += int(np.bitwise_count(tail).sum(dtype=np.int64))
        if pfn & 7:
            count += (int(self.dumped(pfn >> 3, (pfn >> 3) + 1)[0]) & (1 << (pfn & 7)) - 1).bit_count()
        return count

    def places(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of each pfn (rising, within the part) the number of its descriptor in this part, -1 if it has none."""
        if self._ranks is None:
            self._ranks = self._count()
        steps, lines = np.unique((pfns >> 3) // RANK_STEP, return_inverse=True)
        words = np.empty((len(steps), RANK_STEP // 8), np.uint64)
        for row, step in enumerate(steps.tolist()):
            words[row] = np.frombuffer(self.dumped(step * RANK_STEP, (step + 1) * RANK_STEP), np.uint64)
        # Set bits before each word of a line, then those before the page's own bit within its word.
        before = np.cumsum(np.bitwise_count(words), axis=1, dtype=np.int64) - np.bitwise_count(words)
        word = (pfns >> 6) % (RANK_STEP // 8)
        value = words[lines, word]
        bit = (pfns & 63).astype(np.uint64)
        below = np.bitwise_count(value & ((np.uint64(1) << bit) - np.uint64(1))).astype(np.int64)
        found = self._ranks[steps[lines]] + before[lines, word] + below - self.rank(self.first)
        return np.where(value >> bit & np.uint64(1), found, -1)

    def existed(self, pfn: int) -> bool:
        """Whether `pfn` was memory."""
        return pfn < self.max_pfn and bool(self.present(pfn >> 3, (pfn >> 3) + 1)[0] >> (pfn & 7) & 1)

    def descriptors(self, first: int, count: int) -> NDArray[np.void]:
        """Descriptors of `count` pages from the `first`th of this part on; dtype `DESCRIPTOR`."""
        offset = self.descriptors_offset + first * DESCRIPTOR.itemsize
        found = np.frombuffer(self.source.view(offset, count * DESCRIPTOR.itemsize), self._descriptor)
        return found.astype(DESCRIPTOR, copy=False)

    @cached_property
    def described(self) -> int:
        """How many of its descriptors the file holds."""
        return min(self.total, max(self.source.size - self.descriptors_offset, 0) // DESCRIPTOR.itemsize)

    def table(self, numbers: NDArray[np.int64]) -> NDArray[np.void]:
        """Descriptors by their numbers (rising) in this part; dtype `DESCRIPTOR`."""
        found = np.empty(len(numbers), DESCRIPTOR)
        start = 0
        while start < len(numbers):
            first = int(numbers[start])
            end = int(np.searchsorted(numbers, first + DESCRIPTORS_CHUNK))
            last = int(numbers[end - 1])
            found[start:end] = self.descriptors(first, last + 1 - first)[numbers[start:end] - first]
            start = end
        return found

    def pages(self, pfn: int, count: int) -> Iterator[tuple[int, int, int]]:
        """(offset, size, flags) of each of `count` consecutive pages, all of which the second bitmap has.

        Raises `NotPresentError` for one that an incomplete file lacks, `FormatError` for an impossible descriptor.
        """
        index = self.rank(pfn) - self.rank(self.first)
        offset = self.descriptors_offset + index * DESCRIPTOR.itemsize
        if offset + count * DESCRIPTOR.itemsize > self.source.size:
            raise NotPresentError(pfn * self.header.block_size, why=f"{self.source.path} is incomplete and lacks it")
        for start, size, flags, _ in self._fields.iter_unpack(self.source.view(offset, count * DESCRIPTOR.itemsize)):
            self._check(pfn, offset, start, size)
            yield start, size, flags
            pfn += 1
            offset += DESCRIPTOR.itemsize

    def _check(self, pfn: int, offset: int, start: int, size: int) -> None:
        if (not start and self.incomplete) or (start > 0 and start + size > self.source.size):
            raise NotPresentError(pfn * self.header.block_size, why=f"{self.source.path} is incomplete and lacks it")
        if start <= 0 or not 0 < size <= self.header.block_size:
            raise FormatError(
                f"the descriptor of page {pfn:#x} names {size:#x} bytes at {start:#x}",
                path=self.source.path,
                offset=offset,
                field="page_desc",
                why="that is impossible",
            )

    @cached_property
    def total(self) -> int:
        """How many descriptors this part should have."""
        return self.rank(self.end) - self.rank(self.first) if self.end > self.first else 0

    @cached_property
    def held_end(self) -> int:
        """The pfn at which the descriptors end that are in the file: `end`, but in one that was cut off."""
        inside = max(self.source.size - self.descriptors_offset, 0) // DESCRIPTOR.itemsize
        if self.total <= inside:
            return self.end
        low, high, before = self.first, self.end, self.rank(self.first)
        while low < high:  # the first pfn in front of which there are `inside` descriptors
            middle = (low + high + 1) // 2
            if self.rank(middle) - before <= inside:
                low = middle
            else:
                high = middle - 1
        return low

    @cached_property
    def incomplete(self) -> bool:
        """Whether the header says so, or descriptors or data lie past the end of the file.

        The data that lie last belong to one of the last pages, though not always to the very last (see
        `kdump.dump.early`): the table is read backwards until the page is found that ends with the file, or past it.
        """
        if self.header.status & STATUS_INCOMPLETE or self.source.incomplete:
            return True
        total, size = self.total, self.source.size
        if self.descriptors_offset + total * DESCRIPTOR.itemsize > size:
            return True
        for end in range(total, 0, -DESCRIPTORS_CHUNK):
            start = max(end - DESCRIPTORS_CHUNK, 0)
            table = self.descriptors(start, end - start)
            last = int((table["offset"] + table["size"]).max())
            if last >= size:
                return last > size
        return False

    def _count(self) -> NDArray[np.int64]:
        """The rank of every RANK_STEP-th byte, in chunks so that memory stays small."""
        steps = self._half // RANK_STEP
        counts = np.zeros(steps + 1, np.int64)
        chunk = 1 << 20
        for start in range(0, self._half, chunk):
            end = min(start + chunk, self._half)
            ones = np.bitwise_count(self.dumped(start, end)).reshape(-1, RANK_STEP).sum(axis=1, dtype=np.int64)
            counts[start // RANK_STEP + 1 : end // RANK_STEP + 1] = ones
        return np.cumsum(counts, out=counts)


def runs(bitmap: Callable[[int, int], NDArray[np.uint8]], first: int, end: int) -> Iterator[tuple[int, int]]:
    """Runs [start, end) of set bits among bits first..end; `bitmap(a, b)` gives the bytes [a, b) of the bitmap."""
    pending = -1
    for start in range(first >> 3, (end + 7) >> 3, RUNS_CHUNK):
        data = bitmap(start, min(start + RUNS_CHUNK, (end + 7) >> 3))
        if (data == (0 if pending < 0 else 0xFF)).all() and start << 3 >= first and (start + len(data)) << 3 <= end:
            continue
        bits = np.unpackbits(data, bitorder="little")
        bits[: max(first - (start << 3), 0)] = 0
        bits[end - (start << 3) :] = 0
        before = np.concatenate((np.array([pending >= 0], bits.dtype), bits[:-1]))
        changes = np.flatnonzero(bits != before) + (start << 3)
        for change in changes.tolist():
            if pending >= 0:
                yield pending, change
            pending = change if pending < 0 else -1
    if pending >= 0:
        yield pending, end
