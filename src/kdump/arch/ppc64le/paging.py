"""Address spaces of ppc64le: a linear mapping without tables, radix trees, and what the hash table maps.

Entries of page tables are big-endian whatever the kernel is. With the hash MMU the struct pages are mapped by the hash
table alone; the kernel keeps a list of them (vmemmap_list).

Sources: Linux arch/powerpc/include/asm/book3s/64/{radix,hash}-{4k,64k}.h (sizes of tables), pgtable.h (_PAGE_PRESENT,
_PAGE_PTE, PTE_RPN_MASK, PGD_MASKED_BITS), arch/powerpc/include/asm/mmu.h (MMU_FTR_TYPE_RADIX),
arch/powerpc/mm/init_64.c (struct vmemmap_backing), arch/powerpc/kexec/vmcore_info.c (core.c before 6.12).
"""

from __future__ import annotations

from kdump.arch.paging import InfoView, Linear, MemoryView, Paging
from kdump.errors import KdumpError

PAGE_OFFSET = 0xC000_0000_0000_0000
_REGION = 1 << 52  # addresses that tables resolve; the top four bits are always those of PAGE_OFFSET
_LINEAR = 1 << 45  # bytes of memory at most; the smallest of the layouts has other things from 0x3d << 40 on
_PRESENT, _LEAF = 1 << 63, 1 << 62
_ADDRESS = (1 << 57) - (1 << 12)
_TABLE_ADDRESS = ~0xC000_0000_0000_00FF & (1 << 64) - 1
_RADIX = 1 << 6  # MMU_FTR_TYPE_RADIX
# (page size, radix): bits that each level resolves, top first
_WIDTHS = {
    (12, True): (13, 9, 9, 9),
    (16, True): (13, 9, 9, 5),
    (12, False): (9, 9, 7, 9),
    (16, False): (8, 10, 10, 8),
}
_MAX_BACKINGS = 1 << 20


def kernel_paging(info: InfoView, memory: MemoryView) -> Paging:
    """The kernel's own address space.

    Raises `KeyError` with the name of what VMCOREINFO does not say, `KdumpError` if memory contradicts it.
    """
    symbols = info.symbols
    page_shift = info.page_size.bit_length() - 1
    radix = _is_radix(info, memory)
    widths = _WIDTHS.get((page_shift, radix))
    if widths is None:
        raise KeyError(f"a page size that ppc64le knows ({info.page_size} bytes)")
    shifts, at = [], page_shift
    for width in reversed(widths):
        shifts.append(at)
        at += width
    backings = () if radix else _backings(info, memory)
    return Paging(
        root=symbols["swapper_pg_dir"] - PAGE_OFFSET,
        shifts=tuple(reversed(shifts)),
        index_bits=widths[0],
        valid=_PRESENT,
        present=(1 << 64) - 1,  # tables of the hash MMU have no such bit: what is not zero is there
        table=0,
        table_mask=_LEAF,
        leaf_shifts=frozenset(shifts[1:]),
        present_leaf=0,
        address_mask=_ADDRESS,
        table_address_mask=_TABLE_ADDRESS,
        widths=widths,
        bits=at,
        prefix=PAGE_OFFSET,
        big_endian=True,
        linear=(Linear(PAGE_OFFSET, 0, _LINEAR), *backings),
    )


def _number(memory: MemoryView, virtual: int, size: int = 8) -> int:
    """A number in the linear mapping."""
    return int.from_bytes(memory.view(virtual - PAGE_OFFSET, size), "little")


def _is_radix(info: InfoView, memory: MemoryView) -> bool:
    spec = _number(memory, info.symbols["cur_cpu_spec"])
    if not PAGE_OFFSET <= spec < PAGE_OFFSET + _LINEAR:
        raise KdumpError(
            "the kernel's page tables cannot be found",
            why=f"cur_cpu_spec holds {spec:#x}, which is no pointer: the dump is damaged, or its kernel is big-endian",
        )
    return bool(_number(memory, spec + info.offsets["cpu_spec.mmu_features"], 4) & _RADIX)


def _backings(info: InfoView, memory: MemoryView) -> tuple[Linear, ...]:
    """Pieces of the memory map as the hash MMU has them."""
    offsets, symbols = info.offsets, info.symbols
    kind = _number(memory, symbols["mmu_vmemmap_psize"], 4)
    sizes = symbols["mmu_psize_defs"] + kind * info.sizes["mmu_psize_def"]
    size = 1 << _number(memory, sizes + offsets["mmu_psize_def.shift"], 4)
    found: list[Linear] = []
    node = _number(memory, symbols["vmemmap_list"])
    while node and len(found) < _MAX_BACKINGS:
        physical = _number(memory, node + offsets["vmemmap_backing.phys"])
        virtual = _number(memory, node + offsets["vmemmap_backing.virt_addr"])
        found.append(Linear(virtual, physical, size))
        node = _number(memory, node + offsets["vmemmap_backing.list"])
    return tuple(found)
