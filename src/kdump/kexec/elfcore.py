"""ELF core headers: they tell the capture kernel which memory was the dead kernel's, and where its notes lie.

The capture kernel reads them at elfcorehdr= and shows them, merged, as the head of /proc/vmcore (fs/proc/vmcore.c).
p_offset is where the bytes lie now, p_paddr where they lay: they differ for the backup region.
Source: kernel/crash_core.c (crash_prepare_elf64_headers), Documentation/admin-guide/kdump/kdump.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kdump import arch
from kdump.elf import EHDR, ET_CORE, IDENT, PF_R, PF_W, PF_X, PHDR, PT_LOAD, PT_NOTE
from kdump.errors import KdumpError, reason
from kdump.kexec.memory_map import HIDDEN, MemoryMap, subtract
from kdump.kexec.placement import pages
from kdump.kexec.state import read_machine
from kdump.memory.protocol import Range

RWX = PF_R | PF_W | PF_X
NOTE_SIZE_DEFAULT = 0x164  # sizeof(note_buf_t) where the kernel does not say (crash_notes_size)


class Notes(NamedTuple):
    """Where the dead kernel will leave its notes: physical ranges, per CPU in order, and VMCOREINFO's."""

    cpus: tuple[Range, ...]
    vmcoreinfo: Range


class Mappings(NamedTuple):
    """The running kernel's virtual addresses: of physical address 0 in the direct map, and of its text."""

    direct: int | None
    text_virtual: int
    text: Range | None


class Header(NamedTuple):
    """One program header: type, flags, where its bytes lie (offset), virtual and physical address, size in bytes."""

    type: int
    flags: int
    offset: int
    virtual: int
    physical: int
    size: int


def read_notes(root: Path = Path("/")) -> Notes:
    """Read crash_notes of every CPU and the place of VMCOREINFO under `root`. Raises KdumpError if hidden or absent."""
    cpus = []
    directories = (root / "sys/devices/system/cpu").glob("cpu[0-9]*")
    for cpu in sorted(directories, key=lambda path: int(path.name[3:])):
        try:
            start = int((cpu / "crash_notes").read_text(), 16)
        except FileNotFoundError:
            continue  # a CPU that is not there
        except (OSError, ValueError) as error:
            raise KdumpError(f"cannot read {cpu}/crash_notes", why=reason(error), remedy=HIDDEN) from None
        cpus.append(Range(start, start + _note_size(cpu)))
    try:
        address, size = [*(root / "sys/kernel/vmcoreinfo").read_text().split(), "", ""][:2]
        vmcoreinfo = Range(int(address, 16), int(address, 16) + int(size, 16))
    except (OSError, ValueError) as error:
        raise KdumpError("cannot read /sys/kernel/vmcoreinfo", why=reason(error), remedy=HIDDEN) from None
    if not cpus or not vmcoreinfo.start:
        raise KdumpError("the kernel does not say where its crash notes lie", remedy=HIDDEN)
    return Notes(tuple(cpus), vmcoreinfo)


def _note_size(cpu: Path) -> int:
    try:
        return int((cpu / "crash_notes_size").read_text())
    except (OSError, ValueError):
        return NOTE_SIZE_DEFAULT


def read_mappings(memory_map: MemoryMap, root: Path = Path("/")) -> Mappings:
    """Find the direct map and the kernel's text among the program headers of /proc/kcore.

    Without /proc/kcore (CONFIG_PROC_KCORE, lockdown) virtual addresses are left out of the core headers: readers that
    know the kernel find them in VMCOREINFO.
    """
    direct, text_virtual, text = None, 0, None
    headers = _physical(_kcore_headers(root / "proc/kcore"))
    window = arch.by_machine(read_machine(root)).kernel_text
    if window is None:
        return _with_text_above(headers, memory_map)
    for header in headers:
        if header.virtual in window:
            text_virtual, text = header.virtual, Range(header.physical, header.physical + header.size)
        elif any(part.start <= header.physical < part.end for part in memory_map.ram):
            direct = header.virtual - header.physical
    return Mappings(direct, text_virtual, text)


def _physical(headers: Sequence[Header]) -> list[Header]:
    """Those of memory: vmalloc and the like have no physical address."""
    return [header for header in headers if header.type == PT_LOAD and header.physical + header.size <= 1 << 52]


def _with_text_above(headers: Sequence[Header], memory_map: MemoryMap) -> Mappings:
    """The kernel's text is not a fixed range of addresses: it is mapped twice, above the direct map the second time.

    So it is since Linux 5.4 on aarch64, since 5.13 on riscv64. A kernel without CONFIG_ARCH_PROC_KCORE_TEXT shows the
    direct map only.
    """
    code = memory_map.kernel_code
    both = [each for each in headers if code and each.physical <= code.start < each.physical + each.size]
    both.sort(key=lambda each: each.virtual)
    text = both[1] if len(both) > 1 else None
    ram = (
        each for each in headers if each is not text and any(p.start <= each.physical < p.end for p in memory_map.ram)
    )
    direct = next((each.virtual - each.physical for each in ram), None)
    if text is None:
        return Mappings(direct, 0, None)
    return Mappings(direct, text.virtual, Range(text.physical, text.physical + text.size))


def _kcore_headers(path: Path) -> list[Header]:
    try:
        with open(path, "rb", buffering=0) as file:
            _, _, _, _, _, offset, _, _, _, _, count, *_ = EHDR.unpack(file.read(EHDR.size))
            file.seek(offset)
            table = file.read(count * PHDR.size)
    except (OSError, struct.error):
        return []
    found = (PHDR.unpack_from(table, at) for at in range(0, len(table) // PHDR.size * PHDR.size, PHDR.size))
    return [
        Header(kind, flags, off, virtual, physical, size) for kind, flags, off, virtual, physical, size, _, _ in found
    ]


def core_headers(
    memory_map: MemoryMap, notes: Notes, mappings: Mappings, backup: Range, backup_at: int
) -> list[Header]:
    """Program headers for this machine: notes per CPU, VMCOREINFO, kernel text, then RAM without the reservation.

    The bytes of `backup` (low memory) will lie at `backup_at` when they are read.
    """
    headers = [Header(PT_NOTE, 0, note.start, 0, note.start, note.size) for note in notes.cpus]
    where = notes.vmcoreinfo
    headers.append(Header(PT_NOTE, 0, where.start, 0, where.start, where.size))
    if mappings.text:
        text = mappings.text
        headers.append(Header(PT_LOAD, RWX, text.start, mappings.text_virtual, text.start, text.size))

    def load(part: Range, offset: int) -> Header:
        virtual = 0 if mappings.direct is None else (part.start + mappings.direct) % (1 << 64)
        return Header(PT_LOAD, RWX, offset, virtual, part.start, part.size)

    if backup.size:
        headers.append(load(backup, backup_at))
    headers += [load(part, part.start) for part in subtract(memory_map.crash_ram, [backup])]
    return headers


def pack(headers: Sequence[Header], machine: int) -> bytes:
    """The ELF header and the program headers, as they lie in memory; whole pages. `machine` is ELF's number."""
    out = EHDR.pack(IDENT, ET_CORE, machine, 1, 0, EHDR.size, 0, 0, EHDR.size, PHDR.size, len(headers), 0, 0, 0)
    for header in headers:
        out += PHDR.pack(
            header.type, header.flags, header.offset, header.virtual, header.physical, header.size, header.size, 0
        )
    return out.ljust(pages(len(out)), b"\0")
