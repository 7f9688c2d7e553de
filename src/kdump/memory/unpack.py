"""Pages unpacked in C, a batch in one call and without Python's lock, by the libraries that the system has."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import weakref
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kdump.memory.decompress import LZO, SNAPPY, ZLIB, ZSTD, Pieces
from kdump.native import loops

# `unpack(pieces, pages, rows)`: which pieces are whole pages in `pages[rows]` now.
Unpacker = Callable[[Pieces, NDArray[np.uint8], NDArray[np.intp]], NDArray[np.bool_]]
_READ_AHEAD = 128 << 10  # bytes read together, if there are pieces close to each other; a page of any size fits
_THREADS, _EACH = 4, 256  # threads at most, and pages that are worth one
_FUNCTIONS = {
    ZLIB: ("libz.so.1", "uncompress"),
    LZO: ("liblzo2.so.2", "lzo1x_decompress_safe"),
    SNAPPY: ("libsnappy.so.1", "snappy_uncompress"),
    ZSTD: ("libzstd.so.1", "ZSTD_decompressDCtx"),
}


class _Unpacking(ctypes.Structure):
    """struct unpacking of loops.c"""

    _fields_ = (
        ("codec", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("page", ctypes.c_size_t),
    )


@functools.cache
def _library(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def unpacker(codec: int, page_size: int) -> Unpacker | None:
    """Unpacks pages of that size; for one thread. None where libkdump.so or the codec's library is not there."""
    library = loops.library()
    if library is None or codec not in (0, *_FUNCTIONS):
        return None
    how = _Unpacking(codec, None, None, page_size)
    if codec:
        name, function = _FUNCTIONS[codec]
        found = _library(name)
        if found is None:
            return None
        how.function = ctypes.cast(getattr(found, function), ctypes.c_void_p)
        if codec == ZSTD:
            found.ZSTD_createDCtx.restype = ctypes.c_void_p
            found.ZSTD_freeDCtx.argtypes = [ctypes.c_void_p]
            how.context = found.ZSTD_createDCtx()
            weakref.finalize(how, found.ZSTD_freeDCtx, how.context)

    room = np.empty(_READ_AHEAD, np.uint8)

    def unpack(pieces: Pieces, pages: NDArray[np.uint8], rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        done = np.zeros(len(rows), np.bool_)
        offsets, sizes, rows = (np.ascontiguousarray(each, np.int64) for each in (pieces.offsets, pieces.sizes, rows))
        where = loops.address(offsets), loops.address(sizes), loops.address(rows), len(rows)
        to = loops.address(pages), loops.address(done)
        if isinstance(pieces.data, int):
            file, ahead = pieces.data, (loops.address(room), len(room))
            library.kdump_unpack_file(ctypes.byref(how), file, *where, *ahead, *to)
        else:
            source = np.frombuffer(pieces.data, np.uint8)
            library.kdump_unpack(ctypes.byref(how), loops.address(source), *where, *to)
        return done

    return unpack


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
