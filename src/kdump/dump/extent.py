"""Checks, before pages are walked, that a dump is large enough for the memory that it claims."""

from __future__ import annotations

from kdump.errors import FormatError
from kdump.memory.protocol import Dump
from kdump.units import size_text

BITMAPS_LIMIT = 32 << 20  # bytes of bitmaps that any dump may have: of 512 GiB
BITMAPS_SHARE = 16  # and beyond, bytes of bitmaps for each byte of memory that the dump holds


def check_extent(dump: Dump) -> None:
    """Raises `FormatError` if the bitmaps of a kdump-compressed dump would dwarf the memory that is there.

    They have two bits for each page up to the last one, so a damaged header of a few bytes could ask for terabytes of
    them, and for minutes of work. A machine with memory far up has large bitmaps, but also more than that in its dump.
    """
    memory = dump.memory
    end = max((each.end for each in memory.ranges), default=0)
    bitmaps = 2 * end // memory.page_size // 8
    if bitmaps > BITMAPS_LIMIT and bitmaps > BITMAPS_SHARE * (held := sum(each.size for each in memory.held())):
        raise FormatError(
            f"claims memory up to {end:#x} but holds {size_text(held)} of it",
            path=dump.path,
            field="p_memsz" if dump.format.endswith("elf") else "max_mapnr",
            why=f"the bitmaps of a dump of it would take {size_text(bitmaps)}",
            remedy="`kdump info` shows the contents; repeat a copy that was cut off",
        )
