"""Free pages that the CPUs keep at hand (pcp): on lists of their own, in front of the buddy allocator's.

Their struct pages look like any kernel page's: only the lists tell. They may be a third of what level 31 would keep
otherwise, as up to `high` pages of each CPU and zone wait there (mm/page_alloc.c, zone_highsize).
Source: include/linux/mmzone.h (struct zone, per_cpu_pages), mm/page_alloc.c (order_to_pindex, free_frozen_page_commit).
"""

from __future__ import annotations

import json
import struct
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdump.dump.memmap import MapRun
from kdump.dump.zones import populated_zones
from kdump.errors import FormatError, KdumpError, NotPresentError
from kdump.kernel.vmcoreinfo import VmCoreInfo
from kdump.memory.virtual import VirtualMemory

if TYPE_CHECKING:
    from kdump.kernel.kernel import Kernel

_LINKS = struct.Struct("<QQ")  # struct list_head: next, prev
_COUNT = struct.Struct("<I")
_COSTLY_ORDER = 3  # PAGE_ALLOC_COSTLY_ORDER: lists of higher orders are for huge pages only
_HUGE_ORDER = 9  # HPAGE_PMD_ORDER of 4 KiB pages
_LISTS_LIMIT, _CPUS_LIMIT = 256, 1 << 14
_PAGE = 4096
_CACHED = 4096  # pages of struct pages at hand
_ADDRESSES = (1 << 64) - 1


class ListFacts(NamedTuple):
    """Where a kernel has these lists: offsets in bytes, of the per-CPU pointer in struct zone and of the lists behind.

    There are `number` lists, `types` (migrate types) for each order; `bases` is what to add to a per-CPU pointer, for
    each CPU.
    """

    pointer: int
    lists: int
    number: int
    types: int
    bases: tuple[int, ...]


def find_lists(kernel: Kernel) -> ListFacts | None:
    """From the kernel's types and symbols; None if they do not tell."""
    try:
        zone = kernel.types.struct("zone")
        pages, path = "per_cpu_pages", "lists"
        pointer = zone.first("per_cpu_pageset")
        if pointer is None:  # before 5.14
            pointer, pages, path = zone.member("pageset"), "per_cpu_pageset", "pcp.lists"
        lists = kernel.types.struct(pages).member(path)
        number, types = lists.type.resolve().length, kernel.types.enumerator("MIGRATE_PCPTYPES")
        if not 0 < types <= number <= _LISTS_LIMIT:
            return None
        bases = tuple(kernel.objects.per_cpu_base(cpu) for cpu in kernel.objects.cpus("possible"))
        return ListFacts(pointer.offset, lists.offset, number, types, bases)
    except (KeyError, KdumpError):
        return None


def to_json(facts: ListFacts | None) -> str:
    """For another process, which need not open types and symbols."""
    return json.dumps(facts)


def from_json(text: bytes) -> ListFacts | None:
    """What `to_json` gave."""
    found = json.loads(text)
    return ListFacts._make([*found[:-1], tuple(found[-1])]) if found else None


def free_pages_on_lists(
    facts: ListFacts, info: VmCoreInfo, virtual: VirtualMemory, runs: Sequence[MapRun]
) -> NDArray[np.int64]:
    """The pfns of these pages, in order.

    A list is followed as long as it is one: links agree and nobody uses its pages. What cannot be read is no member.
    """
    try:
        lists = _Lists(info, virtual, runs)
        zones = list(populated_zones(info, virtual))
    except (KeyError, NotPresentError, FormatError):
        return np.zeros(0, np.int64)
    for zone in zones:
        for base in facts.bases[:_CPUS_LIMIT]:
            try:
                at = (virtual.u64(zone + facts.pointer) + base + facts.lists) & _ADDRESSES
                heads = virtual.view(at, facts.number * _LINKS.size)
            except (NotPresentError, FormatError):
                continue
            for index, (following, _) in enumerate(_LINKS.iter_unpack(heads)):
                order = index // facts.types
                lists.follow(at + index * _LINKS.size, following, order if order <= _COSTLY_ORDER else _HUGE_ORDER)
    return np.array(sorted(set(lists.found)), np.int64)


class _Lists:
    """Follows lists of struct pages and collects their pfns."""

    def __init__(self, info: VmCoreInfo, virtual: VirtualMemory, runs: Sequence[MapRun]) -> None:
        self.found: list[int] = []
        self._size, self._links = info.sizes["page"], info.offsets["page.lru"]
        self._refcount = info.offsets["page._refcount"]
        self._virtual = virtual
        self._runs = sorted(runs, key=lambda run: run.virtual)
        self._starts = [run.virtual for run in self._runs]
        self._left = sum(run.pages for run in runs)  # a live kernel changes its lists while they are read
        self._pages: dict[int, memoryview] = {}

    def follow(self, head: int, node: int, order: int) -> None:
        """From the list's head to its first node that makes no sense; each stands for 2^order pages."""
        before, mask = head, (1 << order) - 1
        while node != head and self._left > 0:
            address = node - self._links
            try:
                page, at = self._struct_page(address)
            except (NotPresentError, FormatError):
                return
            following, previous = _LINKS.unpack_from(page, at + self._links)
            (users,) = _COUNT.unpack_from(page, at + self._refcount)
            pfn = self._pfn(address)
            if previous != before or users or pfn < 0 or pfn & mask:
                return
            self.found.extend(range(pfn, pfn + mask + 1))
            self._left -= mask + 1
            before, node = node, following

    def _pfn(self, address: int) -> int:
        """Of the struct page at `address`; -1 if there is none."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return -1
        run = self._runs[index]
        number, rest = divmod(address - run.virtual, self._size)
        return -1 if rest or number >= run.pages else run.first_pfn + number

    def _struct_page(self, address: int) -> tuple[memoryview, int]:
        """Memory, and where in it the struct page at `address` begins."""
        at = address % _PAGE
        if at + self._size > _PAGE:
            return self._virtual.view(address, self._size), 0
        page = self._pages.get(address - at)
        if page is None:
            if len(self._pages) >= _CACHED:
                self._pages.clear()
            page = self._pages[address - at] = self._virtual.view(address - at, _PAGE)
        return page, at
