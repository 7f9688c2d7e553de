"""Pages packed in C, a batch in one call, without the GIL: zlib, LZO and snappy by libkdump.so, zstd by libzstd.

Where neither it nor a library of the system is at hand Python packages take over (zstandard, isal; the extra `codecs`).
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdump.dump.buffers import Buffers
from kdump.dump.pages import packed_rows
from kdump.errors import KdumpError
from kdump.native import loops
from kdump.native.loops import address

__capture_omits__ = ("lzallright", "cramjam")

LZO_WORK = 16384 * 8  # bytes: LZO1X_1_MEM_COMPRESS of a 64-bit liblzo2
FILE_BATCH = 32  # pages of a file that are read and packed at a time: half of what the smallest second-level cache has
LIBRARIES = {"lzo": "liblzo2.so.2", "snappy": "libsnappy.so.1", "zstd": "libzstd.so.1"}


class _Packing(ctypes.Structure):
    """struct packing of loops.c"""

    _fields_ = (
        ("compress", ctypes.c_void_p),
        ("work", ctypes.c_void_p),
        ("page", ctypes.c_size_t),
        ("room", ctypes.c_size_t),
        ("skip_noise", ctypes.c_int),
        ("drop_zeros", ctypes.c_int),
    )


class LibraryCompressor:
    """Compresses the pages of a batch, each into what follows the one before. One for each thread."""

    def __init__(
        self, function: Any, worst: Callable[[int], int], work: NDArray[np.uint8] | _Zstd | None = None, *,
        skip_noise: bool = False, buffers: Buffers | None = None,
    ) -> None:  # fmt: skip
        """`function(source, size, target, length, work)`: `length` points to a size_t, `work` is what it may use.

        `worst(size)` is what so many bytes may grow to. With `skip_noise` and libkdump.so pages of noise are not tried.
        What is packed goes to `buffers`, which compressors of other threads may share.
        """
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        self._function = function
        self._address = ctypes.cast(function, ctypes.c_void_p)
        self._worst = worst
        self._skip_noise = skip_noise
        self._buffers = Buffers() if buffers is None else buffers
        self._held = work
        self._work = None if work is None else work.ctypes.data if isinstance(work, np.ndarray) else work.address

    def __call__(self, pages: NDArray[np.uint8], *, drop_zeros: bool) -> tuple[memoryview, NDArray[np.uint32]]:
        """Pages packed back to back, and the size of each; one that does not shrink is as it was, one left out has 0.

        The first is read-only: its memory is used again once nothing refers to it.
        """
        count, size = pages.shape
        how, buffer, sizes = self._prepare(count, size, drop_zeros=drop_zeros)
        if library := loops.library():
            used = library.kdump_pack(ctypes.byref(how), address(pages), count, address(buffer), address(sizes))
        else:
            used = self._each(pages, how.room, buffer, sizes, drop_zeros=drop_zeros)
        return _packed(buffer, used), sizes

    def of_file(
        self, file: int, places: NDArray[np.int64], size: int, *, drop_zeros: bool
    ) -> tuple[memoryview, NDArray[np.uint32]] | None:
        """The same of the pages of `size` bytes at these `places` in a file, a descriptor.

        None if not all of them can be read, or without libkdump.so.
        """
        if not (library := loops.library()):
            return None
        count = len(places)
        how, buffer, sizes = self._prepare(count, size, drop_zeros=drop_zeros)
        used = library.kdump_pack_file(
            ctypes.byref(how), file, address(places), count, FILE_BATCH, address(buffer), address(sizes)
        )
        return None if used == _UNREAD else (_packed(buffer, used), sizes)

    def _prepare(
        self, count: int, size: int, *, drop_zeros: bool
    ) -> tuple[_Packing, NDArray[np.uint8], NDArray[np.uint32]]:
        """How to pack so many pages, where they go, and where their sizes go."""
        room = self._worst(size)
        how = _Packing(self._address, self._work, size, room, self._skip_noise, drop_zeros)
        return how, self._buffers.take(size * count + room), np.empty(count, np.uint32)

    def _each(
        self, pages: NDArray[np.uint8], room: int, buffer: NDArray[np.uint8], sizes: NDArray[np.uint32], *,
        drop_zeros: bool,
    ) -> int:  # fmt: skip  # as kdump_pack in loops.c
        size, used = pages.shape[1], 0
        source, target, work = pages.ctypes.data, buffer.ctypes.data, self._work
        length = ctypes.c_size_t()
        place = ctypes.addressof(length)
        sizes[:] = 0
        for row in packed_rows(pages, drop_zeros=drop_zeros).tolist():
            length.value = room
            if self._function(source + row * size, size, target + used, place, work):
                return -1
            if length.value >= size:
                buffer[used : used + size] = pages[row]
                length.value = size
            sizes[row] = length.value
            used += length.value
        return used


_UNREAD = -2  # what kdump_pack_file returns for a file that cannot be read


def _packed(buffer: NDArray[np.uint8], used: int) -> memoryview:
    if used < 0:
        raise KdumpError("a page could not be compressed", why="the library refused it")
    return buffer.data[:used].toreadonly()


class _Zstd:
    """Compression contexts of libzstd: what kdump_zstd in loops.c takes."""

    class _Work(ctypes.Structure):
        _fields_ = (("compress", ctypes.c_void_p), ("context", ctypes.c_void_p), ("level", ctypes.c_int))

    def __init__(self, library: ctypes.CDLL, level: int) -> None:
        library.ZSTD_createCCtx.restype = ctypes.c_void_p
        library.ZSTD_freeCCtx.argtypes = [ctypes.c_void_p]
        context = library.ZSTD_createCCtx()
        if not context:
            raise MemoryError
        weakref.finalize(self, library.ZSTD_freeCCtx, context)
        self._work = self._Work(ctypes.cast(library.ZSTD_compressCCtx, ctypes.c_void_p), context, level)
        self.address = ctypes.addressof(self._work)


def zlib(buffers: Buffers | None = None) -> LibraryCompressor | None:
    """Streams of zlib from deflate.c; None without libkdump.so."""
    if not (loop := loops.library()):
        return None
    worst = lambda size: size + 8  # noqa: E731 -- what would be no smaller is not written; bits are, eight bytes at once
    work = np.empty(loop.kdump_deflate_work(), np.uint8)
    return LibraryCompressor(loop.kdump_deflate, worst, work, skip_noise=True, buffers=buffers)


def zstd(level: int, buffers: Buffers | None = None) -> LibraryCompressor | None:
    """zstd from libzstd, each page a frame that states its content size; None without the library or libkdump.so."""
    library, loop = _load("zstd"), loops.library()
    if not library or not loop:
        return None
    worst = lambda size: size + (size >> 8) + 64  # noqa: E731 -- no less than zstd.h's ZSTD_COMPRESSBOUND of 128 KiB
    return LibraryCompressor(loop.kdump_zstd, worst, _Zstd(library, level), skip_noise=True, buffers=buffers)


def lzo(buffers: Buffers | None = None) -> LibraryCompressor | None:
    """LZO1X from lz.c, or from liblzo2; None if neither is there."""
    if loop := loops.library():
        return _lz(loop, loop.kdump_lzo, buffers)
    library = _load("lzo")
    worst = lambda size: size + size // 16 + 67  # noqa: E731 -- the worst case that lzoconf.h states
    work = np.empty(LZO_WORK, np.uint8)
    return LibraryCompressor(library.lzo1x_1_compress, worst, work, buffers=buffers) if library else None


def snappy(buffers: Buffers | None = None) -> LibraryCompressor | None:
    """Snappy's format from lz.c, or from its library; None if neither is there."""
    if loop := loops.library():
        return _lz(loop, loop.kdump_snappy, buffers)
    library = _load("snappy")
    worst = lambda size: 32 + size + size // 6  # noqa: E731 -- snappy_max_compressed_length()
    return LibraryCompressor(library.snappy_compress, worst, buffers=buffers) if library else None


def _lz(loop: ctypes.CDLL, function: Any, buffers: Buffers | None) -> LibraryCompressor:
    worst = lambda size: size + size // 16 + 320  # noqa: E731 -- as lz.c has it
    return LibraryCompressor(function, worst, np.empty(loop.kdump_lz_work(), np.uint8), buffers=buffers)


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
