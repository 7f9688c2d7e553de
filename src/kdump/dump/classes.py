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


# The level bits that drop a class. ALWAYS is dropped whatever the level: reading such a page may kill the machine.
ALWAYS = 1 << 7
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
}
NAMES = {kind: kind.name.lower().replace("_", " ") for kind in PageClass}


def dropped(level: int) -> NDArray[np.bool_]:
    """Shape (len(PageClass),): whether a level drops each class."""
    return np.array([bool(DROPPED_BY[kind] & (level | ALWAYS)) for kind in PageClass])


@dataclass
class Doubts:
    """Struct pages that contradict themselves; what they describe is kept."""

    bad_orders: int = 0  # free blocks of an impossible order or alignment
    lost_tails: int = 0  # tail pages whose head is no head


class Classifier:
    """Classifies consecutive batches of struct pages; remembers what reaches from one batch into the next.

    Not thread-safe. `doubts` counts what was kept because it made no sense.
    """

    def __init__(self, facts: PageFacts) -> None:
        self.facts = facts
        self.doubts = Doubts()
        self._next_pfn = -1
        self._free_until = 0  # pfn at which a free block that began in the batch before ends
        self._head = (-1, np.uint8(0))  # address of the last struct page that was no tail, and its class
        self._decision = _decision_table(facts)

    def classify(self, raw: memoryview, first_pfn: int, virtual: int) -> NDArray[np.uint8]:
        """Classes (values of `PageClass`, dtype u1) of the whole struct pages in `raw`, which lie at `virtual`."""
        facts = self.facts
        if first_pfn != self._next_pfn:
            self._free_until, self._head = 0, (-1, np.uint8(0))
        batch = _Batch(raw, facts)
        self._next_pfn = first_pfn + len(batch.tail)
        classes = self._by_flags(batch)
        self._typed(batch, classes)
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
        """Cache, private cache and anonymous pages: a table over the bits that decide."""
        facts = self.facts
        index = batch.flag(facts.lru).view(np.uint8)
        for place, mask in ((1, facts.swapcache), (2, facts.swapbacked), (3, facts.private_bit)):
            index |= batch.flag(mask).view(np.uint8) << np.uint8(place)
        anonymous = batch.field("u1", facts.mapping) & np.uint8(1)
        index |= anonymous << np.uint8(4)
        slab = batch.flag(facts.slab_bit) if facts.slab_bit is not None else batch.is_type(facts.slab_type)
        if slab is not None:
            index |= slab.view(np.uint8) << np.uint8(5)
        return self._decision[index]

    def _typed(self, batch: _Batch, classes: NDArray[np.uint8]) -> None:
        """Hugetlb heads and offline pages."""
        facts = self.facts
        first = batch.tail == 0
        kept = classes == PageClass.KERNEL
        offline = batch.is_type(facts.offline_type)
        if offline is not None:
            classes[offline & kept & first] = PageClass.OFFLINE
        hugetlb = batch.is_type(facts.hugetlb_type)
        if hugetlb is None and (facts.hugetlb_flag is not None or facts.hugetlb_dtor is not None):
            # Marked in the first tail page. (A head is never the last struct page of a batch: both are aligned.)
            if facts.hugetlb_flag is not None:
                mark = batch.flag(facts.hugetlb_flag)
            else:
                mark = batch.field("u1", facts.dtor) == facts.hugetlb_dtor
            hugetlb = np.zeros(len(classes), np.bool_)
            hugetlb[:-1] = batch.flag(facts.head_bit)[:-1] & mark[1:] & ~first[1:]
        if hugetlb is not None:
            classes[hugetlb & (kept | (classes == PageClass.USER)) & first] = PageClass.HUGETLB

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
        if facts.slab_bit is not None:
            buddy &= ~batch.flag(facts.slab_bit)
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
        reach = np.zeros(len(classes), np.int64)
        np.maximum.at(reach, starts, starts + sizes)
        reach[:1] = np.maximum(reach[:1], self._free_until - first_pfn)
        reach = np.maximum.accumulate(reach)
        classes[reach > np.arange(len(classes))] = PageClass.FREE
        if len(reach):
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
        self._types = self.field("<u4", facts.mapcount).copy()

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
        found: NDArray[np.bool_]
        if value >> PGTY_SHIFT >= 0xF0 and not value & (1 << PGTY_SHIFT) - 1:  # since 6.12 the top byte alone decides
            found = (self._types >> np.uint32(PGTY_SHIFT)) == np.uint32(value >> PGTY_SHIFT)
        else:
            found = self._types == np.uint32(value)
        return found


_LOWEST_MASK = 0xFFFF_FFFF_0000_0000  # no struct page lies above it: the kernel's image and modules do


def _decision_table(facts: PageFacts) -> NDArray[np.uint8]:
    """Class by (lru, swapcache, swapbacked, private, anonymous mapping, slab), bits 0 to 5 of the index."""
    table = np.full(64, PageClass.KERNEL, np.uint8)
    for index in range(64):
        lru, swapcache, swapbacked, private, mapped, slab = (bool(index >> bit & 1) for bit in range(6))
        anonymous = mapped and not slab  # page->mapping overlays other members in a slab's struct page
        if (lru or (swapcache and swapbacked)) and not anonymous:
            table[index] = PageClass.CACHE_PRIVATE if private else PageClass.CACHE
        elif anonymous and "user" not in facts.missing:
            table[index] = PageClass.USER
    return table
