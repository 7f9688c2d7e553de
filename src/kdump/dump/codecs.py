"""Compression of pages: one interface, a batch of pages at a time, in C code that releases the GIL.

Every page is compressed by itself: kdump-compressed dumps are read at random.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kdump.dump.buffers import Buffers
from kdump.dump.pages import packed_rows
from kdump.errors import UsageError
from kdump.memory.codecs import CODECS, CodecFacts
from kdump.native.engine import engine
from kdump.native.interface import Packed, Packer

__all__ = ["CODECS", "Packed", "codec", "compressor", "interleaved"]


def codec(name: str, level: int = 0) -> CodecFacts:
    """The codec of that name, with its level checked; 0 is kdump's choice. Raises `UsageError`.

    Raises `KdumpError` if this installation cannot compress with it.
    """
    found = CODECS.get(name)
    if found is None:
        raise UsageError(f"unknown compression {name!r}", remedy="known: " + ", ".join(CODECS))
    if not found.takes(level):
        raise UsageError(f"{name} has no level {level}", remedy=f"levels of {name}: {found.allowed}")
    compressor(found, level)  # a missing library is found out before anything is written
    return found


def compressor(codec: CodecFacts, level: int = 0, buffers: Buffers | None = None) -> Packer:
    """The compressor of a codec, for one thread. Threads may share `buffers`."""
    if not codec.flag:
        return _Raw()
    return engine.packer(codec.name, level or None, (Buffers() if buffers is None else buffers).take)


def interleaved(one: Packed, other: Packed, mask: NDArray[np.bool_]) -> Packed:
    """Two batches as one: its pages come from `other` where `mask` is set, else from `one`, each in order."""
    sizes = np.empty(len(mask), np.uint32)
    sizes[~mask], sizes[mask] = one.sizes, other.sizes
    bounds = [0, *(np.flatnonzero(mask[1:] != mask[:-1]) + 1).tolist(), len(mask)]
    places = [0, 0]
    pieces = []
    for start, end in pairwise(bounds):
        which = int(mask[start])
        size = int(sizes[start:end].sum())
        pieces.append((one, other)[which].data[places[which] : places[which] + size])
        places[which] += size
    return Packed(b"".join(pieces), sizes)


class _Raw:
    """No compression."""

    def __call__(self, pages: NDArray[np.uint8], *, drop_zeros: bool) -> Packed:
        """See `Packer`."""
        size = pages.shape[1]
        rows = packed_rows(pages, drop_zeros=drop_zeros)
        sizes = np.zeros(len(pages), np.uint32)
        sizes[rows] = size
        return Packed(pages[rows].tobytes(), sizes)

    def of_file(self, file: int, places: NDArray[np.int64], size: int, *, drop_zeros: bool) -> Packed | None:
        """It cannot."""
