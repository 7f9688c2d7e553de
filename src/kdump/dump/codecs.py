"""Compression of pages: one interface, a batch of pages at a time, in C code that releases the GIL.

Every page is compressed by itself: kdump-compressed dumps are read at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kdump.dump.buffers import Buffers
from kdump.dump.pages import packed_rows
from kdump.errors import KdumpError, UsageError
from kdump.native.loops import find_noise

if TYPE_CHECKING:
    from kdump.dump.clibs import LibraryCompressor

ZLIB, LZO, SNAPPY, ZSTD = 0x01, 0x02, 0x04, 0x20  # bits in a descriptor's flags and in the header's status


class Packed(NamedTuple):
    """A batch of compressed pages: their bytes back to back, and each page's size.

    One as large as a page is raw, one of size 0 was left out: it is all zeros.
    """

    data: bytes | memoryview  # read-only
    sizes: NDArray[np.uint32]


class Compressor(Protocol):
    """Compresses pages; one for each thread."""

    def __call__(self, pages: NDArray[np.uint8], *, drop_zeros: bool) -> Packed:
        """Pack `pages`, of shape (n, page size) and contiguous, all or without those of zeros."""

    def of_file(self, file: int, places: NDArray[np.int64], size: int, *, drop_zeros: bool) -> Packed | None:
        """The same of pages of `size` bytes at these places in a file, a descriptor; None if it cannot do that."""


class Codec(NamedTuple):
    """A codec by name: see `make`."""

    name: str
    flag: int
    maker: Callable[[int | None, Buffers | None], Compressor]
    levels: range | None = None

    def make(self, level: int | None, buffers: Buffers | None = None) -> Compressor:
        """A compressor, for one thread; level None is the codec's default here. Threads may share `buffers`."""
        return self.maker(level, buffers)


def codec(name: str, level: int | None = None) -> Codec:
    """The codec of that name, with its level checked. Raises `UsageError`; `KdumpError` without its library."""
    found = CODECS.get(name)
    if found is None:
        raise UsageError(f"unknown compression {name!r}", remedy="known: " + ", ".join(CODECS))
    if level is not None and (found.levels is None or level not in found.levels):
        allowed = f"{found.levels[0]} to {found.levels[-1]}" if found.levels else "none"
        raise UsageError(f"{name} has no level {level}", remedy=f"levels of {name}: {allowed}")
    found.make(level)  # a missing library is found out before anything is written
    return found


def _join(pages: NDArray[np.uint8], rows: NDArray[np.intp], packed: Iterable[Any], sizes: NDArray[np.uint32]) -> Packed:
    """Join pages; those that did not shrink are stored raw."""
    size = pages.shape[1]
    raw = np.flatnonzero(sizes >= size)
    if len(raw):
        packed, flat = list(packed), pages.data.cast("B")
        for index, row in zip(raw.tolist(), rows[raw].tolist(), strict=True):
            packed[index] = flat[row * size : (row + 1) * size]
        sizes[raw] = size
    return Packed(b"".join(packed), sizes)


class _Rows:
    """What packs rows of pages that were looked for beforehand."""

    def __call__(self, pages: NDArray[np.uint8], *, drop_zeros: bool) -> Packed:
        rows = packed_rows(pages, drop_zeros=drop_zeros)
        data, packed = self._pack(pages, rows)
        sizes = np.zeros(len(pages), np.uint32)
        sizes[rows] = packed
        return Packed(data, sizes)

    def of_file(self, file: int, places: NDArray[np.int64], size: int, *, drop_zeros: bool) -> Packed | None:
        """It cannot."""

    def _pack(self, pages: NDArray[np.uint8], rows: NDArray[np.intp]) -> Packed:
        """pages[rows]"""
        raise NotImplementedError


class _Raw(_Rows):
    """No compression."""

    def _pack(self, pages: NDArray[np.uint8], rows: NDArray[np.intp]) -> Packed:
        sizes = np.full(len(rows), pages.shape[1], np.uint32)
        return Packed(pages[rows].tobytes(), sizes)


