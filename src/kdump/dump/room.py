"""Whether a dump will fit, estimated before it is written by compressing a sample of its pages."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdump.dump.codecs import compressor
from kdump.dump.levels import ZERO
from kdump.dump.pages import PageReader
from kdump.dump.selection import Selection
from kdump.memory.codecs import CodecFacts
from kdump.memory.kdump_format import DESCRIPTOR
from kdump.memory.protocol import Memory
from kdump.units import size_text

SAMPLE = 256  # pages


def too_large(memory: Memory, selection: Selection, room: int | None, codec: CodecFacts, level: int) -> str:
    """Why a kdump-compressed dump of `selection` will not fit into `room` bytes; empty if it will, or nobody knows.

    Nothing is read if it fits even uncompressed. `level` is the codec's.
    """
    fixed = selection.present.limit // 4 + selection.kept.count * DESCRIPTOR.itemsize  # both bitmaps, descriptors
    if room is None or not selection.kept.count or fixed + selection.kept.count * memory.page_size <= room:
        return ""
    pages, unreadable = PageReader(memory)(_spread(selection))
    if unreadable is not None:
        pages = pages[~unreadable]
    packed = int(compressor(codec, level)(pages, drop_zeros=bool(selection.level & ZERO)).sizes.sum())
    needed = fixed + packed * selection.kept.count // max(1, len(pages))
    return f"about {size_text(needed)} needed, {size_text(room)} free" if needed > room else ""


def _spread(selection: Selection) -> NDArray[np.int64]:
    """About SAMPLE of the pfns that are kept, at equal distances."""
    step = max(1, selection.kept.count // SAMPLE)
    picked, first = [], 0
    for pfns in selection.kept.pfns():
        picked.append(pfns[first::step])
        first += len(picked[-1]) * step - len(pfns)
    return np.concatenate(picked)
