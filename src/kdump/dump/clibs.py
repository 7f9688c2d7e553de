"""LZO and snappy, called in the system's C libraries: they release the GIL, and their speed is makedumpfile's.

Where a library is not installed, the optional Python packages (extra `codecs`) take over. Never in the capture image.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdump.errors import KdumpError

__capture_omits__ = ("ctypes", "lzallright", "cramjam")

LZO_WORK = 16384 * 8  # bytes: LZO1X_1_MEM_COMPRESS of a 64-bit liblzo2
LIBRARIES = {"lzo": "liblzo2.so.2", "snappy": "libsnappy.so.1"}


class LibraryCompressor:
    """Compresses pages one by one into a buffer of its own. One for each thread."""

    def __init__(self, call: Callable[[int, int, int, int], int], worst: Callable[[int], int]) -> None:
        """`call(source, size, target, length)` compresses between addresses; `length` points to a size_t."""
        self._call = call
        self._worst = worst
        self._buffer = np.empty(0, np.uint8)
        self._sizes = np.empty(0, np.uint64)

    def __call__(self, pages: NDArray[np.uint8], rows: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Compressed pages[rows], each a view that is valid until the next call."""
        size = pages.shape[1]
        room = self._worst(size)
        if len(self._buffer) < room * len(rows):
            self._buffer = np.empty(room * len(rows), np.uint8)
        self._sizes = np.full(len(rows), room, np.uint64)
        source, target, length = pages.ctypes.data, self._buffer.ctypes.data, self._sizes.ctypes.data
        call, at = self._call, target
        for row in rows:
            if call(source + row * size, size, at, length):
                raise KdumpError("a page could not be compressed", why="the library refused it")
            at += room
            length += 8
        buffer = self._buffer
        return [
            buffer[start : start + used]
            for start, used in zip(range(0, at - target, room), self._sizes.tolist(), strict=True)
        ]


def lzo() -> LibraryCompressor | None:
    """LZO1X-1 from liblzo2; None if it is not installed."""
    library = _load("lzo")
    if library is None:
        return None
    function = library.lzo1x_1_compress
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    work = np.empty(LZO_WORK, np.uint8)

    def call(source: int, size: int, target: int, length: int) -> int:
        result: int = function(source, size, target, length, work.ctypes.data)
        return result

    return LibraryCompressor(call, lambda size: size + size // 16 + 67)  # the worst case that lzoconf.h states


def snappy() -> LibraryCompressor | None:
    """Snappy's C interface; None if the library is not installed."""
    library = _load("snappy")
    if library is None:
        return None
    function = library.snappy_compress
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p]
    worst: int = library.snappy_max_compressed_length(4096)
    return LibraryCompressor(function, lambda size: 32 + size + size // 6 if size != 4096 else worst)


def lzo_package() -> Callable[[NDArray[np.uint8]], bytes]:
    """LZO from the package lzallright (slow, but needs no library)."""
    from lzallright import LZOCompressor

    compress: Callable[[Any], bytes] = LZOCompressor().compress
    return compress


def snappy_package() -> Callable[[NDArray[np.uint8]], bytes]:
    """Snappy from the package cramjam."""
    from cramjam import snappy as package

    return lambda page: bytes(package.compress_raw(page.data))


def _load(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(LIBRARIES[name])
    except OSError:
        return None
