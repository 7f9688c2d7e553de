"""vmlinux: the kernel as the linker made it, an ELF executable.

startup_64 may run at any physical address that keeps the kernel's alignment (it works out by how much it was moved,
arch/x86/kernel/head_64.S), so the segments are moved together and nothing is relocated.
Source: the ELF specification (System V ABI), arch/x86/kernel/vmlinux.lds.S.
"""

from __future__ import annotations

import os
from itertools import pairwise

from kdump import arch
from kdump.elf import CLASS_64, EHDR, ET_EXEC, LITTLE_ENDIAN, MAGIC, PHDR, PT_LOAD
from kdump.errors import FormatError
from kdump.kexec.formats.kernel_image import KernelImage, Part, banner_release
from kdump.kexec.placement import PAGE, pages

ALIGN = 0x200000  # PMD_SIZE: __startup_64 stops at anything less
SPAN_MAX = 1 << 30  # KERNEL_IMAGE_SIZE
PARTS_MAX = 8  # of the 16 segments that kexec_load(2) takes, ours and an image need the others
CMDLINE_LIMIT = 2047  # COMMAND_LINE_SIZE - 1


def matches(data: memoryview) -> bool:
    """Whether it is an ELF file."""
    return data[:4] == MAGIC


def parse(data: memoryview, path: str | os.PathLike[str] = "") -> KernelImage:
    """Read the program headers. Raises FormatError."""
    if len(data) < EHDR.size or data[4] != CLASS_64 or data[5] != LITTLE_ENDIAN:
        raise FormatError("not a 64-bit little-endian ELF file", path=path, offset=4, field="e_ident")
    _, kind, machine, _, entry, phoff, _, _, _, phentsize, phnum, *_ = EHDR.unpack_from(data)
    if machine != arch.by_boot_params().elf_machine:
        why = arch.elf_name(machine)
        raise FormatError("a kernel of another architecture", path=path, offset=18, field="e_machine", why=why)
    if kind != ET_EXEC:
        raise FormatError("not an executable, so not a kernel", path=path, offset=16, field="e_type", why=f"{kind}")
    if phentsize != PHDR.size or phoff + phnum * PHDR.size > len(data):
        raise FormatError("the program headers lie outside the file", path=path, offset=phoff, field="e_phoff")
    loads = []
    for index in range(phnum):
        p_type, _, offset, _, paddr, filesz, memsz, _ = PHDR.unpack_from(data, phoff + index * PHDR.size)
        if p_type != PT_LOAD or not memsz:
            continue
        if offset + filesz > len(data) or filesz > memsz:
            raise FormatError("a segment is truncated", path=path, offset=offset, field=f"program header {index}")
        loads.append((paddr, data[offset : offset + filesz], memsz))
    loads.sort(key=lambda load: load[0])
    if not loads or len(loads) > PARTS_MAX:
        raise FormatError("the number of segments is not a kernel's", path=path, field="e_phnum", why=f"{len(loads)}")
    base = loads[0][0] // ALIGN * ALIGN
    span = max(paddr + memsz for paddr, _, memsz in loads) - base
    if span > SPAN_MAX or not base <= entry < base + span:
        raise FormatError("segments and entry point are not a kernel's", path=path, offset=24, field="e_entry")
    parts = [Part(paddr - base, piece, memsz) for paddr, piece, memsz in loads]
    for part, following in pairwise(parts):
        if following.offset % PAGE or pages(part.offset + part.size) > following.offset:
            raise FormatError("segments overlap or are not page aligned", path=path, field="p_paddr")
    return KernelImage(
        kind="vmlinux",
        release=next(filter(None, (banner_release(part.data) for part in parts)), ""),
        parts=tuple(parts),
        span=pages(span),
        align=ALIGN,
        lowest=ALIGN,
        entry=entry - base,
        setup_header=b"",
        cmdline_limit=CMDLINE_LIMIT,
        five_level=True,  # not written anywhere; every kernel since 4.14 that distributions build can
        file=None,
        machine=arch.by_boot_params().name,
    )
