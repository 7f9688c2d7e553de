"""Compression of pages: one interface, a batch of pages at a time, in C code that releases the GIL.

Every page is compressed by itself: kdump-compressed dumps are read at random.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdump.dump.buffers import Buffers
from kdump.dump.pages import packed_rows
from kdump.errors import UsageError
from kdump.memory.codecs import CODECS, CodecFacts
from kdump.native.engine import engine
from kdump.native.interface import Packed, Packer

__all__ = ["CODECS", "Packed", "codec", "compressor"]


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
    """What compresses with a codec, for one thread. Threads may share `buffers`."""
    if not codec.flag:
        return _Raw()
    return engine.packer(codec.name, level or None, (Buffers() if buffers is None else buffers).take)


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
