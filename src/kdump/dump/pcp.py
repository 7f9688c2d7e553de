"""Free pages on the CPUs' own lists (pcp), in front of the buddy allocator's.

Their struct pages look like any kernel page's; only the lists show that they are free. They may be a third of what
level 31 would keep otherwise, as up to `high` pages of each CPU and zone wait there (mm/page_alloc.c, zone_highsize).
Source: include/linux/mmzone.h (struct zone, per_cpu_pages), mm/page_alloc.c (order_to_pindex, free_frozen_page_commit).
"""

from __future__ import annotations

import struct
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
_COSTLY_ORDER = 3  # PAGE_ALLOC_COSTLY_ORDER: lists of higher orders are for huge pages only
_HUGE_ORDER = 9  # HPAGE_PMD_ORDER of 4 KiB pages
_LISTS_LIMIT, _CPUS_LIMIT = 256, 1 << 14
_PAGE = 4096
_CACHED = 4096  # pages of struct pages that are cached
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


def free_pages_on_lists(
    facts: ListFacts, info: VmCoreInfo, virtual: VirtualMemory, runs: Sequence[MapRun], size: int
) -> NDArray[np.int64]:
    """The pfns of these pages, in order; a struct page has `size` bytes.

    A list is followed as long as its links agree and its pages are unused. A page that cannot be read is not a member.
    """
    try:
        lists = _Lists(info, virtual, runs, size)
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
    found = np.sort(np.concatenate([np.zeros(0, np.int64), *lists.found]))
    new = np.ones(len(found), np.bool_)
    new[1:] = found[1:] != found[:-1]
    return found[new]  # np.unique would import numpy.ma


class _Lists:
    """Follows lists of struct pages and collects their pfns."""

    def __init__(self, info: VmCoreInfo, virtual: VirtualMemory, runs: Sequence[MapRun], size: int) -> None:
        self.found: list[NDArray[np.int64]] = []
        self._size, self._links, users = size, info.offsets["page.lru"], info.offsets["page._refcount"]
        between = users - self._links - _LINKS.size
        if self._links < 0 or between < 0 or users > size - 4:
            raise KeyError("page._refcount")
        self._member = struct.Struct(f"<QQ{between}xI")  # next, prev, number of users
        self._virtual = virtual
        ordered = sorted(runs, key=lambda run: run.virtual)
        self._starts = np.array([run.virtual for run in ordered], np.uint64)
        self._pages = np.array([run.pages for run in ordered], np.uint64)
        self._first = np.array([run.first_pfn for run in ordered], np.int64)
        self._limit = sum(run.pages for run in runs)  # a live kernel changes its lists while they are read
        self._cached: dict[int, memoryview] = {}

    def follow(self, head: int, node: int, order: int) -> None:
        """From the list's head to its first node that makes no sense; each stands for 2^order pages."""
        before, nodes = head, list[int]()
        unpack, cached, reach = self._member.unpack_from, self._cached, _PAGE - self._member.size
        try:
            while node != head and len(nodes) < self._limit:
                at = node % _PAGE
                page = cached.get(node - at)
                if page is None:
                    page = self._read(node - at)
                following, previous, users = unpack(
                    page if at <= reach else self._virtual.view(node - at, 2 * _PAGE), at
                )
                if previous != before or users:
                    break
                nodes.append(node)
                before, node = node, following
        except (NotPresentError, FormatError):
            pass  # what was found before is on the list
        if nodes:
            pfns = self._pfns(np.array(nodes, np.uint64) - np.uint64(self._links), 1 << order)
            self.found.append((pfns[:, np.newaxis] + np.arange(1 << order)).ravel())

    def _pfns(self, addresses: NDArray[np.uint64], pages: int) -> NDArray[np.int64]:
        """Of these struct pages, up to the first that is not one, or not a block of `pages` pages."""
        run = np.searchsorted(self._starts, addresses, side="right") - 1
        inside = run >= 0
        run = np.maximum(run, 0)
        offset = addresses - self._starts[run]
        number = offset // np.uint64(self._size)
        pfns = self._first[run] + number.astype(np.int64)
        good = inside & (offset % np.uint64(self._size) == 0) & (number < self._pages[run]) & (pfns % pages == 0)
        return pfns if good.all() else pfns[: int(np.argmin(good))]

    def _read(self, address: int) -> memoryview:
        if len(self._cached) >= _CACHED:
            self._cached.clear()
        page = self._cached[address] = self._virtual.view(address, _PAGE)
        return page
