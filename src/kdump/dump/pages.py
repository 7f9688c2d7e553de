"""Reading pages by pfn, many at a time, and finding those that are all zeros."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdump.errors import FormatError, KdumpError, NotPresentError
from kdump.memory.protocol import Memory


def read_pages(memory: Memory, pfns: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """Pages in the order of `pfns` (rising): shape (n, page size), without a copy where they are consecutive.

    The second value is None, or which rows could not be read (those are garbage).
    """
    size = memory.page_size
    count = len(pfns)
    first, last = int(pfns[0]), int(pfns[-1])
    if last - first == count - 1:
        try:
            return np.frombuffer(memory.view(first * size, count * size), np.uint8).reshape(count, size), None
        except (NotPresentError, FormatError, OSError):
            pass
    pages = np.empty((count, size), np.uint8)
    bad = None
    starts = np.flatnonzero(np.diff(pfns, prepend=pfns[0] - 2) != 1).tolist()
    for start, end in zip(starts, [*starts[1:], count], strict=True):
        where = int(pfns[start]) * size
        try:
            pages[start:end] = np.frombuffer(memory.view(where, (end - start) * size), np.uint8).reshape(-1, size)
        except (NotPresentError, FormatError, OSError):
            if bad is None:
                bad = np.zeros(count, np.bool_)
            _one_by_one(memory, pfns, pages, bad, range(start, end))
    return pages, bad


def _one_by_one(
    memory: Memory, pfns: NDArray[np.int64], pages: NDArray[np.uint8], bad: NDArray[np.bool_], rows: range
) -> None:
    size = memory.page_size
    for row in rows:
        try:
            pages[row] = np.frombuffer(memory.view(int(pfns[row]) * size, size), np.uint8)
        except (KdumpError, OSError):
            bad[row] = True


def zero_pages(pages: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which rows of `pages` (shape (n, page size), contiguous) hold nothing but zeros."""
    found: NDArray[np.bool_] = np.bitwise_or.reduce(pages.view(np.uint64), axis=1) == 0
    return found
