"""Pages unpacked in C, a batch in one call and without Python's lock, by the libraries that the system has."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kdump.memory.pieces import Pieces
from kdump.native.engine import engine

# `unpack(pieces, pages, rows)`: which pieces are whole pages in `pages[rows]` now.
Unpacker = Callable[[Pieces, NDArray[np.uint8], NDArray[np.intp]], NDArray[np.bool_]]
_THREADS, _EACH = 4, 256  # threads at most, and pages that are worth one


def unpacker(codec: int, page_size: int) -> Unpacker | None:
    """Unpacks pages of that size; for one thread. None where the engine or the codec's library cannot."""
    unpack = engine.unpacker(codec, page_size)
    if unpack is None:
        return None
    return lambda pieces, pages, rows: unpack(pieces.data, pieces.offsets, pieces.sizes, pages, rows)


class Shared:
    """Unpackers of one codec for as many threads as there are CPUs, up to `_THREADS`."""

    def __init__(self, codec: int, page_size: int) -> None:
        """Raises `LookupError` where `unpacker` gives None."""
        count = min(_THREADS, len(os.sched_getaffinity(0)))
        found = [unpacker(codec, page_size) for _ in range(count)]
        if None in found:
            raise LookupError("libkdump.so or the codec's library is not there")
        self._unpackers = [each for each in found if each is not None]
        self._lock = threading.Lock()

    def __call__(self, pieces: Pieces, pages: NDArray[np.uint8], rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """As an `Unpacker`."""
        with self._lock:
            parts = min(len(self._unpackers), max(len(rows) // _EACH, 1))
            bounds = [len(rows) * part // parts for part in range(parts + 1)]
            done = np.zeros(len(rows), np.bool_)

            def work(number: int) -> None:
                part = slice(bounds[number], bounds[number + 1])
                own = Pieces(pieces.data, pieces.offsets[part], pieces.sizes[part])
                done[part] = self._unpackers[number](own, pages, rows[part])

            others = [threading.Thread(target=work, args=(number,)) for number in range(1, parts)]
            for thread in others:
                thread.start()
            work(0)
            for thread in others:
                thread.join()
            return done
