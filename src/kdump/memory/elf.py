"""ELF64 vmcores: /proc/vmcore, a copy of it, QEMU's dump-guest-memory.

Source: the ELF specification, chapters 4 (header, PN_XNUM) and 5 (program header, notes); kernel/kexec_file.c,
crash_prepare_elf64_headers(), for what PT_LOADs mean: physical ranges in p_paddr, the kernel's text a second time.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kdump.arch import in_dump
from kdump.arch.architecture import ByteOrder
from kdump.elf import (
    BIG_ENDIAN,
    CLASS_64,
    EHDR,
    ET_CORE,
    LITTLE_ENDIAN,
    MAGIC,
    NHDR,
    PHDR,
    PN_XNUM,
    PT_LOAD,
    PT_NOTE,
    SH_INFO,
    big_endian,
)
from kdump.errors import FormatError, NotPresentError
from kdump.memory.protocol import Dump, Note, Range
from kdump.memory.source import FileSource, Source
from kdump.memory.turned import own_notes, readable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NOTES_LIMIT = 64 << 20  # bytes of notes: 100,000 CPUs and room for device dumps
LOADS_LIMIT = 1 << 20
PHYSICAL_BITS = 52  # no machine that Linux runs on has more address bits
MEMORY_BITS = 47  # nor more than 64 TiB of memory; a claim of more would keep readers busy for hours
_MACHINE_AT = 18  # e_machine
_PAGE_SIZE = re.compile(rb"^PAGESIZE=(4096|8192|16384|32768|65536)$", re.MULTILINE)
_SHDR = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr
_SECTIONS_LIMIT, _NAMES_LIMIT = 1 << 12, 1 << 16
NO_ADDRESS = (1 << 64) - 1  # p_paddr of what has only a virtual address (/proc/kcore)


class ProgramHeader(NamedTuple):
    """Elf64_Phdr, in its order."""

    type: int
    flags: int
    offset: int
    virtual: int
    physical: int
    file_size: int
    memory_size: int
    align: int


class Segment(NamedTuple):
    """One PT_LOAD: [physical, physical+memory_size), of which the first `file_size` bytes should be at `offset`.

    `held` of them are in the file; fewer than `file_size` if it was truncated.
    """

    physical: int
    memory_size: int
    offset: int
    file_size: int
    held: int
    virtual: int


class ElfMemory:
    """Physical memory in the PT_LOADs of an ELF64 core. `view` copies only across segments. Thread-safe."""

    def __init__(self, source: Source, segments: Sequence[Segment], page_size: int = 4096) -> None:
        """`segments` are sorted by physical address and do not overlap."""
        self.page_size = page_size
        self._source = source
        self.segments = tuple(segments)
        self._starts = [segment.physical for segment in segments]
        self.ranges = _merge(Range(s.physical, s.physical + s.memory_size) for s in segments)

    def in_pages(self, page_size: int) -> ElfMemory:
        """The same memory, of which a page has that many bytes."""
        return ElfMemory(self._source, self.segments, page_size)

    def view(self, address: int, size: int) -> memoryview:
        """See `Memory.view`."""
        segment = self._segment(address)
        within = address - segment.physical
        if within >= 0 and within + size <= segment.held:
            return self._source.view(segment.offset + within, size)
        if not size:
            return memoryview(b"")
        parts: list[memoryview | bytes] = []
        at, end = address, address + size
        while at < end:
            segment = self._segment(at)
            within = at - segment.physical
            count = min(segment.held - within, end - at)
            if within >= 0 and count > 0:
                parts.append(self._source.view(segment.offset + within, count))
            else:
                count = min(self._padding(at), end - at)
                if not count:
                    raise NotPresentError(address, size, why=f"{at:#x} is not in the dump")
                parts.append(bytes(count))
            at += count
        return memoryview(b"".join(parts))

    def _padding(self, address: int) -> int:
        """How many bytes from `address` on lie in a page of memory that begins or ends within it: zeros for them.

        0 for any other address: what lies beyond memory's pages, or what the dump lacks of them.
        """
        page = address // self.page_size * self.page_size
        after = bisect_right(self._starts, address)
        before = self.segments[after - 1] if after else None
        behind = self.segments[after] if after < len(self.segments) else None
        end = page + self.page_size if behind is None else min(behind.physical, page + self.page_size)
        ended = before is not None and before.held == before.memory_size and page < before.physical + before.held
        begins = behind is not None and behind.held and behind.physical < page + self.page_size
        return end - address if ended or begins else 0

    def readinto(self, address: int, buffer: memoryview) -> None:
        """See `ReadsInto.readinto`."""
        while buffer:
            segment = self._segment(address)
            within = address - segment.physical
            count = min(segment.held - within, len(buffer))
            if within < 0 or count <= 0:
                count = min(self._padding(address), len(buffer))
                if not count:
                    raise NotPresentError(address, len(buffer))
                buffer[:count] = bytes(count)
            elif isinstance(self._source, FileSource):
                self._source.readinto(segment.offset + within, buffer[:count])
            else:
                buffer[:count] = self._source.view(segment.offset + within, count)
            address, buffer = address + count, buffer[count:]

    def lend(self, address: int, size: int) -> memoryview | None:
        """See `ReadsInto.lend`."""
        segment = self._segment(address)
        within = address - segment.physical
        if within < 0 or within + size > segment.held or not isinstance(self._source, FileSource):
            return None
        return self._source.lend(segment.offset + within, size)

    def places(self, pfns: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]] | None:
        """See `ReadsInto.places`."""
        size = self.page_size
        first, end = int(pfns[0]) * size, (int(pfns[-1]) + 1) * size
        segment = self._segment(first)
        file = self._source.descriptor if isinstance(self._source, FileSource) else None
        if file is None or first < segment.physical or end - segment.physical > segment.held:
            return None
        return file, pfns * size + (segment.offset - segment.physical)

    def present(self, first_pfn: int, count: int) -> NDArray[np.bool_]:
        """See `Memory.present`."""
        import numpy as np

        held = np.zeros(count, np.bool_)
        after = bisect_left(self._starts, (first_pfn + count) * self.page_size)
        for segment in self.segments[max(bisect_right(self._starts, first_pfn * self.page_size) - 1, 0) : after]:
            start = -(-segment.physical // self.page_size) - first_pfn
            end = (segment.physical + segment.held) // self.page_size - first_pfn
            if end > 0:
                held[max(start, 0) : end] = True
        return held

    def held(self) -> Iterator[Range]:
        """See `Memory.held`."""
        page = self.page_size
        for segment in self.segments:
            start = -(-segment.physical // page) * page
            end = (segment.physical + segment.held) // page * page
            if start < end:
                yield Range(start, end)

    def close(self) -> None:
        """See `Memory.close`."""
        self._source.close()

    def _segment(self, address: int) -> Segment:
        """The segment that begins last at or before an address; the first one for an address in its page before it."""
        index = bisect_right(self._starts, address) - 1
        if index < 0 and self._starts[0] // self.page_size != address // self.page_size:
            raise NotPresentError(address)
        return self.segments[max(index, 0)]


def open_elf(source: Source) -> Dump:
    """An ELF64 core as a `Dump`. Raises `FormatError` for anything that is not one or contradicts itself."""
    if _is_xc_core(source):
        raise FormatError(
            "a dump of Xen (xc_core, `xl dump-core`) is not supported",
            path=source.path,
            remedy="crash and Volatility read it; a kdump inside the guest can be read here",
        )
    machine, headers, order = read_headers(source)
    loads = [header for header in headers if header.type == PT_LOAD]
    segments, clipped = physical_segments(source, loads)
    notes: list[Note] = []
    for header in headers:
        if header.type == PT_NOTE:
            end = header.offset + header.file_size
            clipped |= end > source.size
            notes += read_notes(source, header.offset, min(end, source.size), order)
    vmcoreinfo = next((note.data for note in notes if note.name == "VMCOREINFO"), b"")
    own = own_notes(notes, in_dump(machine), order, source.path)
    said = _PAGE_SIZE.search(vmcoreinfo)  # an ELF header does not say
    return Dump(
        path=source.path,
        format=f"{source.wrapping}elf",
        memory=ElfMemory(source, segments, int(said[1]) if said else 4096),
        vmcoreinfo=vmcoreinfo,
        notes=own,
        header={"machine": machine, "loads": len(loads)},
        incomplete=clipped or source.incomplete,
        lacks=_lacks(source, segments) if clipped else "",
    )


def _is_xc_core(source: Source) -> bool:
    """Whether sections instead of program headers hold the memory, as Xen writes it (dump-core-format.txt)."""
    if source.size < EHDR.size:
        return False
    header = EHDR.unpack(source.view(0, EHDR.size))
    shoff, phnum, entry_size, count, names = (header[place] for place in (6, 10, 11, 12, 13))
    if phnum or entry_size != _SHDR.size or not 0 < count <= _SECTIONS_LIMIT or names >= count:
        return False
    if shoff + count * _SHDR.size > source.size:
        return False
    _, _, _, _, offset, size, _, _, _, _ = _SHDR.unpack(source.view(shoff + names * _SHDR.size, _SHDR.size))
    size = min(size, _NAMES_LIMIT, max(source.size - offset, 0))
    return b"\0.xen_pages\0" in bytes(source.view(offset, size)) if size else False


def _lacks(source: Source, segments: Sequence[Segment]) -> str:
    cut = [f"{s.physical + s.held:#x} to {s.physical + s.file_size - 1:#x}" for s in segments if s.held < s.file_size]
    what = f": it lacks the memory at {', '.join(cut[:16])}{' and more' if len(cut) > 16 else ''}" if cut else ""
    return f"{source.path} ends early, after {source.size:#x} bytes{what}"


def read_headers(source: Source) -> tuple[int, list[ProgramHeader], ByteOrder]:
    """(e_machine, program headers, the order of numbers).

    Big-endian headers are those of a machine that is so itself, or of one that QEMU writes so (memory/turned.py).
    """

    def wrong(what: str, field: str, offset: int) -> FormatError:
        return FormatError(what, path=source.path, offset=offset, field=field)

    if source.size < EHDR.size:
        raise FormatError(f"only {source.size} bytes: no room for an ELF header", path=source.path)
    ident = bytes(source.view(0, 16))
    if ident[:4] != MAGIC:
        raise wrong("not an ELF file", "e_ident", 0)
    order: ByteOrder = "little" if ident[5] == LITTLE_ENDIAN else "big"
    if order == "big":
        number = int.from_bytes(source.view(_MACHINE_AT, 2), "big")
        arch = in_dump(number)
        if ident[5] != BIG_ENDIAN or not readable(arch, order):
            of = f" of {arch.name}" if arch else ""
            raise wrong(f"big-endian ELF dumps{of} are not supported", "e_ident[EI_DATA]", 5)
    ehdr, phdr = (EHDR, PHDR) if order == "little" else (big_endian(EHDR), big_endian(PHDR))
    header = ehdr.unpack(source.view(0, EHDR.size))
    kind, machine, phoff, shoff, entry_size, count = (header[i] for i in (1, 2, 5, 6, 9, 10))
    if ident[4] != CLASS_64:
        raise wrong("32-bit ELF dumps are not supported", "e_ident[EI_CLASS]", 4)
    if kind != ET_CORE:
        raise wrong(f"an ELF file of type {kind}, not a core (4)", "e_type", 16)
    if entry_size != PHDR.size:
        raise wrong(f"program headers of {entry_size} bytes, not {PHDR.size}", "e_phentsize", 54)
    if count == PN_XNUM:
        if not shoff:
            raise wrong("PN_XNUM without a section header to say the true count", "e_shoff", 40)
        count = int.from_bytes(source.view(shoff + SH_INFO, 4), order)
    if not count or count > LOADS_LIMIT:
        raise wrong(f"{count} program headers", "e_phnum", 56)
    if phoff + count * PHDR.size > source.size:
        raise wrong(f"{count} program headers at {phoff:#x} do not fit the file", "e_phoff", 32)
    return machine, [ProgramHeader(*each) for each in phdr.iter_unpack(source.view(phoff, count * PHDR.size))], order


def physical_segments(source: Source, loads: Sequence[ProgramHeader]) -> tuple[list[Segment], bool]:
    """Sorted, non-overlapping segments, and whether any lies (partly) past the end of the file.

    A segment inside another is the same memory under a second virtual address (the kernel's text) and is dropped;
    segments that overlap in memory and in the file alike are joined (QEMU, with paging=true). Of others that overlap
    the first one has what both claim. Addresses past 2^52 raise `FormatError`.
    """
    found, clipped = [], False
    for _, _, offset, virtual, physical, file_size, memory_size, _ in loads:
        if not memory_size or physical == NO_ADDRESS:
            continue
        if physical + memory_size > 1 << PHYSICAL_BITS or file_size > memory_size:
            raise FormatError(
                f"PT_LOAD of {file_size:#x} bytes in the file and {memory_size:#x} in memory at physical {physical:#x}",
                path=source.path,
                offset=offset,
                field="p_filesz" if file_size > memory_size else "p_memsz",
                why="that is impossible",
            )
        held = max(min(file_size, source.size - offset), 0)
        clipped |= held < file_size
        found.append(Segment(physical, memory_size, offset, file_size, held, virtual))
    found.sort(key=lambda segment: (segment.physical, -segment.memory_size, -segment.held))
    kept: list[Segment] = []
    for segment in found:
        before = kept[-1] if kept else None
        if before is None or segment.physical >= before.physical + before.memory_size:
            kept.append(segment)
        elif (end := segment.physical + segment.memory_size) <= (last := before.physical + before.memory_size):
            if segment.held and segment.physical >= before.physical + before.held:  # what the larger one lacks
                size = segment.physical - before.physical
                kept[-1] = before._replace(memory_size=size, file_size=min(size, before.file_size))
                kept += [segment, _behind(before, end)] if end < last else [segment]
        elif (
            segment.offset - segment.physical == before.offset - before.physical and _whole(before) and _whole(segment)
        ):
            size = end - before.physical
            kept[-1] = before._replace(memory_size=size, file_size=size, held=size)
        else:
            kept.append(_behind(segment, before.physical + before.memory_size))
    if not kept:
        raise FormatError("holds no memory (no PT_LOAD)", path=source.path, field="e_phnum")
    if (total := sum(segment.memory_size for segment in kept)) > 1 << MEMORY_BITS:
        raise FormatError(f"claims {total:#x} bytes of memory", path=source.path, field="p_memsz")
    if (total := sum(segment.held for segment in kept)) > source.size:
        raise FormatError(
            f"PT_LOADs hold {total:#x} bytes, more than the file has",
            path=source.path,
            field="p_offset",
            why="several name the same bytes as different memory",
        )
    return kept, clipped


def read_notes(source: Source, start: int, end: int, order: ByteOrder = "little") -> list[Note]:
    """The notes in file bytes [start, end). Raises `FormatError` if one runs past the end."""
    if end - start > NOTES_LIMIT:
        raise FormatError(f"{end - start:#x} bytes of notes", path=source.path, offset=start, field="p_filesz")
    return list(parse_notes(source.view(start, end - start), source.path, start, order)) if end > start else []


def parse_notes(data: memoryview, path: str, base: int, order: ByteOrder = "little") -> Iterator[Note]:
    """Notes in `data`, which lies at file offset `base`. Trailing zeros (an unused note slot) end the list."""
    at = 0
    nhdr = NHDR if order == "little" else big_endian(NHDR)
    while at + NHDR.size <= len(data):
        name_size, size, kind = nhdr.unpack_from(data, at)
        if not name_size and not size and not kind:
            return
        name_at = at + NHDR.size
        data_at = name_at + (name_size + 3 & ~3)
        if data_at + size > len(data):
            raise FormatError("a note runs past its segment", path=path, offset=base + at, field="n_descsz")
        name = bytes(data[name_at : name_at + name_size]).split(b"\0", 1)[0].decode("ascii", "replace")
        yield Note(name, kind, bytes(data[data_at : data_at + size]))
        at = data_at + (size + 3 & ~3)


def _merge(ranges: Iterator[Range]) -> list[Range]:
    merged: list[Range] = []
    for each in ranges:
        if merged and merged[-1].end == each.start:
            merged[-1] = Range(merged[-1].start, each.end)
        else:
            merged.append(each)
    return merged


def _behind(segment: Segment, start: int) -> Segment:
    """What a segment holds from `start` on, which is within it."""
    skip = start - segment.physical
    return Segment(
        start,
        segment.memory_size - skip,
        segment.offset + skip,
        max(segment.file_size - skip, 0),
        max(segment.held - skip, 0),
        segment.virtual + skip,
    )


def _whole(segment: Segment) -> bool:
    return segment.memory_size == segment.file_size == segment.held
