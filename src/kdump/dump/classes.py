"""Which class each page belongs to, from its struct page: a few array expressions over a batch.

The rules are the kernel's own definitions (include/linux/page-flags.h, mm_types.h, mm/page_alloc.c), in makedumpfile's
order where several apply. A compound page (folio) is decided by its head for all its tails; a free block covers
2^order pages. What contradicts itself is kept and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdump.dump import levels
from kdump.dump.bulk import SlabFacts
from kdump.dump.facts import PGTY_SHIFT, PageFacts
from kdump.dump.memmap import field


class PageClass(IntEnum):
    """What a page is used for. The values index `DROPPED_BY`."""

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
FIRST_TYPE, LOW_BITS = 0xF0 << PGTY_SHIFT, (1 << PGTY_SHIFT) - 1  # PGTY_buddy is the lowest type
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
    lost_tails: int = 0  # tail pages whose head is no head


class Classifier:
    """Classifies consecutive batches of struct pages; remembers what reaches from one batch into the next.

    Not thread-safe. `doubts` counts what was kept because it made no sense.
    """

    def __init__(self, facts: PageFacts, *, off_lru: bool = False, slabs: SlabFacts | None = None) -> None:
        """With `off_lru`, page cache that is on no LRU list is told apart too, with `slabs` reclaimable ones."""
        self.facts = facts
        self._off_lru = off_lru
        self._slabs = slabs
        self.doubts = Doubts()
        self._next_pfn = -1
        self._free_until = 0  # pfn at which a free block that began in the batch before ends
        self._head = (-1, np.uint8(0))  # address of the last struct page that was no tail, and its class

    def classify(self, raw: memoryview, first_pfn: int, virtual: int) -> NDArray[np.uint8]:
        """Classes (values of `PageClass`, dtype u1) of the whole struct pages in `raw`, which lie at `virtual`."""
        facts = self.facts
        if first_pfn != self._next_pfn:
            self._free_until, self._head = 0, (-1, np.uint8(0))
        batch = _Batch(raw, facts)
        self._next_pfn = first_pfn + len(batch.tail)
        classes = self._by_flags(batch)
        self._typed(batch, classes)
        if self._off_lru:
            self._cache_off_lru(batch, classes)
        if self._slabs and batch.slab is not None:
            self._reclaimable_slabs(batch, classes, batch.slab, self._slabs)
        poisoned = batch.flag(facts.hwpoison) if facts.hwpoison is not None else None
        if poisoned is not None:
            # Of a hugetlb page only the head is marked, for whichever of its pages is bad; others are marked singly.
            classes[poisoned & (classes == PageClass.HUGETLB)] = PageClass.HWPOISON
        self._tails(batch, classes, virtual)
        self._free(batch, classes, first_pfn)
        if poisoned is not None:
            classes[poisoned] = PageClass.HWPOISON
        return classes

    def _by_flags(self, batch: _Batch) -> NDArray[np.uint8]:
        """Cache, private cache and anonymous pages.

        Arithmetic on booleans as bytes: with CACHE 2, CACHE_PRIVATE 3 and USER 4 the bits add up to the class.
        """
        facts = self.facts
        anonymous: NDArray[np.bool_] = (batch.field("u1", facts.mapping) & np.uint8(1)).view(np.bool_)
        if batch.slab is not None:
            anonymous &= ~batch.slab  # page->mapping overlays other members in a slab's struct page
        swapped = batch.mask(facts.swapcache | facts.swapbacked)
        cache = batch.flag(facts.lru)
        cache |= (batch.flags & swapped) == swapped
        cache &= ~anonymous
        private = batch.flag(facts.private_bit)
        private &= cache
        classes = cache.view(np.uint8) << np.uint8(1)
        classes |= private.view(np.uint8)
        if "user" not in facts.missing:
            classes |= anonymous.view(np.uint8) << np.uint8(2)
        return classes

    def _typed(self, batch: _Batch, classes: NDArray[np.uint8]) -> None:
        """Hugetlb heads and offline pages: both rare, so most batches are done after a look."""
        facts = self.facts
        offline = batch.is_type(facts.offline_type)
        if offline is not None and offline.any():
            classes[offline & (classes == PageClass.KERNEL) & (batch.tail == 0)] = PageClass.OFFLINE
        hugetlb = batch.is_type(facts.hugetlb_type)
        if hugetlb is None and (facts.hugetlb_flag is not None or facts.hugetlb_dtor is not None):
            hugetlb = self._marked_in_tail(batch)
        if hugetlb is not None and hugetlb.any():
            other = (classes == PageClass.KERNEL) | (classes == PageClass.USER)
            classes[hugetlb & other & (batch.tail == 0)] = PageClass.HUGETLB

    def _cache_off_lru(self, batch: _Batch, classes: NDArray[np.uint8]) -> None:
        """Pages that belong to a file (their mapping is a plain pointer) but are on no LRU list.

        Pages on their way to or from a list, isolated for migration, or mapped from a driver's or perf's buffers.
        """
        mapping = batch.field("<u8", self.facts.mapping)
        # The two low bits tell anonymous and movable kernel pages (include/linux/page-flags.h, PAGE_MAPPING_*).
        found = (mapping >= np.uint64(KERNEL_SPACE)) & ((mapping & np.uint64(3)) == 0)
        found &= (classes == PageClass.KERNEL) & (batch.tail == 0)
        if batch.slab is not None:
            found &= ~batch.slab
        found &= batch.field("<i4", self.facts.mapcount) >= -1  # below are page types: tables, slabs, ...
        classes[found] = PageClass.CACHE_OFF_LRU

    @staticmethod
    def _reclaimable_slabs(
        batch: _Batch, classes: NDArray[np.uint8], slab: NDArray[np.bool_], facts: SlabFacts
    ) -> None:
        """Slabs (their first pages) whose cache is one of the reclaimable ones."""
        heads = np.flatnonzero(slab)
        caches = batch.field("<u8", facts.pointer)[heads]
        reclaimable = np.array((*facts.caches, 0), np.uint64)
        classes[heads[reclaimable[np.searchsorted(reclaimable[:-1], caches)] == caches]] = PageClass.RECLAIMABLE_SLAB

    def _marked_in_tail(self, batch: _Batch) -> NDArray[np.bool_]:
        """Hugetlb heads before 6.9. (A head is never the last struct page of a batch: both are aligned.)"""
        facts = self.facts
        head = batch.flag(facts.head_bit)
        if not head.any():
            return head
        if facts.hugetlb_flag is not None:
            mark = batch.flag(facts.hugetlb_flag)
        else:
            mark = batch.field("u1", facts.dtor) == facts.hugetlb_dtor
        head[:-1] &= mark[1:] & (batch.tail[1:] != 0)
        head[-1:] = False
        return head

    def _tails(self, batch: _Batch, classes: NDArray[np.uint8], virtual: int) -> None:
        """Tail pages take the class of the head that they themselves point to."""
        facts = self.facts
        tails = np.flatnonzero(batch.tail)
        if len(tails):
            pointer = batch.field("<u8", facts.head_pointer)[tails]
            own = np.uint64(virtual) + tails.astype(np.uint64) * np.uint64(facts.size)
            # Since 7.1 compound_info may be a mask to apply to the tail's own address instead of the head's address.
            heads = np.where(pointer >= np.uint64(_LOWEST_MASK), own & pointer, pointer) & ~np.uint64(1)
            place = (heads - np.uint64(virtual)).view(np.int64) // facts.size
            inside = (place >= 0) & (place < tails)
            found = np.where(inside, place, 0)
            is_head = inside & (batch.tail[found] == 0) & ((batch.flags[found] & batch.mask(facts.head_bit)) != 0)
            carried, carried_class = self._head
            before = heads == np.uint64(carried) if carried >= 0 else np.zeros(len(tails), np.bool_)
            result = np.where(is_head, classes[found], np.uint8(PageClass.KERNEL))
            classes[tails] = np.where(before, carried_class, result)
            self.doubts.lost_tails += len(tails) - int(np.count_nonzero(is_head | before))
        others = np.flatnonzero(batch.tail == 0)
        if len(others):
            last = int(others[-1])
            self._head = (virtual + last * facts.size, classes[last])

    def _free(self, batch: _Batch, classes: NDArray[np.uint8], first_pfn: int) -> None:
        """Blocks on the buddy allocator's lists, and memory not yet accepted: 2^order pages from each head."""
        facts = self.facts
        buddy = batch.is_type(facts.buddy_type)
        if buddy is None:
            return
        buddy &= batch.tail == 0
        if batch.slab is not None:
            buddy &= ~batch.slab
        starts = np.flatnonzero(buddy)
        orders = batch.field("<u8", facts.private)[starts]
        unaccepted = batch.is_type(facts.unaccepted_type)
        if unaccepted is not None and unaccepted.any():
            blocks = np.flatnonzero(unaccepted & (batch.tail == 0))
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


