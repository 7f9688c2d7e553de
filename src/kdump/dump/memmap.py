"""Where the struct pages are: the sparse memory model's sections, as runs of virtual memory.

Source: include/linux/mmzone.h (struct mem_section, SECTION_* bits), mm/sparse.c (sparse_encode_mem_map),
kernel/vmcore_info.c. Other models are for machines that kdump does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdump.errors import FormatError, KdumpError, NotPresentError
from kdump.kernel.vmcoreinfo import VmCoreInfo
from kdump.memory.virtual import VirtualMemory

HAS_MEM_MAP, IS_ONLINE = 1 << 1, 1 << 2  # bits of section_mem_map
FLAG_BITS = 12  # the encoded mem_map is page aligned; how many low bits are flags depends on the kernel
ROOTS_LIMIT = 1 << 22  # riscv64 has room for 56 bits of addresses


class MapRun(NamedTuple):
    """struct pages of `pages` consecutive pfns, consecutive in virtual memory from `virtual` on."""

    first_pfn: int
    pages: int
    virtual: int


def find_runs(info: VmCoreInfo, virtual: VirtualMemory, struct_size: int) -> list[MapRun]:
    """The memory map, by pfn; a struct page has `struct_size` bytes.

    Sections that are offline are left out: their struct pages are not initialised.
    Raises `KdumpError` if VMCOREINFO lacks what is needed or the section table cannot be read.
    """
    page_shift = info.page_size.bit_length() - 1
    try:
        table = info.symbols["mem_section"]
        roots = info.lengths["mem_section"]
        size = info.sizes["mem_section"]
        offset = info.offsets["mem_section.section_mem_map"]
        shift = info.numbers["SECTION_SIZE_BITS"] - page_shift
    except KeyError as error:
        raise KdumpError("the memory map cannot be found", why=f"VMCOREINFO has no {error.args[0]}") from None
    if not 0 < roots <= ROOTS_LIMIT or not 0 < size <= 4096 or not 0 < shift < 40 or not 0 <= offset <= size - 8:
        raise KdumpError("the memory map cannot be found", why="VMCOREINFO's values of mem_section are impossible")
    pointers = np.frombuffer(virtual.view(table, roots * 8), "<u8")
    per_root = (1 << page_shift) // size
    runs: list[MapRun] = []
    for root in np.flatnonzero(pointers):
        for section, map_base in _sections(virtual, int(pointers[root]), per_root, size, offset):
            first = (int(root) * per_root + section) << shift
            run = MapRun(first, 1 << shift, map_base + first * struct_size & (1 << 64) - 1)
            last = runs[-1] if runs else None
            if last and last.first_pfn + last.pages == first and last.virtual + last.pages * struct_size == run.virtual:
                runs[-1] = last._replace(pages=last.pages + run.pages)
            else:
                runs.append(run)
    if not runs:
        raise KdumpError("the memory map cannot be found", why="no section has one")
    return runs


def _sections(virtual: VirtualMemory, address: int, count: int, size: int, offset: int) -> Iterator[tuple[int, int]]:
    """(index, decoded section_mem_map) of the sections of one root that have a memory map and are online."""
    try:
        raw = virtual.view(address, count * size)
    except (NotPresentError, FormatError):
        return  # its pages will be kept: no struct page tells them apart
    coded = field(raw, "<u8", offset, size)
    wanted = HAS_MEM_MAP | IS_ONLINE
    for index in np.flatnonzero((coded & np.uint64(wanted)) == wanted):
        yield int(index), int(coded[index]) >> FLAG_BITS << FLAG_BITS


def field(raw: memoryview | bytes, dtype: str, offset: int, stride: int) -> NDArray[Any]:
    """One member of an array of structs as a strided view: shape (len(raw) // stride,)."""
    return np.ndarray((len(raw) // stride,), dtype, raw, offset, (stride,))
