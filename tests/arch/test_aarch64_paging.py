"""aarch64's page tables: every granule and address size, against tables laid out by the descriptors of the manual."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import pytest
from tests.kernel.fakes import Pieces

from kdump.arch.aarch64.paging import kernel_paging
from kdump.errors import NotPresentError
from kdump.memory.protocol import Memory, Range
from kdump.memory.virtual import Extent, VirtualMemory

TABLE, BLOCK, PAGE = 0b11, 0b01, 0b11
VOFFSET = 0xFFFF_8000_3FE0_0000
IMAGE = 0xFFFF_8000_8100_0000


class Granule(NamedTuple):
    """A kind of page tables: page shift, address bits, and the levels that the manual gives (Arm ARM, D8.2)."""

    page_shift: int
    bits: int
    shifts: tuple[int, ...]
    block: int  # the smallest block


GRANULES = (
    Granule(12, 39, (30, 21, 12), 21),
    Granule(12, 48, (39, 30, 21, 12), 21),
    Granule(12, 52, (48, 39, 30, 21, 12), 21),
    Granule(14, 47, (36, 25, 14), 25),
    Granule(14, 48, (47, 36, 25, 14), 25),
    Granule(14, 52, (47, 36, 25, 14), 25),
    Granule(16, 42, (29, 16), 29),
    Granule(16, 48, (42, 29, 16), 29),
    Granule(16, 52, (42, 29, 16), 29),
)


class Physical(Pieces):
    """Physical memory of a few pieces."""

    page_size = 4096
    ranges = (Range(0, 1 << 52),)


class Tables:
    """Tables of one granule, with a page, a page at 2^50 where descriptors reach it, a block and a forbidden block."""

    def __init__(self, granule: Granule) -> None:
        self.granule = granule
        self.tables: dict[int, bytearray] = {}
        self.top = (1 << 64) - (1 << granule.bits)
        self.next = 0x4000_0000
        self.root = self.table()

    def table(self) -> int:
        size = 1 << self.granule.page_shift
        self.next += size
        self.tables[self.next] = bytearray(size)
        return self.next

    def encode(self, physical: int) -> int:
        """An output address: bits above 47 go where the manual puts them (D8.3.1, table D8-50 and following)."""
        low, high = physical & (1 << 48) - 1, physical >> 48
        if self.granule.page_shift == 16:
            return low | high << 12
        if self.granule.bits == 52:
            return physical & (1 << 50) - 1 | physical >> 50 << 8
        assert not high
        return low

    def map(self, virtual: int, physical: int, shift: int, kind: int) -> None:
        at = self.root
        index_mask = (1 << self.granule.page_shift - 3) - 1
        for level in self.granule.shifts:
            place = 8 * ((virtual & (1 << self.granule.bits) - 1) >> level & index_mask)
            table = self.tables[at]
            if level == shift:
                # Attributes that must not be taken for address bits: AF, SH, AttrIndx, UXN, PXN, contiguous.
                other = 0x0070_0000_0000_0400 | (0 if self.granule.bits == 52 else 0x300)
                table[place : place + 8] = struct.pack("<Q", self.encode(physical) | kind | other)
                return
            (entry,) = struct.unpack_from("<Q", table, place)
            if not entry:
                entry = self.encode(self.table()) | TABLE
                table[place : place + 8] = struct.pack("<Q", entry)
            at = entry & (1 << 48) - 1 & ~((1 << self.granule.page_shift) - 1)
        raise AssertionError(shift)

    def memory(self) -> VirtualMemory:
        granule = self.granule
        numbers = {"kimage_voffset": VOFFSET, "VA_BITS": 52 if granule.bits == 48 else granule.bits}
        numbers["TCR_EL1_T1SZ"] = 64 - granule.bits
        symbols = {"swapper_pg_dir": self.root + VOFFSET}
        memory: Memory = Physical({at: bytes(table) for at, table in self.tables.items()})  # type: ignore[assignment]
        return VirtualMemory(memory, kernel_paging(symbols, numbers, 1 << granule.page_shift))


@pytest.mark.parametrize("granule", GRANULES, ids=lambda each: f"{1 << each.page_shift - 10}K-{each.bits}")
def test_pages_and_blocks(granule: Granule) -> None:
    tables = Tables(granule)
    page, block = 1 << granule.page_shift, 1 << granule.block
    high = 1 << 50 if granule.bits == 52 else 1 << 44
    places = {tables.top + 16 * block: 0x8000_0000, tables.top + 16 * block + page: high, (1 << 64) - page: 0x9000_0000}
    for virtual, physical in places.items():
        tables.map(virtual, physical, granule.page_shift, PAGE)
    tables.map(tables.top + 3 * block, high + 5 * block, granule.block, BLOCK)
    memory = tables.memory()
    for virtual, physical in places.items():
        assert memory.translate(virtual + 0x123) == physical + 0x123
    assert memory.translate(tables.top + 3 * block + 0x456) == high + 5 * block + 0x456
    assert list(memory.extents(tables.top, 32 * block)) == [
        Extent(tables.top + 3 * block, high + 5 * block, block),
        Extent(tables.top + 16 * block, 0x8000_0000, page),
        Extent(tables.top + 16 * block + page, high, page),
    ]
    # The memory is in parts of 4 KiB, as QEMU writes a dump of which it does not know the kernel's pages.
    places[tables.top + 3 * block] = high + 5 * block
    ends = {virtual + at: physical + at for virtual, physical in places.items() for at in (0, page - 4096)}
    numbers = np.array(sorted({at >> 12 for at in (*ends, tables.top)}), np.uint64)
    found = dict(zip(numbers.tolist(), memory.frames(numbers).tolist(), strict=True))
    assert found == {**{at >> 12: ends[at] >> 12 for at in ends}, tables.top >> 12: -1}
    for wrong, why in ((tables.top - page, "canonical"), (0x1000, "canonical"), (tables.top, "not mapped")):
        with pytest.raises(NotPresentError, match=why):
            memory.translate(wrong)


def test_a_last_entry_that_is_no_page_is_not_one() -> None:
    """At the last level bit 1 must be set: Linux leaves such entries for what is swapped out."""
    tables = Tables(GRANULES[1])
    tables.map(tables.top, 0x8000_0000, 12, 0b00)
    with pytest.raises(NotPresentError, match="not mapped"):
        tables.memory().translate(tables.top)


@pytest.mark.parametrize("numbers", [{"VA_BITS": 53}, {"VA_BITS": 8}, {"TCR_EL1_T1SZ": 64}])
def test_figures_that_cannot_be_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(KeyError, match="aarch64"):
        kernel_paging({"swapper_pg_dir": IMAGE}, {"kimage_voffset": VOFFSET, **numbers}, 4096)
    with pytest.raises(KeyError, match="kimage_voffset"):
        kernel_paging({"swapper_pg_dir": IMAGE}, {"VA_BITS": 48}, 4096)
