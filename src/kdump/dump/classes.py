"""The class of each page, from its struct page: by a table of its marks, and by its neighbours.

The rules are the kernel's own definitions (include/linux/page-flags.h, mm_types.h, mm/page_alloc.c), in makedumpfile's
order where several apply. A compound page (folio) is decided by its head for all its tails; a free block covers
2^order pages. A page whose struct page contradicts itself is kept and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from kdump.dump import levels, marks
from kdump.dump.bulk import SlabFacts
from kdump.dump.facts import PageFacts
from kdump.dump.marks import Marked, Marker
from kdump.dump.memmap import field


class PageClass(IntEnum):
    """The use of a page. The values index `DROPPED_BY`."""

    KERNEL = 0  # and everything that is in no other class: kept
    FREE = 1
    CACHE = 2
    CACHE_PRIVATE = 3
    USER = 4
    HUGETLB = 5
    HWPOISON = 6
    OFFLINE = 7
    CACHE_OFF_LRU = 8
    UNMAPPED = 9  # no struct page tells: kept
    RECLAIMABLE_SLAB = 10  # kept, as the next
    MEMORY_MAP = 11


# The level bits that drop a class. ALWAYS is dropped whatever the level: reading such a page may kill the machine.
ALWAYS = 1 << 7
KERNEL_SPACE = 1 << 63  # virtual addresses from here on are the kernel's
DROPPED_BY = {
    PageClass.KERNEL: 0,
    PageClass.FREE: levels.FREE,
    PageClass.CACHE: levels.CACHE | levels.CACHE_PRIVATE,
    PageClass.CACHE_PRIVATE: levels.CACHE_PRIVATE,
    PageClass.USER: levels.USER,
    PageClass.HUGETLB: levels.USER,
    PageClass.HWPOISON: ALWAYS,
    PageClass.OFFLINE: ALWAYS,
    PageClass.CACHE_OFF_LRU: levels.OURS,
    PageClass.UNMAPPED: 0,
    PageClass.RECLAIMABLE_SLAB: 0,
    PageClass.MEMORY_MAP: 0,
}
BULK = (PageClass.RECLAIMABLE_SLAB, PageClass.MEMORY_MAP)  # see `bulk`
NAMES = {kind: kind.name.lower().replace("_", " ") for kind in PageClass}


def dropped(level: int) -> NDArray[np.bool_]:
    """Shape (len(PageClass),): whether a level drops each class."""
    return np.array([bool(DROPPED_BY[kind] & (level | ALWAYS)) for kind in PageClass])


def comes_first(level: int) -> NDArray[np.bool_]:
    """Shape (len(PageClass),): whether a dump of some level begins with the pages of each class.

    These are the ones that level 31 keeps too; where that is all that `level` keeps, those that open a dump.
    """
    kept = ~dropped(level | levels.MOST)
    return kept if (kept != ~dropped(level)).any() else kept & [kind not in BULK for kind in PageClass]


@dataclass
class Doubts:
    """Struct pages that contradict themselves; what they describe is kept."""

    bad_orders: int = 0  # free blocks of an impossible order or alignment
    lost_tails: int = 0  # tail pages whose head page is not a head


class Classifier:
    """Classifies consecutive batches of struct pages; remembers what reaches from one batch into the next.

    Not thread-safe. `doubts` counts what was kept because it made no sense.
    """

    def __init__(self, facts: PageFacts, *, off_lru: bool = False, slabs: SlabFacts | None = None) -> None:
        """With `off_lru`, page cache that is on no LRU list is told apart too, with `slabs` reclaimable ones."""
        self.facts = facts
        self._off_lru = off_lru
        self._slabs = slabs if slabs and 0 <= slabs.pointer <= facts.size - 8 else None
        self.doubts = Doubts()
        self._next_pfn = -1
        self._free_until = 0  # pfn at which a free block that began in the batch before ends
        self._head = (marks.NOWHERE, 0)  # address of the last struct page that was no tail, and its class
        self._marker = Marker(facts, _by_marks(user="user" not in facts.missing))

    def classify(self, raw: memoryview, first_pfn: int, virtual: int) -> NDArray[np.uint8]:
        """Classes (values of `PageClass`, dtype u1) of the whole struct pages in `raw`, which lie at `virtual`."""
        facts = self.facts
        if first_pfn != self._next_pfn:
            self._free_until, self._head = 0, (marks.NOWHERE, 0)
        marked = self._marker(raw)
        classes = marked.classes
        self._next_pfn = first_pfn + len(classes)
        if facts.hugetlb_type is None and (facts.hugetlb_flag is not None or facts.hugetlb_dtor is not None):
            self._hugetlb(raw, marked)
        if self._off_lru:
            self._cache_off_lru(raw, marked)
        if self._slabs:
            self._reclaimable_slabs(raw, marked, self._slabs)
        poisoned = marked.where(marks.HWPOISON)
        # Of a hugetlb page only the head is marked, for whichever of its pages is bad; others are marked singly.
        classes[poisoned[classes[poisoned] == PageClass.HUGETLB]] = PageClass.HWPOISON
        self.doubts.lost_tails += self._marker.follow_tails(raw, virtual, marked, self._head)
        if (last := marked.last_head()) >= 0:
            self._head = (virtual + last * facts.size, int(classes[last]))
        self._free(raw, marked, first_pfn)
        classes[poisoned] = PageClass.HWPOISON
        return classes

    def _hugetlb(self, raw: memoryview, marked: Marked) -> None:
        """Hugetlb heads before 6.9, marked in their first tails. (A batch is aligned: it does not end with a head.)"""
        facts, classes = self.facts, marked.classes
        heads = marked.where(marks.HEAD, marks.TAIL | marks.SLAB)
        heads = heads[heads + 1 < len(classes)]
        if facts.hugetlb_flag is not None:
            mark = (field(raw, "<u8", facts.flags, facts.size)[heads + 1] & np.uint64(facts.hugetlb_flag)) != 0
        else:
            mark = field(raw, "u1", facts.dtor, facts.size)[heads + 1] == facts.hugetlb_dtor
        mark &= (marked.marks[heads + 1] & np.uint16(marks.TAIL)) != 0
        mark &= (classes[heads] == PageClass.KERNEL) | (classes[heads] == PageClass.USER)
        classes[heads[mark]] = PageClass.HUGETLB

    def _cache_off_lru(self, raw: memoryview, marked: Marked) -> None:
        """Pages that belong to a file (their mapping is a plain pointer) but are on no LRU list.

        Pages on their way to or from a list, isolated for migration, or mapped from a driver's or perf's buffers.
        """
        mapping = field(raw, "<u8", self.facts.mapping, self.facts.size)
        # The two low bits tell anonymous and movable kernel pages (include/linux/page-flags.h, PAGE_MAPPING_*).
        found = (mapping >= np.uint64(KERNEL_SPACE)) & ((mapping & np.uint64(3)) == 0)
        found &= (marked.classes == PageClass.KERNEL) & ((marked.marks & np.uint16(marks.TAIL | marks.SLAB)) == 0)
        # Below are page types: tables, slabs, ...
        found &= field(raw, "<i4", self.facts.mapcount, self.facts.size) >= -1
        marked.classes[found] = PageClass.CACHE_OFF_LRU

    def _reclaimable_slabs(self, raw: memoryview, marked: Marked, slabs: SlabFacts) -> None:
        """Slabs (their first pages) whose cache is one of the reclaimable ones."""
        heads = marked.where(marks.SLAB)
        caches = field(raw, "<u8", slabs.pointer, self.facts.size)[heads]
        reclaimable = np.array((*slabs.caches, 0), np.uint64)
        found = heads[reclaimable[np.searchsorted(reclaimable[:-1], caches)] == caches]
        marked.classes[found] = PageClass.RECLAIMABLE_SLAB

    def _free(self, raw: memoryview, marked: Marked, first_pfn: int) -> None:
        """Blocks on the buddy allocator's lists, and memory not yet accepted: 2^order pages from each head."""
        facts, classes = self.facts, marked.classes
        if facts.buddy_type is None:
            return
        starts = marked.where(marks.BUDDY, marks.TAIL | marks.SLAB)
        orders = field(raw, "<u8", facts.private, facts.size)[starts]
        if len(blocks := marked.where(marks.UNACCEPTED, marks.TAIL)):
            starts = np.concatenate((starts, blocks))
            orders = np.concatenate((orders, np.full(len(blocks), facts.free_orders - 1, np.uint64)))
        good = orders < facts.free_orders
        sizes = np.left_shift(np.int64(1), np.where(good, orders, 0).astype(np.int64))
        good &= (starts + first_pfn & sizes - 1) == 0
        self.doubts.bad_orders += len(starts) - int(np.count_nonzero(good))
        starts, sizes = starts[good], sizes[good]
        carried = self._free_until - first_pfn
        if not len(starts) and carried <= 0:
            return
        reach = np.zeros(len(classes), np.int32)
        np.maximum.at(reach, starts, (starts + sizes).astype(np.int32))
        reach[:1] = np.maximum(reach[:1], carried)
        reach = np.maximum.accumulate(reach)
        classes[reach > np.arange(len(classes), dtype=np.int32)] = PageClass.FREE
        self._free_until = first_pfn + int(reach[-1])


def _by_marks(*, user: bool) -> NDArray[np.uint8]:
    """The class of each combination of marks, as far as they alone tell: shape (1 << BITS,).

    Without `user` anonymous pages are not told apart.
    """
    every = np.arange(1 << marks.BITS)

    def has(mark: int) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (every & mark) == mark
        return found

    classes = np.zeros(len(every), np.uint8)
    anonymous = has(marks.ANONYMOUS) & ~has(marks.SLAB)  # page->mapping overlays other members in a slab's struct page
    cache = (has(marks.LRU) | has(marks.SWAPCACHE | marks.SWAPBACKED)) & ~anonymous
    classes[cache] = PageClass.CACHE
    classes[cache & has(marks.PRIVATE)] = PageClass.CACHE_PRIVATE
    classes[anonymous & user] = PageClass.USER
    other = ~cache & ~has(marks.TAIL)
    classes[other & ~(anonymous & user) & has(marks.OFFLINE)] = PageClass.OFFLINE
    classes[other & has(marks.HUGETLB)] = PageClass.HUGETLB
    return classes
