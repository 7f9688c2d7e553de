"""VMCOREINFO out of memory itself, for dumps whose container carries none (taken by a hypervisor, say).

Source: kernel/vmcore_info.c: the text fills a page of its own and begins with OSRELEASE=.
"""

from __future__ import annotations

import contextlib

import numpy as np

from kdump.arch import Architecture
from kdump.arch.paging import ROOTS
from kdump.errors import FormatError, KdumpError, NotPresentError
from kdump.kernel import vmcoreinfo
from kdump.memory.protocol import Memory
from kdump.memory.virtual import VirtualMemory

START = b"OSRELEASE="
CHUNK = 16 << 20  # bytes looked at together
LONGEST = 1 << 16  # bytes of the largest page, which the text fits


def find_vmcoreinfo(memory: Memory, arch: Architecture) -> bytes:
    """The VMCOREINFO text of the kernel in `memory`, empty if absent. Looks at the start of every page of the kernel.

    A dump may be in larger pages: QEMU writes 64 KiB if the kernel may have pages of that size.

    Memory may hold texts of other kernels too (the one that booted this one, a file in the page cache), so a find
    counts only if its kernel's page tables map their own root where the text says that it is.
    """
    page = min(memory.page_size, *arch.page_sizes)
    word = int.from_bytes(START[:8], "little")
    for each in memory.held():
        for start in range(each.start, each.end, CHUNK):
            data = _readable(memory, start, min(CHUNK, each.end - start))
            for index in np.flatnonzero(np.frombuffer(data, "<u8")[:: page // 8] == word).tolist():
                text = bytes(data[index * page : index * page + LONGEST])
                if text.startswith(START) and _sound(memory, arch, text):
                    return text.split(b"\0", 1)[0]
    return b""


def _readable(memory: Memory, start: int, size: int) -> memoryview | bytearray:
    """[start, start+size), with zeros for pages that are damaged or, in an incomplete dump, absent."""
    try:
        return memory.view(start, size)
    except (FormatError, NotPresentError):
        data, page = bytearray(size), memory.page_size
    for at in range(0, size, page):
        with contextlib.suppress(FormatError, NotPresentError):
            data[at : at + page] = memory.view(start + at, page)
    return data


def _sound(memory: Memory, arch: Architecture, text: bytes) -> bool:
    info = vmcoreinfo.parse(text)
    try:
        paging = arch.kernel_paging(info, memory)
        root = next((info.symbols[name] for name in ROOTS if name in info.symbols), 0)
        return VirtualMemory(memory, paging).translate(root) == paging.root
    except (KeyError, KdumpError):
        return False
