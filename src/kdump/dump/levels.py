"""Dump levels: which classes of pages a dump leaves out.

The bits are makedumpfile's (its manual page, -d); `OURS` is one more of our own.
"""

from __future__ import annotations

from itertools import pairwise

from kdump.errors import UsageError
from kdump.units import whole_number

ZERO, CACHE, CACHE_PRIVATE, USER, FREE = 1, 2, 4, 8, 16
OURS = 32  # page cache that is on no LRU list; see `Classifier`. Off by default: makedumpfile has no such level
MAXIMUM = 63
MOST_PARTS = 64  # files of a split dump: each has the whole bitmaps, and is open while the dump is written
MOST = 31  # what makedumpfile knows: the memory of the kernel itself is left

BITS = {ZERO: "zero", CACHE: "cache", CACHE_PRIVATE: "private cache", USER: "user", FREE: "free", OURS: "cache off LRU"}
PAGE_CLASS_BITS = MAXIMUM & ~ZERO  # the bits that need struct pages


def parse_levels(text: str) -> tuple[int, ...]:
    """Levels from "31" or "1,17,31": the first is used, the next ones if the disk is too full for it.

    Raises `UsageError` for what is not a level, and for lists that are not in rising order.
    """
    try:
        levels = tuple(whole_number(part, 0, MAXIMUM) for part in text.split(",", MAXIMUM + 1))
    except ValueError:
        raise UsageError(
            f"{text!r} is not a dump level", remedy=f"write 0 to {MAXIMUM}, or a rising list such as 1,17,31"
        ) from None
    if any(before >= after for before, after in pairwise(levels)):
        raise UsageError(
            f"the levels {text} are not in rising order",
            remedy="each level must drop more than the one before, as in 1,17,31",
        )
    return levels


def describe(level: int) -> str:
    """The classes that a level drops, in words."""
    return ", ".join(name for bit, name in BITS.items() if level & bit) or "nothing"
