"""Page tables of aarch64: three granules, 36 to 52 address bits, and where the upper bits of an address go.

Sources: Arm Architecture Reference Manual for A-profile, D8.3 (translation table descriptors; FEAT_LPA, FEAT_LPA2);
Linux arch/arm64/include/asm/pgtable-hwdef.h, arch/arm64/kernel/vmcore_info.c (what VMCOREINFO says).
"""

from __future__ import annotations

from collections.abc import Mapping

from kdump.arch.paging import Paging

_VALID, _TABLE = 1 << 0, 1 << 1
_BLOCKS = {12: (21, 30), 14: (25,), 16: (29,)}  # levels whose descriptors may map memory, by the page shift
_BLOCKS_52 = {12: (39,), 14: (36,), 16: (42,)}  # with 52-bit addresses also these


def paging(root: int, *, page_shift: int, bits: int, large: bool = False) -> Paging:
    """Tables under TTBR1's table at physical address `root`, for addresses of `bits` bits.

    `large`: descriptors hold 52-bit addresses. With pages of 64 KiB they always may (bits 15:12 are zero otherwise);
    with smaller ones the layout is another one (LPA2).
    """
    index_bits = page_shift - 3
    shifts = tuple(range(page_shift, bits, index_bits))[::-1]
    blocks = _BLOCKS[page_shift] + (_BLOCKS_52[page_shift] if bits == 52 else ())
    if page_shift == 16:
        low, high, move = (1 << 48) - (1 << 16), 0xF << 12, 36
    elif large:
        low, high, move = (1 << 50) - (1 << page_shift), 0x3 << 8, 42
    else:
        low, high, move = (1 << 48) - (1 << page_shift), 0, 0
    return Paging(
        root=root,
        shifts=shifts,
        index_bits=index_bits,
        valid=_VALID,
        present=_VALID,
        table=_TABLE,
        leaf_shifts=frozenset(set(blocks) & set(shifts[:-1])),
        present_leaf=0,
        address_mask=low,
        table_mask=_TABLE,
        inverts=False,
        bits=bits,
        high_mask=high,
        high_shift=move,
        upper_only=True,
    )


def kernel_paging(symbols: Mapping[str, int], numbers: Mapping[str, int], page_size: int) -> Paging:
    """The kernel's own tables, from VMCOREINFO. Raises `KeyError` with the name of what is missing."""
    root = symbols["swapper_pg_dir"] - numbers["kimage_voffset"]
    size = numbers.get("TCR_EL1_T1SZ")  # what the processor was told; VA_BITS is what the kernel was built for
    bits = 64 - size if size is not None else numbers["VA_BITS"]
    page_shift = page_size.bit_length() - 1
    if page_shift not in _BLOCKS or not page_shift < bits <= 52:
        raise KeyError(f"page size and address bits that aarch64 knows ({page_size} bytes, {bits} bits)")
    return paging(root & (1 << 52) - 1, page_shift=page_shift, bits=bits, large=bits == 52 and page_shift < 16)
