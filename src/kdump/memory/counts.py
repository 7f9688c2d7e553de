"""Pages of a dump by state, counted without reading any page."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kdump.memory.decompress import NAMES
from kdump.memory.elf import ElfMemory
from kdump.memory.kdump_compressed import KdumpMemory
from kdump.memory.kdump_format import COMPRESSION, DESCRIPTOR
from kdump.memory.kdump_part import Part
from kdump.memory.protocol import Memory

CHUNK = 1 << 16  # descriptors looked at together (1.5 MiB)


@dataclass
class PageCounts:
    """Pages of the machine's memory: `memory` = `dumped` + `zero` + `excluded` + `missing`.

    `zero` pages share one stored page (None where the format does not tell); `missing` ones are lost because the file
    ends early or its writer was stopped. `codecs` counts stored pages by codec ("raw" where compressing did not help).
    `stored` is in bytes, page data only.
    """

    memory: int = 0
    dumped: int = 0
    zero: int | None = None
    excluded: int = 0
    missing: int = 0
    stored: int = 0
    codecs: dict[str, int] = field(default_factory=dict)


def count_pages(memory: Memory) -> PageCounts:
    """Count the pages of a dump by state."""
    page = memory.page_size
    counts = PageCounts(memory=sum(-(-each.end // page) - each.start // page for each in memory.ranges))
    if isinstance(memory, KdumpMemory):
        first = memory.parts[0]
        counts.missing = first.rank(first.max_pfn) - sum(part.total for part in memory.parts)  # in files not given
        counts.zero = sum(_count_part(part, counts) for part in memory.parts)
        counts.excluded = counts.memory - counts.dumped - counts.zero - counts.missing
    elif isinstance(memory, ElfMemory):
        for segment in memory.segments:
            counts.stored += segment.held
            counts.missing += (segment.file_size - segment.held) // page
        counts.dumped = counts.codecs["raw"] = -(-counts.stored // page)
        counts.excluded = counts.memory - counts.dumped - counts.missing
    return counts


def _count_part(part: Part, counts: PageCounts) -> int:
    """Add one file's pages to `counts`, all but those of zeros, which are returned."""
    readable = max(min(part.total, (part.source.size - part.descriptors_offset) // DESCRIPTOR.itemsize), 0)
    counts.missing += part.total - readable
    zeros, zero_at = 0, set[int]()
    looked_at = set[int]()
    for start in range(0, readable, CHUNK):
        table = part.descriptors(start, min(CHUNK, readable - start))
        offsets, sizes = table["offset"], table["size"].astype(np.int64)
        whole = (offsets > 0) & (sizes > 0) & (offsets + sizes <= part.source.size)
        counts.missing += int((~whole).sum())
        codec = table["flags"] & COMPRESSION
        raw = whole & (codec == 0) & (sizes == part.header.block_size)
        places, times = np.unique(offsets[raw], return_counts=True)
        for place in places[(times > 1) | (places == (offsets[raw][0] if raw.any() else 0))].tolist():
            if place not in looked_at and len(looked_at) < 64:
                looked_at.add(place)
                if not any(part.source.view(place, part.header.block_size)):
                    zero_at.add(place)
        zero = raw & np.isin(offsets, list(zero_at))
        zeros += int(zero.sum())
        kept = whole & ~zero
        counts.dumped += int(kept.sum())
        counts.stored += int(sizes[kept].sum())
        for flag, name in ((0, "raw"), *NAMES.items()):
            if found := int((kept & (codec == flag)).sum()):
                counts.codecs[name] = counts.codecs.get(name, 0) + found
    return zeros
