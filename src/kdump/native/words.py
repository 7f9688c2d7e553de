"""Sets of words to be looked for in all of memory: see `interface.WordSet`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from kdump.native.interface import WordSet

HASH: Final = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio; HASH in secrets.c
_BITS: Final = 17  # 16 KiB: it stays in the processor's cache


def word_set(values: Iterable[int]) -> WordSet:
    """The set of some unsigned 64-bit numbers."""
    words = np.array(sorted(set(values)), np.uint64)
    table = np.zeros(1 << _BITS - 3, np.uint8)
    index = (words * HASH >> np.uint64(64 - _BITS)).astype(np.int64)
    np.bitwise_or.at(table, index >> 3, np.left_shift(1, index & 7).astype(np.uint8))
    return WordSet(words, table, _BITS)
