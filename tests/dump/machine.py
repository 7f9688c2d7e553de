"""A small machine whose memory map says what each page is used for, in the layouts of two kernel series."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from tests.memory.machine import Machine

PAGE = 4096
STRUCT = 64
VMEMMAP = 0xFFFFEA0000000000
DIRECT = 0xFFFF888000000000
SECTION_BITS = 27
MAX_ORDER = 10


class Layout(NamedTuple):
    """Flag bits and page types of a kernel series (from its VMCOREINFO), and how hugetlb pages are marked."""

    lru: int
    private: int
    swapcache: int
    swapbacked: int
    head: int
    hwpoison: int | None
    slab_bit: int | None
    slab: int
    buddy: int
    offline: int
    hugetlb: int | None
    unaccepted: int | None


LAYOUTS = {
    "6.1": Layout(4, 13, 10, 19, 16, 22, 9, 0, -129, -257, None, None),
    "6.12": Layout(5, 14, 10, 17, 6, 20, None, -184549376, -268435456, -251658240, -201326592, -150994944),
}


class Block(NamedTuple):
    """2^order pages from `pfn` on, used for `kind`."""

    pfn: int
    order: int
    kind: str


KINDS = ("kernel", "free", "cache", "private", "anon", "swapcache", "hugetlb", "slab", "offline", "hwpoison")
CLASS_OF = {
    "kernel": "KERNEL", "free": "FREE", "cache": "CACHE", "private": "CACHE_PRIVATE", "anon": "USER",
    "swapcache": "USER", "hugetlb": "HUGETLB", "slab": "KERNEL", "offline": "OFFLINE", "hwpoison": "HWPOISON",
    "unaccepted": "FREE",
}  # fmt: skip


class PageMachine(Machine):
    """Memory from 0 with a sparse vmemmap; `use` says what blocks are used for."""

    def __init__(self, series: str = "6.1", size: int = 16 << 20) -> None:
        super().__init__(size)
        self.layout = LAYOUTS[series]
        self.pages = size // PAGE
        self.map_at = self.allocate(self.pages * STRUCT)
        for offset in range(0, self.pages * STRUCT, PAGE):
            self.map(VMEMMAP + offset, self.map_at + offset)
        roots, sections = self.allocate(), self.allocate()
        self.map(DIRECT + roots, roots)
        self.map(DIRECT + sections, sections)
        self.write(roots, struct.pack("<Q", DIRECT + sections))
        self.write(sections, struct.pack("<QQ", VMEMMAP | 0xF, 0))
        self.extra += self._vmcoreinfo(DIRECT + roots)
        for pfn in range(self.pages):
            self._page(pfn, mapcount=-1)

    def use(self, blocks: Iterable[Block]) -> list[str]:
        """Fill in struct pages; returns the expected class name of every page."""
        expected = ["KERNEL"] * self.pages
        for block in blocks:
            self._use(block)
            for pfn in range(block.pfn, block.pfn + (1 << block.order)):
                # Only huge and free blocks are whole; of others each page but a poisoned one inherits from the head.
                expected[pfn] = CLASS_OF[block.kind]
        return expected

    def poison(self, pfn: int) -> None:
        """Set PG_hwpoison on one page, whatever else it is."""
        assert self.layout.hwpoison is not None
        at = self.map_at + pfn * STRUCT
        (flags,) = struct.unpack_from("<Q", self.memory, at)
        self.write(at, struct.pack("<Q", flags | 1 << self.layout.hwpoison))

    def _use(self, block: Block) -> None:
        layout = self.layout
        flags, mapping, mapcount, private = 0, 0, -1, 0
        match block.kind:
            case "free":
                self._page(block.pfn, mapcount=layout.buddy, private=block.order)
                return
            case "unaccepted":
                assert layout.unaccepted is not None
                self._page(block.pfn, mapcount=layout.unaccepted)
                return
            case "cache":
                flags, mapping = 1 << layout.lru, 0xFFFF888000123450
            case "private":
                flags, mapping, private = 1 << layout.lru | 1 << layout.private, 0xFFFF888000123450, 0xFFFF888000100000
            case "anon":
                flags, mapping = 1 << layout.lru | 1 << layout.swapbacked, 0xFFFF888000123451
            case "swapcache":
                flags, mapping = 1 << layout.swapcache | 1 << layout.swapbacked, 0xFFFF888000123451
            case "slab":
                flags, mapping = 0, 0xFFFF888000123451  # the mapping's place holds something else
                if layout.slab_bit is not None:
                    flags = 1 << layout.slab_bit
                else:
                    mapcount = layout.slab
            case "hugetlb":
                mapping = 0xFFFF888000123450
                mapcount = layout.hugetlb if layout.hugetlb is not None else -1
            case "offline":
                mapcount = layout.offline
            case "hwpoison":
                assert layout.hwpoison is not None
                flags = 1 << layout.hwpoison
        if block.order:
            flags |= 1 << layout.head
        self._page(block.pfn, flags=flags, mapping=mapping, mapcount=mapcount, private=private)
        head = VMEMMAP + block.pfn * STRUCT
        for pfn in range(block.pfn + 1, block.pfn + (1 << block.order)):
            self._page(pfn, mapcount=-1, word1=head + 1)
            if block.kind == "hwpoison":
                self.poison(pfn)
        if block.kind == "hugetlb" and layout.hugetlb is None:
            self.write(self.map_at + (block.pfn + 1) * STRUCT + 16, bytes([2, block.order]))

    def _page(
        self, pfn: int, *, flags: int = 0, word1: int = 0, mapping: int = 0, private: int = 0, mapcount: int = -1
    ) -> None:
        data = struct.pack("<QQQQQQiiQ", flags, word1, 0, mapping, 0, private, mapcount, 1, 0)
        self.write(self.map_at + pfn * STRUCT, data)

    def _vmcoreinfo(self, roots: int) -> list[str]:
        layout = self.layout
        lines = [
            f"SYMBOL(mem_section)={roots:x}", "LENGTH(mem_section)=1", "SIZE(mem_section)=16",
            "OFFSET(mem_section.section_mem_map)=0", f"NUMBER(SECTION_SIZE_BITS)={SECTION_BITS}",
            f"SIZE(page)={STRUCT}", "OFFSET(page.flags)=0", "OFFSET(page.mapping)=24", "OFFSET(page._mapcount)=48",
            "OFFSET(page.private)=40", "OFFSET(page.compound_head)=8", f"LENGTH(zone.free_area)={MAX_ORDER + 1}",
            f"NUMBER(PG_lru)={layout.lru}", f"NUMBER(PG_private)={layout.private}",
            f"NUMBER(PG_swapcache)={layout.swapcache}", f"NUMBER(PG_swapbacked)={layout.swapbacked}",
            f"NUMBER(PG_head_mask)={1 << layout.head}", f"NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)={layout.buddy}",
            f"NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)={layout.offline}",
        ]  # fmt: skip
        if layout.hwpoison is not None:
            lines.append(f"NUMBER(PG_hwpoison)={layout.hwpoison}")
        if layout.slab_bit is not None:
            lines.append(f"NUMBER(PG_slab)={layout.slab_bit}")
        else:
            lines.append(f"NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)={layout.slab}")
        if layout.hugetlb is not None:
            lines.append(f"NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)={layout.hugetlb}")
            lines.append(f"NUMBER(PAGE_UNACCEPTED_MAPCOUNT_VALUE)={layout.unaccepted}")
        else:
            lines += ["OFFSET(page.compound_dtor)=16", "NUMBER(HUGETLB_PAGE_DTOR)=2"]
        return lines


def fill(machine: Machine, first: int, *, seed: int = 1) -> None:
    """Put content on the pages from `first` on: zeros, text and noise by turns."""
    random = np.random.default_rng(seed)
    for pfn in range(first, len(machine.memory) // PAGE):
        kind = pfn % 4
        if kind == 1:
            machine.write(pfn * PAGE, b"page %d " % pfn * (PAGE // 16))
        elif kind == 2:
            machine.write(pfn * PAGE, random.bytes(PAGE))
        elif kind == 3:
            machine.write(pfn * PAGE + PAGE - 1, b"x")
