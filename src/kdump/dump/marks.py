"""Marks of each struct page, a bit for each fact that rules ask for, and the head that a tail points to.

All struct pages of a machine pass through here, once: see `kdump.native.interface`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdump.dump.facts import PGTY_SHIFT, PageFacts
from kdump.native.engine import engine
from kdump.native.interface import Fates, PageLayout

BITS = 13
TAIL, ANONYMOUS, LRU, PRIVATE, SWAPCACHE, SWAPBACKED, HEAD, HWPOISON, SLAB, HUGETLB, BUDDY, OFFLINE, UNACCEPTED = (
    1 << bit for bit in range(BITS)
)
NOWHERE = 1  # no struct page is at an odd address

_FIRST_TYPE, _TOP = 0xF0 << PGTY_SHIFT, 0xFF << PGTY_SHIFT  # PGTY_buddy is the lowest type


class Marked(NamedTuple):
    """Consecutive struct pages: `marks` (dtype u2) and `classes` (u1) of each, and which marks there are at all."""

    marks: NDArray[np.uint16]
    classes: NDArray[np.uint8]
    seen: int

    def where(self, mark: int, mask: int = 0) -> NDArray[np.intp]:
        """Indices of the pages that have `mark`, and none of `mask`."""
        if not self.seen & mark:
            return np.zeros(0, np.intp)
        return np.flatnonzero((self.marks & np.uint16(mark | mask)) == mark)

    def last_head(self) -> int:
        """Index of the last page that is not a tail; -1 if all are tails."""
        last = len(self.marks) - 1
        if last >= 0 and self.marks[last] & TAIL:
            heads = np.flatnonzero((self.marks & np.uint16(TAIL)) == 0)
            return int(heads[-1]) if len(heads) else -1
        return last


class Marker:
    """Marks struct pages, and gives each the class that stands for its marks in a table."""

    def __init__(self, facts: PageFacts, classes: NDArray[np.uint8]) -> None:
        """`classes`: shape (1 << BITS,), the class of each combination of marks."""
        types = _types(facts)
        # Since 6.12 the top byte alone is the type; before, all of it has to be compared.
        top = all(value >= _FIRST_TYPE and not value & ~_TOP for value in types)
        layout = PageLayout(
            facts.size, facts.flags, facts.mapping, facts.mapcount, facts.head_pointer,
            _of_flags(facts), _TOP if top else 0xFFFF_FFFF, types, classes,
        )  # fmt: skip
        self._pages = engine.struct_pages(layout)

    def __call__(self, raw: memoryview) -> Marked:
        """The whole struct pages in `raw`."""
        return Marked(*self._pages.mark(raw))

    def follow_tails(self, raw: memoryview, virtual: int, marked: Marked, before: tuple[int, int]) -> int:
        """Give tails the class of the head they point to: one of these, which lie at `virtual`, or the one before.

        `before`: its address and class. Returns how many tails point to no head; their class becomes 0.
        """
        if not marked.seen & TAIL:
            return 0
        return self._pages.follow_tails(raw, virtual, marked.marks, marked.classes, before)


def find_fates(
    classes: NDArray[np.uint8], held: NDArray[np.bool_], keep: NDArray[np.bool_], begin: NDArray[np.bool_]
) -> Fates:
    """`keep` and `begin`: for each class, whether its pages are kept and come first, if they are `held`.

    Values for none of them mean nothing.
    """
    table = np.zeros(256, np.uint8)
    table[: len(keep)] = keep + begin * np.uint8(2)
    found = engine.find_fates(classes, held, table)
    return found._replace(counts=found.counts[: len(keep)])


def _of_flags(facts: PageFacts) -> NDArray[np.uint16]:
    """The marks of each value of each byte of a page's flags, from the lowest byte on; shape (n, 256)."""
    masks = {
        LRU: facts.lru, PRIVATE: facts.private_bit, SWAPCACHE: facts.swapcache, SWAPBACKED: facts.swapbacked,
        HEAD: facts.head_bit, HWPOISON: facts.hwpoison or 0, SLAB: facts.slab_bit or 0,
    }  # fmt: skip
    found = np.zeros((8, 256), np.uint16)
    values = np.arange(256)
    for mark, mask in masks.items():
        for byte in range(8):
            found[byte] |= ((values & (mask >> 8 * byte & 0xFF)) != 0) * np.uint16(mark)
    return found[: max(int(mask).bit_length() + 7 >> 3 for mask in masks.values())]


def _types(facts: PageFacts) -> dict[int, int]:
    """Page type → mark."""
    types = {
        SLAB: facts.slab_type, HUGETLB: facts.hugetlb_type, BUDDY: facts.buddy_type, OFFLINE: facts.offline_type,
        UNACCEPTED: facts.unaccepted_type,
    }  # fmt: skip
    found: dict[int, int] = {}
    for mark, value in types.items():
        if value is not None:
            found[value] = found.get(value, 0) | mark
    return found