class _Batch:
    """Consecutive struct pages, by member; the members that several rules look at are copied out once."""

    def __init__(self, raw: memoryview, facts: PageFacts) -> None:
        self._raw = raw
        self._size = facts.size
        masks = facts.lru | facts.private_bit | facts.swapcache | facts.swapbacked | facts.head_bit
        masks |= (facts.hwpoison or 0) | (facts.slab_bit or 0) | (facts.hugetlb_flag or 0)
        self.flags = self.field("<u4" if masks < 1 << 32 else "<u8", facts.flags).copy()
        self.tail = self.field("u1", facts.head_pointer) & np.uint8(1)
        kinds = (facts.slab_type, facts.buddy_type, facts.offline_type, facts.hugetlb_type, facts.unaccepted_type)
        # Since 6.12 the top byte alone is the type; before, all of it has to be compared.
        self._top = all(value is None or (value >= FIRST_TYPE and not value & LOW_BITS) for value in kinds)
        place = facts.mapcount + PGTY_SHIFT // 8 if self._top else facts.mapcount
        self._types = self.field("u1" if self._top else "<u4", place).copy()
        self.slab = self.flag(facts.slab_bit) if facts.slab_bit is not None else self.is_type(facts.slab_type)

    def field(self, dtype: str, offset: int) -> NDArray[Any]:
        """A member of each struct page: shape (n,), strided."""
        return field(self._raw, dtype, offset, self._size)

    def mask(self, value: int) -> Any:
        """A mask as a scalar of the flags' type."""
        return self.flags.dtype.type(value)

    def flag(self, mask: int) -> NDArray[np.bool_]:
        """Which pages have a flag."""
        found: NDArray[np.bool_] = (self.flags & self.mask(mask)) != 0
        return found

    def is_type(self, value: int | None) -> NDArray[np.bool_] | None:
        """Which pages have a page type; None if the kernel has no such type."""
        if value is None:
            return None
        found: NDArray[np.bool_] = self._types == (value >> PGTY_SHIFT if self._top else value)
        return found


_LOWEST_MASK = 0xFFFF_FFFF_0000_0000  # no struct page lies above it: the kernel's image and modules do
