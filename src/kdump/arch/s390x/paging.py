"""Where s390x kernels map their image and the machine's memory; page tables themselves are not read.

Sources: Linux arch/s390/kernel/vmcore_info.c (IDENTITYBASE, KERNELOFFSET, KERNELOFFPHYS), arch/s390/include/asm/page.h
(__pa(): since 6.10 the image and the identity mapping have places of their own; before, virtual was physical).
"""

from __future__ import annotations

from kdump.arch.paging import InfoView, Linear, Paging

_IMAGE = 1 << 29  # bytes at most of a kernel's image
_MEMORY = 1 << 47  # and of memory: kdump.memory.elf.MEMORY_BITS


def kernel_paging(info: InfoView) -> Paging:
    """The identity mapping and the image. Raises `KeyError` with the name of what is missing in VMCOREINFO."""
    pieces = [Linear(0, 0, _MEMORY)]
    if "KERNELOFFPHYS" in info.strings:
        pieces = [
            Linear(_number(info, "KERNELOFFSET"), _number(info, "KERNELOFFPHYS"), _IMAGE),
            Linear(_number(info, "IDENTITYBASE"), 0, _MEMORY),
        ]
    root = info.symbols["swapper_pg_dir"]
    place = next((each for each in pieces if 0 <= root - each.virtual < each.size), pieces[-1])
    return Paging(
        root=place.physical + root - place.virtual,
        shifts=(20, 12),
        index_bits=11,
        valid=0,
        present=0,  # nothing that only the tables tell
        table=0,
        table_mask=0,
        leaf_shifts=frozenset(),
        present_leaf=0,
        address_mask=0,
        bits=64,
        big_endian=True,
        linear=tuple(pieces),
    )


def _number(info: InfoView, name: str) -> int:
    try:
        return int(info.strings[name], 16)
    except ValueError:
        raise KeyError(f"{name} that is a number") from None
