"""Pages of a kdump-compressed dump that are written earlier than their order.

Descriptors are in the order of pfns, data may be in any. The kernel's own memory goes out first, so that a dump that is
cut short can still be opened; until the descriptors of the other pages are known, its sizes are kept here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdump.dump.pfnset import PfnSet
from kdump.memory.kdump_format import DESCRIPTOR


class Layout(NamedTuple):
    """The facts, besides sizes, that determine descriptors: `flag` is the codec's, `zero_offset` where the page of
    zeros lies."""

    page_size: int
    flag: int
    zero_offset: int

    @property
    def size_type(self) -> type[np.unsignedinteger]:
        """Holds the size of a packed page; a page of zeros has 0, for it takes no room."""
        return np.uint16 if self.page_size < 1 << 16 else np.uint32

    def descriptors(self, sizes: NDArray[np.unsignedinteger], offset: int) -> tuple[NDArray[np.void], int]:
        """Descriptors of pages of these sizes, one behind the other from `offset` on; where the last one ends."""
        found = np.empty(len(sizes), DESCRIPTOR)
        ends = np.cumsum(sizes, dtype=np.int64)
        ends += offset
        zero = sizes == 0
        found["offset"] = ends - sizes
        found["size"] = sizes
        found["flags"] = np.where(sizes == self.page_size, 0, self.flag)
        found["page_flags"] = 0
        found["offset"][zero] = self.zero_offset
        found["size"][zero] = self.page_size
        found["flags"][zero] = 0
        return found, int(ends[-1]) if len(ends) else offset


class Early:
    """The pages of `pfns` in [first, end), in order: first `add` the sizes of them all, then `take` their descriptors.

    Two bytes a page are kept (four if pages are as large as 64 KiB).
    """

    def __init__(self, pfns: PfnSet, first: int, end: int, offset: int, layout: Layout) -> None:
        """`offset` is where the data of the first one will be."""
        self._source = _within(pfns, first, end)
        self._layout = layout
        self._offset = offset
        self._parts: list[NDArray[np.unsignedinteger]] = []
        self._sizes: NDArray[np.unsignedinteger] = np.zeros(0, layout.size_type)
        self._pfns: NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, sizes: NDArray[np.unsignedinteger]) -> None:
        """The next pages, written one behind the other; see `Layout.size_type`."""
        self._parts.append(sizes)

    def take(self, last: int) -> tuple[NDArray[np.int64], NDArray[np.void]]:
        """(pfns, descriptors) of those up to and including pfn `last` that were not taken yet."""
        if self._parts:
            self._sizes = np.concatenate(self._parts)
            self._parts.clear()
        pfns, sizes = [self._pfns[:0]], [self._sizes[:0]]
        while True:
            cut = int(np.searchsorted(self._pfns[: len(self._sizes)], last, side="right"))
            pfns.append(self._pfns[:cut])
            sizes.append(self._sizes[:cut])
            self._pfns, self._sizes = self._pfns[cut:], self._sizes[cut:]
            if len(self._pfns) or not len(self._sizes):  # there may be fewer sizes than pfns: it was cut short
                break
            self._pfns = next(self._source)
        descriptors, self._offset = self._layout.descriptors(np.concatenate(sizes), self._offset)
        return np.concatenate(pfns), descriptors


def _within(pfns: PfnSet, first: int, end: int) -> Iterator[NDArray[np.int64]]:
    for each in pfns.pfns():
        if len(found := each[(each >= first) & (each < end)]):
            yield found
