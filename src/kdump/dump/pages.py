"""Reading pages by pfn, many at a time, and finding those that are all zeros."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdump.errors import FormatError, NotPresentError
from kdump.memory.protocol import Memory, ReadsInto
from kdump.native.engine import engine


class PageReader:
    """Reads pages into a buffer of its own, which the next call reuses: it stays in the processor's cache.

    Not thread-safe: one for each thread.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._quick = memory if isinstance(memory, ReadsInto) else None
        self._buffer = np.empty((0, memory.page_size), np.uint8)

    def __call__(self, pfns: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Pages in the order of `pfns` (rising): shape (n, page size), valid until the next call.

        The second value is None, or which rows could not be read (those are garbage).
        """
        count, size = len(pfns), self._memory.page_size
        contiguous = pfns[-1] - pfns[0] == count - 1
        if contiguous and self._quick and (lent := self._quick.lend(int(pfns[0]) * size, count * size)):
            return np.frombuffer(lent, np.uint8).reshape(count, size), None
        if len(self._buffer) < count:
            self._buffer = np.empty((count, size), np.uint8)
        pages = self._buffer[:count]
        bad = None
        starts = [0] if contiguous else [0, *(np.flatnonzero(pfns[1:] - pfns[:-1] != 1) + 1).tolist()]
        for start, end in zip(starts, [*starts[1:], count], strict=True):
            try:
                self._read(int(pfns[start]), pages[start:end])
            except (NotPresentError, FormatError, OSError):
                if bad is None:
                    bad = np.zeros(count, np.bool_)
                for row in range(start, end):
                    try:
                        self._read(int(pfns[row]), pages[row : row + 1])
                    except (NotPresentError, FormatError, OSError):
                        bad[row] = True
        return pages, bad

    def _read(self, pfn: int, pages: NDArray[np.uint8]) -> None:
        memory, size = self._memory, self._memory.page_size
        if self._quick:
            self._quick.readinto(pfn * size, pages.data.cast("B"))
        else:
            pages[:] = np.frombuffer(memory.view(pfn * size, pages.size), np.uint8).reshape(pages.shape)


def packed_rows(pages: NDArray[np.uint8], *, drop_zeros: bool) -> NDArray[np.intp]:
    """The rows of `pages` that are packed: all, or those that hold more than zeros."""
    return np.flatnonzero(~engine.zero_pages(pages)) if drop_zeros else np.arange(len(pages))
