"""/proc/kcore: the memory of the running kernel, as an ELF core.

Source: fs/proc/kcore.c (PT_LOADs of RAM and the kernel's text carry p_paddr, those of vmalloc, modules and vmemmap have
-1 there); kernel/resource.c for /proc/iomem. The crash kernel's reservation is left out, as /proc/vmcore would.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kdump.memory.elf import ElfMemory, Segment, open_elf
from kdump.memory.protocol import Dump, Range
from kdump.memory.source import Source

IOMEM = Path("/proc/iomem")
_CRASH_KERNEL = re.compile(r"^\s*([0-9a-f]+)-([0-9a-f]+) : Crash kernel", re.MULTILINE)


def open_kcore(source: Source, iomem: Path = IOMEM) -> Dump:
    """The running kernel as a `Dump` of format "kcore". Its memory changes while it is read."""
    dump = open_elf(source)
    assert isinstance(dump.memory, ElfMemory)
    segments = without(dump.memory.segments, crash_kernel(iomem.read_text()))
    return dump._replace(format="kcore", memory=ElfMemory(source, segments, dump.memory.page_size))


def crash_kernel(iomem: str) -> list[Range]:
    """The crash kernel's reservation in the text of /proc/iomem, sorted; empty if none or if addresses are hidden."""
    found = (Range(int(start, 16), int(end, 16) + 1) for start, end in _CRASH_KERNEL.findall(iomem))
    return sorted(each for each in found if each.end > 1)


def without(segments: Sequence[Segment], holes: Sequence[Range]) -> list[Segment]:
    """`segments` less the physical ranges of `holes`."""
    kept = list(segments)
    for hole in holes:
        pieces: list[Segment] = []
        for segment in kept:
            end = segment.physical + segment.memory_size
            pieces += [
                _cut(segment, segment.physical, min(end, hole.start)),
                _cut(segment, max(segment.physical, hole.end), end),
            ]
        kept = [piece for piece in pieces if piece.memory_size > 0]
    return kept


def _cut(segment: Segment, start: int, end: int) -> Segment:
    skip, size = start - segment.physical, end - start
    return Segment(
        physical=start,
        memory_size=size,
        offset=segment.offset + skip,
        file_size=max(min(segment.file_size - skip, size), 0),
        held=max(min(segment.held - skip, size), 0),
        virtual=segment.virtual + skip,
    )
