"""Which class each page belongs to, from its struct page: a few array expressions over a batch.

The rules are the kernel's own definitions (include/linux/page-flags.h, mm_types.h, mm/page_alloc.c), in makedumpfile's
order where several apply. A compound page (folio) is decided by its head for all its tails; a free block covers
2^order pages. What contradicts itself is kept and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

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


# The level bits that drop a class; ALWAYS is dropped whatever the level (reading such a page may hang or kill the machine).
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
        count = len(raw) // facts.size
        self._next_pfn = first_pfn + count
        flags = self._flags(raw)
        tail = field(raw, "u1", facts.head_pointer, facts.size) & np.uint8(1)
        anonymous = field(raw, "u1", facts.mapping, facts.size) & np.uint8(1)
        types = field(raw, "<u4", facts.mapcount, facts.size).copy()

        classes = self._by_flags(flags, anonymous, self._is(types, facts.slab_type))
        self._typed(raw, flags, types, tail, classes)
        poisoned = None
        if facts.hwpoison is not None:
            poisoned = (flags & flags.dtype.type(facts.hwpoison)) != 0
            # Only the head of a hugetlb page is marked, for whichever of its pages is bad; others are marked themselves.
            classes[poisoned & (classes == PageClass.HUGETLB)] = PageClass.HWPOISON
        self._tails(raw, flags, tail, classes, virtual)
        self._free(raw, types, flags, tail, classes, first_pfn)
        if poisoned is not None:
            classes[poisoned] = PageClass.HWPOISON
        return classes

    def _flags(self, raw: memoryview) -> NDArray[np.unsignedinteger]:
        """The flags, as 32-bit numbers where every bit we look at is in them."""
        facts = self.facts
        masks = facts.lru | facts.private_bit | facts.swapcache | facts.swapbacked | facts.head_bit
        masks |= (facts.hwpoison or 0) | (facts.slab_bit or 0)
        copied: NDArray[np.unsignedinteger] = field(
            raw, "<u4" if masks < 1 << 32 else "<u8", facts.flags, facts.size
        ).copy()
        return copied

    def _by_flags(
        self, flags: NDArray[np.unsignedinteger], anonymous: NDArray[np.uint8], slab: NDArray[np.bool_] | None
    ) -> NDArray[np.uint8]:
        """Cache, private cache and anonymous pages: a table over the bits that decide."""
        facts = self.facts

        def bit(mask: int, place: int) -> NDArray[np.uint8]:
            return ((flags & flags.dtype.type(mask)) != 0).view(np.uint8) << np.uint8(place)

        index = bit(facts.lru, 0)
        index |= bit(facts.swapcache, 1)
        index |= bit(facts.swapbacked, 2)
        index |= bit(facts.private_bit, 3)
        index |= anonymous << np.uint8(4)
        if slab is not None:
            index |= slab.view(np.uint8) << np.uint8(5)
        elif facts.slab_bit is not None:
            index |= bit(facts.slab_bit, 5)
        return self._decision[index]

    def _is(self, types: NDArray[np.uint32], value: int | None) -> NDArray[np.bool_] | None:
        """Which pages have a page type; None if the kernel has no such type."""
        if value is None:
            return None
        if value >> PGTY_SHIFT >= 0xF0 and not value & (1 << PGTY_SHIFT) - 1:  # 6.12: the top byte alone is the type
            return (types >> np.uint32(PGTY_SHIFT)) == np.uint32(value >> PGTY_SHIFT)
        return types == np.uint32(value)

    def _typed(
        self,
        raw: memoryview,
        flags: NDArray[np.unsignedinteger],
        types: NDArray[np.uint32],
        tail: NDArray[np.uint8],
        classes: NDArray[np.uint8],
    ) -> None:
        """Hugetlb heads and offline pages."""
        facts = self.facts
        kept = classes == PageClass.KERNEL
        offline = self._is(types, facts.offline_type)
        if offline is not None:
            classes[offline & kept & (tail == 0)] = PageClass.OFFLINE
        hugetlb = self._is(types, facts.hugetlb_type)
        if hugetlb is None and (facts.hugetlb_flag is not None or facts.hugetlb_dtor is not None):
            # Marked in the first tail page; a head is never the last struct page of a batch (both are aligned).
            hugetlb = np.zeros(len(classes), np.bool_)
            if facts.hugetlb_flag is not None:
                mark = (flags & flags.dtype.type(facts.hugetlb_flag)) != 0
            else:
                mark = field(raw, "u1", facts.dtor, facts.size) == facts.hugetlb_dtor
            head = (flags & flags.dtype.type(facts.head_bit)) != 0
            hugetlb[:-1] = head[:-1] & mark[1:] & (tail[1:] != 0)
        if hugetlb is not None:
            user = classes == PageClass.USER
            classes[hugetlb & (kept | user) & (tail == 0)] = PageClass.HUGETLB

    def _tails(
        self,
        raw: memoryview,
        flags: NDArray[np.unsignedinteger],
        tail: NDArray[np.uint8],
        classes: NDArray[np.uint8],
        virtual: int,
    ) -> None:
        """Tail pages take the class of the head that they themselves point to."""
        facts = self.facts
        tails = np.flatnonzero(tail)
        carried, carried_class = self._head
        if len(tails):
            pointer = field(raw, "<u8", facts.head_pointer, facts.size)[tails]
            own = np.uint64(virtual) + tails.astype(np.uint64) * np.uint64(facts.size)
            # Since 7.1 compound_info may be a mask to apply to the tail's own address instead of the head's address.
            masks = pointer >= np.uint64(_LOWEST_MASK)
            heads = np.where(masks, own & pointer, pointer) & ~np.uint64(1)
            place = (heads - np.uint64(virtual)).view(np.int64) // facts.size
            inside = (place >= 0) & (place < tails)
            found = np.where(inside, place, 0)
            is_head = inside & (tail[found] == 0) & ((flags[found] & flags.dtype.type(facts.head_bit)) != 0)
            from_before = (
                heads == np.uint64(carried & (1 << 64) - 1) if carried >= 0 else np.zeros(len(tails), np.bool_)
            )
            result = np.where(is_head, classes[found], np.uint8(PageClass.KERNEL))
            classes[tails] = np.where(from_before, carried_class, result)
            self.doubts.lost_tails += len(tails) - int(np.count_nonzero(is_head | from_before))
        others = np.flatnonzero(tail == 0)
        if len(others):
            last = int(others[-1])
            self._head = (virtual + last * facts.size, classes[last])

    def _free(
        self,
        raw: memoryview,
        types: NDArray[np.uint32],
        flags: NDArray[np.unsignedinteger],
        tail: NDArray[np.uint8],
        classes: NDArray[np.uint8],
        first_pfn: int,
    ) -> None:
        """Blocks on the buddy allocator's lists, and memory not yet accepted: 2^order pages from each head."""
        facts = self.facts
        buddy = self._is(types, facts.buddy_type)
        if buddy is None:
            return
        buddy &= tail == 0
        if facts.slab_bit is not None:
            buddy &= (flags & flags.dtype.type(facts.slab_bit)) == 0
        starts = np.flatnonzero(buddy)
        orders = field(raw, "<u8", facts.private, facts.size)[starts]
        unaccepted = self._is(types, facts.unaccepted_type)
        if unaccepted is not None and unaccepted.any():
            blocks = np.flatnonzero(unaccepted & (tail == 0))
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
