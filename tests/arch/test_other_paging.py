"""Page tables of riscv64 and ppc64le, against tables laid out by hand. (No kernel of theirs runs here.)"""

from __future__ import annotations

import struct

import pytest
from tests.kernel.fakes import Pieces

from kdump.arch.ppc64le.paging import PAGE_OFFSET
from kdump.arch.ppc64le.paging import kernel_paging as ppc_paging
from kdump.arch.riscv64.paging import kernel_paging as riscv_paging
from kdump.errors import NotPresentError
from kdump.kernel.vmcoreinfo import parse
from kdump.memory.protocol import Memory, Range
from kdump.memory.virtual import Extent, VirtualMemory

TABLES = 0x8000_0000
OFFSET = 0xFFFF_FFFF_0000_0000  # va_kernel_pa_offset


class Physical(Pieces):
    """Physical memory of a few pieces."""

    page_size = 4096
    ranges = (Range(0, 1 << 50),)


def physical(pieces: dict[int, bytes]) -> Memory:
    memory: Memory = Physical(pieces)  # type: ignore[assignment]
    return memory


@pytest.mark.parametrize(("bits", "levels"), [(39, 3), (48, 4), (57, 5)])
def test_riscv64(bits: int, levels: int) -> None:
    """A page, a huge page on the level above, with Svpbmt's and other high bits set."""
    top = (1 << 64) - (1 << bits - 1)
    pieces = {TABLES + 4096 * level: bytearray(4096) for level in range(levels)}
    for level in range(levels - 1):
        place = 8 * (256 if not level else 0)
        struct.pack_into("<Q", pieces[TABLES + 4096 * level], place, (TABLES + 4096 * (level + 1)) >> 2 | 1)
    last, above = pieces[TABLES + 4096 * (levels - 1)], pieces[TABLES + 4096 * (levels - 2)]
    struct.pack_into("<Q", last, 8 * 5, 1 << 61 | 0x1_2345_6000 >> 2 | 0b11101111)
    struct.pack_into("<Q", last, 8 * 6, 0x7_0000_0000 >> 2 | 0b1110)  # not valid
    huge = 257 if levels == 2 else 1
    struct.pack_into("<Q", above, 8 * ((256 if levels == 2 else 0) + huge), 0x4_0000_0000 >> 2 | 0b1011)
    memory = physical({at: bytes(data) for at, data in pieces.items()})
    symbols = {"swapper_pg_dir": (TABLES + OFFSET) & (1 << 64) - 1}
    walker = VirtualMemory(memory, riscv_paging(symbols, {"VA_BITS": bits, "va_kernel_pa_offset": OFFSET}, 4096))
    assert walker.translate(top + 5 * 4096 + 7) == 0x1_2345_6007
    assert walker.translate(top + (1 << 21) + 0x1234) == 0x4_0000_1234
    assert list(walker.extents(top, 1 << 22)) == [
        Extent(top + 5 * 4096, 0x1_2345_6000, 4096), Extent(top + (1 << 21), 0x4_0000_0000, 1 << 21),
    ]  # fmt: skip
    with pytest.raises(NotPresentError, match="not mapped"):
        walker.translate(top + 6 * 4096)
    with pytest.raises(KeyError, match="riscv64"):
        riscv_paging(symbols, {"VA_BITS": 40, "va_kernel_pa_offset": OFFSET}, 4096)


SPEC, LIST = 0x10_0000, 0x11_0000
FEATURES = 8


def info_of_ppc(page_size: int) -> bytes:
    lines = [
        f"PAGESIZE={page_size}", f"SYMBOL(swapper_pg_dir)={PAGE_OFFSET + TABLES:x}",
        f"SYMBOL(cur_cpu_spec)={PAGE_OFFSET + SPEC:x}", f"OFFSET(cpu_spec.mmu_features)={FEATURES}",
        f"SYMBOL(vmemmap_list)={PAGE_OFFSET + LIST:x}", f"SYMBOL(mmu_vmemmap_psize)={PAGE_OFFSET + LIST + 8:x}",
        f"SYMBOL(mmu_psize_defs)={PAGE_OFFSET + LIST + 16:x}", "SIZE(mmu_psize_def)=16",
        "OFFSET(mmu_psize_def.shift)=0", "OFFSET(vmemmap_backing.list)=0", "OFFSET(vmemmap_backing.phys)=8",
        "OFFSET(vmemmap_backing.virt_addr)=16",
    ]  # fmt: skip
    return "\n".join(lines).encode()


