"""What each struct page tells by itself, a bit for each thing that rules ask for, and which head a tail points to.

All struct pages of a machine pass through here: one pass over them, in C where libkdump.so was built (`marks.c`).
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdump.dump.facts import PGTY_SHIFT, PageFacts
from kdump.dump.memmap import field
from kdump.native import loops
from kdump.native.loops import address

BITS = 13
TAIL, ANONYMOUS, LRU, PRIVATE, SWAPCACHE, SWAPBACKED, HEAD, HWPOISON, SLAB, HUGETLB, BUDDY, OFFLINE, UNACCEPTED = (
    1 << bit for bit in range(BITS)
)
NOWHERE = 1  # no struct page is at an odd address

_FIRST_TYPE, _TOP = 0xF0 << PGTY_SHIFT, 0xFF << PGTY_SHIFT  # PGTY_buddy is the lowest type
_LOWEST_MASK = 0xFFFF_FFFF_0000_0000  # no struct page lies above it: the kernel's image and modules do


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
        """Index of the last page that is no tail; -1 if all are tails."""
        last = len(self.marks) - 1
        if last >= 0 and self.marks[last] & TAIL:
            heads = np.flatnonzero((self.marks & np.uint16(TAIL)) == 0)
            return int(heads[-1]) if len(heads) else -1
        return last


class _Marking(ctypes.Structure):
    """struct marking of marks.c"""

    _fields_ = (
        ("page", ctypes.c_size_t),
        ("flags", ctypes.c_size_t),
        ("mapping", ctypes.c_size_t),
        ("mapcount", ctypes.c_size_t),
        ("head", ctypes.c_size_t),
        ("of_flags", ctypes.c_void_p),
        ("flag_bytes", ctypes.c_size_t),
        ("type_mask", ctypes.c_uint32),
        ("lowest", ctypes.c_uint32),
        ("span", ctypes.c_uint32),
        ("types", ctypes.c_uint32 * 5),
        ("of_types", ctypes.c_uint32 * 5),
        ("classes", ctypes.c_void_p),
    )


class Marker:
    """Marks struct pages, and gives each the class that stands for its marks in a table."""

    def __init__(self, facts: PageFacts, classes: NDArray[np.uint8]) -> None:
        """`classes`: shape (1 << BITS,), the class of each combination of marks."""
        self._facts = facts
        self._classes = classes
        self._of_flags = _of_flags(facts)
        self._types = _types(facts)
        # Since 6.12 the top byte alone is the type; before, all of it has to be compared.
        top = all(value >= _FIRST_TYPE and not value & ~_TOP for value in self._types)
        self._type_mask = _TOP if top else 0xFFFF_FFFF
        lowest, highest = min(self._types, default=0), max(self._types, default=0)
        numbers = ctypes.c_uint32 * 5
        self._how = _Marking(
            facts.size, facts.flags, facts.mapping, facts.mapcount, facts.head_pointer,
            address(self._of_flags), len(self._of_flags), self._type_mask, lowest, highest - lowest,
            numbers(*self._types), numbers(*self._types.values()), address(classes),
        )  # fmt: skip

    def __call__(self, raw: memoryview) -> Marked:
        """The whole struct pages in `raw`."""
        facts = self._facts
        if library := loops.library():
            count = len(raw) // facts.size
            marks, classes = np.empty(count, np.uint16), np.empty(count, np.uint8)
            how, pages = ctypes.byref(self._how), address(np.frombuffer(raw, np.uint8))
            return Marked(marks, classes, library.kdump_marks(how, pages, count, address(marks), address(classes)))
        marks = (field(raw, "u1", facts.head_pointer, facts.size) & np.uint8(1)).astype(np.uint16)
        marks |= (field(raw, "u1", facts.mapping, facts.size) & np.uint8(1)) * np.uint16(ANONYMOUS)
        for byte, table in enumerate(self._of_flags):
            marks |= table[field(raw, "u1", facts.flags + byte, facts.size)]
        types = field(raw, "<u4", facts.mapcount, facts.size) & np.uint32(self._type_mask)
        for value, mark in self._types.items():
            marks |= (types == value) * np.uint16(mark)
        return Marked(marks, self._classes[marks], int(np.bitwise_or.reduce(marks, initial=0)))

    def follow_tails(self, raw: memoryview, virtual: int, marked: Marked, before: tuple[int, int]) -> int:
        """Give tails the class of the head they point to: one of these, which lie at `virtual`, or the one before.

        `before`: its address and class. Returns how many tails point to no head; their class becomes 0.
        """
        if not marked.seen & TAIL:
            return 0
        size = self._facts.size
        marks, classes = marked.marks, marked.classes
        if library := loops.library():
            pages = address(np.frombuffer(raw, np.uint8))
            return int(
                library.kdump_tails(
                    ctypes.byref(self._how), pages, len(marks), virtual, *before, address(marks), address(classes)
                )
            )
        tails = marked.where(TAIL)
        pointer = field(raw, "<u8", self._facts.head_pointer, size)[tails]
        own = np.uint64(virtual) + tails.astype(np.uint64) * np.uint64(size)
        # Since 7.1 compound_info may be a mask to apply to the tail's own address instead of the head's address.
        heads = np.where(pointer >= np.uint64(_LOWEST_MASK), own & pointer, pointer) & ~np.uint64(1)
        place = (heads - np.uint64(virtual)) // np.uint64(size)
        inside = place < tails.astype(np.uint64)
        found = np.where(inside, place, 0).astype(np.intp)
        is_head = inside & ((marks[found] & np.uint16(TAIL | HEAD)) == HEAD)
        is_before = heads == np.uint64(before[0])
        classes[tails] = np.where(is_before, np.uint8(before[1]), np.where(is_head, classes[found], np.uint8(0)))
        return len(tails) - int(np.count_nonzero(is_head | is_before))


class Fates(NamedTuple):
    """What becomes of pages: which are kept (dtype bool), which of these come first; how many each class has."""

    kept: NDArray[np.bool_]
    first: NDArray[np.bool_]
    counts: NDArray[np.int64]


def find_fates(
    classes: NDArray[np.uint8], held: NDArray[np.bool_], keep: NDArray[np.bool_], begin: NDArray[np.bool_]
) -> Fates:
    """`keep` and `begin`: for each class, whether its pages are kept and come first, if they are `held`.

    Values that stand for none of them are nothing.
    """
    table = np.zeros(256, np.uint8)
    table[: len(keep)] = keep + begin * np.uint8(2)
    if library := loops.library():
        found = Fates(np.empty(len(classes), np.bool_), np.empty(len(classes), np.bool_), np.zeros(256, np.int64))
        library.kdump_fates(address(classes), address(held), len(classes), address(table), *map(address, found))
        return found._replace(counts=found.counts[: len(keep)])
    counts = np.array([np.count_nonzero(classes == number) for number in range(len(keep))], np.int64)
    fates = np.frombuffer(classes.tobytes().translate(table.tobytes()), np.uint8) * held  # NumPy's look-up takes longer
    return Fates((fates & np.uint8(1)).view(np.bool_), fates > 1, counts)


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
