"""Page tables of x86_64.

Sources: Intel SDM volume 3, chapter 4 (paging); Linux arch/x86/include/asm/pgtable_types.h, pgtable.h (what counts as
present), pgtable-invert.h (PROT_NONE entries are stored inverted), page_64_types.h (the address space),
arch/x86/kernel/vmcore_info_64.c (what VMCOREINFO says).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kdump.arch.architecture import PageEntry
from kdump.arch.paging import ROOTS, Paging

PAGE_SHIFT = 12
START_KERNEL_MAP = 0xFFFF_FFFF_8000_0000  # __START_KERNEL_map: where the kernel's image is linked

_PRESENT, _PSE, _PROTNONE = 1 << 0, 1 << 7, 1 << 8  # _PAGE_PROTNONE is _PAGE_GLOBAL where not present
_ADDRESS = (1 << 52) - (1 << PAGE_SHIFT)
# Bits of an entry that maps a page (pgtable_types.h), named as crash(8) names them.
_FLAGS: Final = {
    0: "PRESENT", 1: "RW", 2: "USER", 3: "PWT", 4: "PCD", 5: "ACCESSED", 6: "DIRTY", 7: "PAT", 8: "GLOBAL", 63: "NX",
}  # fmt: skip


def paging(root: int, *, five_levels: bool, encryption_mask: int = 0) -> Paging:
    """Tables under the PGD at physical address `root`; `encryption_mask` is AMD's C-bit (sme_me_mask)."""
    return Paging(
        root=root,
        shifts=(48, 39, 30, 21, 12) if five_levels else (39, 30, 21, 12),
        index_bits=9,
        valid=_PRESENT,
        present=_PRESENT | _PROTNONE,
        table=0,
        table_mask=_PSE,
        leaf_shifts=frozenset({30, 21}),
        present_leaf=_PSE,  # a huge page being split has only this bit left
        address_mask=_ADDRESS & ~encryption_mask,
        inverts=True,
    )


def kernel_paging(symbols: Mapping[str, int], numbers: Mapping[str, int]) -> Paging:
    """The kernel's own tables, from VMCOREINFO. Raises `KeyError` with the name of what is missing."""
    root = symbols[next((name for name in ROOTS if name in symbols), ROOTS[-1])]
    return paging(
        root - START_KERNEL_MAP + numbers["phys_base"],
        five_levels=bool(numbers.get("pgtable_l5_enabled", 0)),
        encryption_mask=numbers.get("sme_mask", 0),
    )


def page_entry(value: int) -> PageEntry:
    """An entry of the last level; a swap entry has its area in the top five bits, its inverted offset below them
    (pgtable_64.h, since 4.18).
    """
    if value & (_PRESENT | _PROTNONE):
        flags = [name for bit, name in _FLAGS.items() if value >> bit & 1]
        if not value & _PRESENT:
            flags = ["PROTNONE", *(name for name in flags if name != "GLOBAL")]
        address = (value if value & _PRESENT else ~value) & _ADDRESS
        return PageEntry(value, True, address, tuple(flags))
    if not value:
        return PageEntry(value, False)
    offset = (~value << 5 & (1 << 64) - 1) >> 14
    return PageEntry(value, False, swap=(value >> 59, offset))
