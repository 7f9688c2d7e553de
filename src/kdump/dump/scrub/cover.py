"""Memory with some of its bytes hidden: they read as zeros, whoever reads."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from kdump.memory.protocol import Memory, Range, ReadsInto


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """(start, end) of ranges given as (start, size), in order, joined where they touch."""
    found: list[tuple[int, int]] = []
    for start, size in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], start + size)
        else:
            found.append((start, start + size))
    return found


class CoveredMemory:
    """A `Memory` (and `ReadsInto`) in which physical ranges, given as (start, size), are zeros."""

    def __init__(self, memory: Memory, ranges: Iterable[tuple[int, int]]) -> None:
        self.page_size = memory.page_size
        self._memory = memory
        self._quick = memory if isinstance(memory, ReadsInto) else None
        self.covered = merged(ranges)
        self._starts = [start for start, _ in self.covered]
        self._ends = [end for _, end in self.covered]
        pages: list[NDArray[np.int64]] = [
            np.arange(start // self.page_size, -(-end // self.page_size)) for start, end in self.covered
        ]
        self._pages = np.concatenate(pages) if pages else np.empty(0, np.int64)

    @property
    def size(self) -> int:
        """Bytes that are hidden."""
        return sum(end - start for start, end in self.covered)

    @property
    def ranges(self) -> Sequence[Range]:
        """See `Memory.ranges`."""
        return self._memory.ranges

    def covers(self, pfns: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Which of some pages (rising) have hidden bytes; None if none has."""
        within = self._pages[np.searchsorted(self._pages, pfns[0]) : np.searchsorted(self._pages, pfns[-1], "right")]
        if not len(within):
            return None
        found: NDArray[np.bool_] = within[np.minimum(np.searchsorted(within, pfns), len(within) - 1)] == pfns
        return found if found.any() else None

    def view(self, address: int, size: int) -> memoryview:
        """See `Memory.view`."""
        found = self._memory.view(address, size)
        if not self._any(address, size):
            return found
        copy = bytearray(found)
        self._hide(address, memoryview(copy))
        return memoryview(copy).toreadonly()

    def readinto(self, address: int, buffer: memoryview) -> None:
        """See `ReadsInto.readinto`."""
        if self._quick:
            self._quick.readinto(address, buffer)
        else:
            buffer[:] = self._memory.view(address, len(buffer))
        self._hide(address, buffer)

    def lend(self, address: int, size: int) -> memoryview | None:
        """See `ReadsInto.lend`."""
        return None if self._quick is None or self._any(address, size) else self._quick.lend(address, size)

    def places(self, pfns: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]] | None:
        """See `ReadsInto.places`: None where one of the pages has hidden bytes."""
        return None if self._quick is None or self.covers(pfns) is not None else self._quick.places(pfns)

    def present(self, first_pfn: int, count: int) -> NDArray[np.bool_]:
        """See `Memory.present`."""
        return self._memory.present(first_pfn, count)

    def held(self) -> Iterator[Range]:
        """See `Memory.held`."""
        return self._memory.held()

    def close(self) -> None:
        """See `Memory.close`."""
        self._memory.close()

    def _any(self, address: int, size: int) -> bool:
        place = bisect_left(self._ends, address + 1)
        return place < len(self._starts) and self._starts[place] < address + size

    def _hide(self, address: int, buffer: memoryview) -> None:
        end = address + len(buffer)
        place = bisect_left(self._ends, address + 1)
        while place < len(self._starts) and self._starts[place] < end:
            start, stop = max(self._starts[place] - address, 0), min(self._ends[place], end) - address
            buffer[start:stop] = bytes(stop - start)
            place += 1