class _Zstd(_Rows):
    """A whole batch in one call into C; each page a frame that states its content size."""

    def __init__(self, level: int) -> None:
        import zstandard

        self._segments = zstandard.BufferWithSegments
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=False)

    def _pack(self, pages: NDArray[np.uint8], rows: NDArray[np.intp]) -> Packed:
        size = pages.shape[1]
        if not len(rows):
            return _EMPTY
        where = np.empty((len(rows), 2), np.uint64)
        where[:, 0] = rows
        where[:, 0] *= np.uint64(size)
        where[:, 1] = size
        frames: Any = self._compressor.multi_compress_to_buffer(self._segments(pages.data.cast("B"), where.tobytes()))
        sizes = np.fromiter(map(len, frames), np.uint32, len(rows))
        return _join(pages, rows, frames, sizes)


Finder = Callable[[NDArray[np.uint8], NDArray[np.intp]], NDArray[np.bool_]]


class _Each(_Rows):
    """A codec whose library takes one page at a time; pages that `find_noise` finds are stored raw, untried."""

    def __init__(self, compress: Callable[[NDArray[np.uint8]], bytes], find_noise: Finder) -> None:
        self._compress = compress
        self._find_noise = find_noise

    def _pack(self, pages: NDArray[np.uint8], rows: NDArray[np.intp]) -> Packed:
        compress, noise = self._compress, self._find_noise(pages, rows)
        packed = [b"" if raw else compress(pages[row]) for row, raw in zip(rows.tolist(), noise.tolist(), strict=True)]
        sizes = np.fromiter(map(len, packed), np.uint32, len(rows))
        sizes[noise] = pages.shape[1]
        return _join(pages, rows, packed, sizes)


def _no_noise(_pages: NDArray[np.uint8], rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    return np.zeros(len(rows), np.bool_)


def _zstd(level: int | None, buffers: Buffers | None) -> Compressor:
    chosen = 1 if level is None else level
    from kdump.dump import clibs

    library = clibs.zstd(chosen, buffers)
    return _Library(library) if library else _Zstd(chosen)


_EMPTY = Packed(b"", np.zeros(0, np.uint32))


def _zlib(level: int | None, buffers: Buffers | None) -> Compressor:
    """Without a level deflate.c's streams, and else ISA-L's."""
    from kdump.dump import clibs

    if level is None and (library := clibs.zlib(buffers)):
        return _Library(library)
    from isal import igzip_lib

    compress, flag = igzip_lib.compress, igzip_lib.COMP_ZLIB
    chosen = 1 if level is None else level
    return _Each(lambda page: compress(page, chosen, flag), find_noise)


class _Library:
    """A codec in a C library."""

    def __init__(self, compress: LibraryCompressor) -> None:
        self._compress = compress

    def __call__(self, pages: NDArray[np.uint8], *, drop_zeros: bool) -> Packed:
        return Packed(*self._compress(pages, drop_zeros=drop_zeros))

    def of_file(self, file: int, places: NDArray[np.int64], size: int, *, drop_zeros: bool) -> Packed | None:
        """See `Compressor.of_file`."""
        found = self._compress.of_file(file, places, size, drop_zeros=drop_zeros)
        return found and Packed(*found)


def _lzo(_level: int | None, buffers: Buffers | None) -> Compressor:
    from kdump.dump import clibs

    library = clibs.lzo(buffers)
    return _Library(library) if library else _Each(_package("lzo", clibs.lzo_package), _no_noise)


def _snappy(_level: int | None, buffers: Buffers | None) -> Compressor:
    from kdump.dump import clibs

    library = clibs.snappy(buffers)
    return _Library(library) if library else _Each(_package("snappy", clibs.snappy_package), _no_noise)


def _package(name: str, make: Callable[[], Callable[[NDArray[np.uint8]], bytes]]) -> Callable[[Any], bytes]:
    try:
        return make()
    except ImportError as error:
        raise KdumpError(
            f"{name} is not available: neither its library nor the Python package {error.name} is installed",
            remedy="use zstd, or install the optional codecs: pip install 'linux-kdump[codecs]'",
        ) from None


CODECS = {
    each.name: each
    for each in (
        Codec("none", 0, lambda _level, _buffers: _Raw()),
        Codec("zstd", ZSTD, _zstd, range(-50, 23)),
        Codec("zlib", ZLIB, _zlib, range(4)),
        Codec("lzo", LZO, _lzo),
        Codec("snappy", SNAPPY, _snappy),
    )
}
