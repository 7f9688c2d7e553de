"""A dump over several files: each holds the pages of one range of pfns, and all of them the whole bitmaps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kdump.dump.codecs import Packed
from kdump.dump.kdump_writer import KdumpWriter, Origin, Part, Sink
from kdump.dump.pfnset import PfnSet

ALIGN = 64  # pfns: crash counts the bitmap in 64-bit words from a part's start


def plan_parts(kept: PfnSet, count: int) -> list[Part]:
    """`count` parts with about the same number of pages each; together they cover pfns 0 to `kept.limit`."""
    share = max(-(-kept.count // count), 1)
    starts = [0]
    seen = 0
    for pfns in kept.pfns():
        while len(starts) < count and seen + len(pfns) > share * len(starts):
            starts.append(max(int(pfns[share * len(starts) - seen]) // ALIGN * ALIGN, starts[-1]))
        seen += len(pfns)
    starts += [-(-kept.limit // ALIGN) * ALIGN] * (count - len(starts))
    return [Part(start, end) for start, end in zip(starts, [*starts[1:], kept.limit], strict=True)]


class SplitWriter:
    """Hands every page to the writer of its part."""

    def __init__(
        self, streams: Sequence[Sink], origin: Origin, present: PfnSet, kept: PfnSet, *, level: int, flag: int,
        first: PfnSet | None = None,
    ) -> None:  # fmt: skip
        parts = plan_parts(kept, len(streams))
        self._ends = np.array([part.end for part in parts])
        self.writers = [
            KdumpWriter(stream, origin, present, kept, level=level, flag=flag, part=part, first=first)
            for stream, part in zip(streams, parts, strict=True)
        ]

    @property
    def written(self) -> int:
        """Pages written so far, in all parts."""
        return sum(writer.written for writer in self.writers)

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(writer.size for writer in self.writers)

    def append(self, pfns: NDArray[np.int64], packed: Packed) -> None:
        """See `KdumpWriter.append`; a batch may lie in several parts."""
        parts = self._part_of(pfns)
        at = 0
        for number in np.unique(parts, return_counts=True)[0].tolist():
            mine = parts == number
            sizes = packed.sizes[mine]
            size = int(sizes.sum(dtype=np.int64))
            self.writers[number].append(pfns[mine], Packed(packed.data[at : at + size], sizes))
            at += size

    def rest(self) -> None:
        """See `KdumpWriter.rest`."""
        for writer in self.writers:
            writer.rest()

    def finish(self, *, incomplete: bool) -> None:
        """Finish every part; their headers must be the same, so one incomplete part makes all of them so."""
        for writer in self.writers:
            writer.finish(incomplete=incomplete)

    def _part_of(self, pfns: NDArray[np.int64]) -> NDArray[np.intp]:
        return np.searchsorted(self._ends, pfns, side="right")
