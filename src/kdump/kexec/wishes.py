"""Options of the segment method; in a module of their own, because most loads need neither."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kdump.memory.protocol import Range


class Wishes(NamedTuple):
    """Options of the segment method: bounds for addresses (None: the method's own), whether to use checksums,
    and the I/O port where purgatory complains (None: the command line's last serial console)."""

    low: int | None = None
    high: int | None = None
    check: bool = True
    serial_port: int | None = None

    def bound(self, ranges: Iterable[Range], low: int = 0, high: int = 1 << 64) -> list[Range]:
        """`ranges` cut to the bounds wished for, or to `low` and `high`."""
        start = low if self.low is None else self.low
        end = high if self.high is None else self.high
        cut = [Range(max(part.start, start), min(part.end, end)) for part in ranges]
        return [part for part in cut if part.start < part.end]
