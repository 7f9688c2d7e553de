"""Dumps whose container does not say all: VMCOREINFO comes from memory, and the size of pages from VMCOREINFO."""

from __future__ import annotations

from kdump.errors import KdumpError
from kdump.kernel.kernel import Kernel
from kdump.memory.elf import ElfMemory
from kdump.memory.protocol import Dump, Memory
from kdump.memory.smaller import InSmallerPages

_PAGE_SIZES = (1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16)


def completed(dump: Dump) -> Dump:
    """The dump with the VMCOREINFO that its memory has, if its container has none; and in that kernel's pages.

    An ELF header does not say how large pages are, so without that text a reader can only suppose it. A
    kdump-compressed dump may be in larger pages than the kernel's.
    """
    try:
        info = Kernel(dump).vmcoreinfo
    except KdumpError:
        return dump
    memory: Memory = dump.memory
    if isinstance(memory, ElfMemory) and info.page_size != memory.page_size and info.page_size in _PAGE_SIZES:
        memory = memory.in_pages(info.page_size)
    elif info.page_size in _PAGE_SIZES and info.page_size < memory.page_size:
        memory = InSmallerPages(memory, info.page_size)
    return dump._replace(vmcoreinfo=info.raw, memory=memory)
