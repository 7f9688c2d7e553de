"""Many scattered pages at once: what reading the same few fields of very many objects comes down to.

A page of a compressed dump costs some microseconds to find in Python and as many to unpack. Here descriptors are found
by array operations and pages are unpacked in C, a batch in one call, if libkdump.so and the codec's library are
installed. Everything else is read page by page through `Memory.view`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from kdump.errors import FormatError, NotPresentError

if TYPE_CHECKING:
    from kdump.memory.protocol import Memory


@runtime_checkable
class GathersPages(Protocol):
    """A `Memory` that reads scattered pages faster than one by one."""

    def gather(self, pfns: NDArray[np.int64], pages: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Fill `pages` (shape (n, page size)) with the pages `pfns` (rising); returns which of them the dump holds."""


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Distinct values, sorted. np.unique() without counts or indices imports numpy.ma, which capture images lack."""
    ordered = np.sort(values)
    first = np.ones(min(len(ordered), 1), np.bool_)
    found: NDArray[Any] = ordered[np.concatenate((first, ordered[1:] != ordered[:-1]))]
    return found


def gather(memory: Memory, pfns: NDArray[np.int64], pages: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Fill `pages` (shape (n, page size)) with the pages `pfns` (rising); returns which of them the dump holds.

    Rows of pages that are absent or damaged are undefined.
    """
    if isinstance(memory, GathersPages):
        return memory.gather(pfns, pages)
    return one_by_one(memory, pfns, pages)


def one_by_one(memory: Memory, pfns: NDArray[np.int64], pages: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The same through `Memory.view`."""
    held = np.zeros(len(pfns), np.bool_)
    size = memory.page_size
    for row, pfn in enumerate(pfns.tolist()):
        try:
            pages[row] = np.frombuffer(memory.view(pfn * size, size), np.uint8)
        except (NotPresentError, FormatError):
            continue
        held[row] = True
    return held