def spec(*, radix: bool) -> dict[int, bytes]:
    features = 0x40 if radix else 0x1
    return {SPEC: struct.pack("<Q16xI", PAGE_OFFSET + SPEC + 16, features)}


@pytest.mark.parametrize(
    ("page_size", "widths"), [(4096, (13, 9, 9, 9)), (65536, (13, 9, 9, 5))], ids=["4K", "64K"]
)  # fmt: skip
def test_ppc64le_radix(page_size: int, widths: tuple[int, ...]) -> None:
    """Tables of different sizes with big-endian entries; a page, and a huge page above it."""
    vmalloc = 0xC008_0000_0000_0000
    shift, tables, pieces = page_size.bit_length() - 1, TABLES, {}
    for number, width in enumerate(widths):
        index = (vmalloc & (1 << 52) - 1) >> 39 if not number else 0
        table = bytearray(8 << width)
        following = tables + (8 << width)
        if number < 3:
            struct.pack_into(">Q", table, 8 * index, 1 << 63 | following | 9)  # the low bits say how large the next is
        else:
            struct.pack_into(">Q", table, 8, 0xC000_0000_0000_0187 | 0x2_0000_0000)
        if number == 2:
            struct.pack_into(">Q", table, 8, 0xC000_0000_0000_0187 | 0x3_0020_0000)
        pieces[tables] = bytes(table)
        tables = following
    walker = VirtualMemory(
        physical(pieces | spec(radix=True)), ppc_paging(parse(info_of_ppc(page_size)), physical(spec(radix=True)))
    )
    assert walker.translate(PAGE_OFFSET + 0x123_4567) == 0x123_4567, "the linear mapping"
    assert walker.translate(vmalloc + page_size + 5) == 0x2_0000_0005
    assert walker.translate(vmalloc + (1 << 21) + 5) == 0x3_0020_0005
    assert list(walker.extents(vmalloc, 1 << 22)) == [
        Extent(vmalloc + page_size, 0x2_0000_0000, 1 << shift), Extent(vmalloc + (1 << 21), 0x3_0020_0000, 1 << 21),
    ]  # fmt: skip
    for wrong in (0x1000, vmalloc, 0xD000_0000_0000_0000):
        with pytest.raises(NotPresentError):
            walker.translate(wrong)


def test_ppc64le_hash_has_its_memory_map_in_a_list() -> None:
    vmemmap = 0xC00C_0000_0000_0000
    second = LIST + 0x100
    data = bytearray(0x200)
    struct.pack_into("<QI4x", data, 0, PAGE_OFFSET + second, 1)  # vmemmap_list, mmu_vmemmap_psize
    struct.pack_into("<I12xI", data, 16, 12, 24)  # shifts of the two page sizes
    struct.pack_into("<QQQ", data, 0x100, PAGE_OFFSET + second + 0x40, 0x5000_0000, vmemmap + (1 << 24))
    struct.pack_into("<QQQ", data, 0x140, 0, 0x7000_0000, vmemmap)
    memory = physical({LIST: bytes(data)} | spec(radix=False))
    walker = VirtualMemory(memory, ppc_paging(parse(info_of_ppc(65536)), memory))
    assert walker.translate(vmemmap + 0x1234) == 0x7000_1234
    assert list(walker.extents(vmemmap, 1 << 25)) == [
        Extent(vmemmap, 0x7000_0000, 1 << 24), Extent(vmemmap + (1 << 24), 0x5000_0000, 1 << 24),
    ]  # fmt: skip
    assert walker.paging.widths == (8, 10, 10, 8)
    with pytest.raises(KeyError, match="ppc64le"):
        ppc_paging(parse(info_of_ppc(16384)), memory)
