"""Page tables of riscv64: Sv39, Sv48 and Sv57.

Sources: The RISC-V Instruction Set Manual, volume II (Sv39 and following); Linux arch/riscv/kernel/vmcore_info.c
(crash_core.c before 6.9: what VMCOREINFO says; the distance of the image from memory since 6.4).
"""

from __future__ import annotations

from collections.abc import Mapping

from kdump.arch.paging import Paging

_VALID, _READ_WRITE_EXECUTE = 1 << 0, 0b1110
_FRAME = (1 << 54) - (1 << 10)  # the page frame number, which is kept two bits lower than the address has it
_LEVELS = {39: (30, 21, 12), 48: (39, 30, 21, 12), 57: (48, 39, 30, 21, 12)}


def paging(root: int, bits: int) -> Paging:
    """Tables under the one at physical address `root`, for addresses of `bits` bits."""
    shifts = _LEVELS[bits]
    return Paging(
        root=root,
        shifts=shifts,
        index_bits=9,
        valid=_VALID,
        present=_VALID,
        table=0,
        table_mask=_READ_WRITE_EXECUTE,
        leaf_shifts=frozenset(shifts[:-1]),
        present_leaf=0,
        address_mask=0,
        high_mask=_FRAME,
        high_shift=2,
    )


def kernel_paging(symbols: Mapping[str, int], numbers: Mapping[str, int], page_size: int) -> Paging:
    """The kernel's own tables, from VMCOREINFO. Raises `KeyError` with the name of what is missing."""
    root = symbols["swapper_pg_dir"] - numbers["va_kernel_pa_offset"] & (1 << 64) - 1
    bits = numbers["VA_BITS"]
    if page_size != 4096 or bits not in _LEVELS:
        raise KeyError(f"page size and address bits that riscv64 knows ({page_size} bytes, {bits} bits)")
    return paging(root, bits)
