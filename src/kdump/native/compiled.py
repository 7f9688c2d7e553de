"""The engine in C: libkdump.so, called a batch at a time and without Python's lock."""

from __future__ import annotations

import ctypes
import functools
import os
import weakref
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kdump.errors import KdumpError
from kdump.files import drafts
from kdump.native.interface import Fates, FoundWords, Numbers, Packed, PageLayout, Searcher, Take, Unpacker, WordSet
from kdump.native.interface import Packer as AnyPacker
from kdump.native.library import library

NAME: Final = "compiled"

_LINE = 64  # bytes: LINE in loops.c
_PIECE = 16  # bytes for each token in what kdump_heads takes
_TYPES = 5  # page types in struct marking
_FILE_BATCH = 32  # pages of a file that are read and packed at a time: half of what the smallest second-level cache has
_ZSTD = "libzstd.so.1"
_READ_AHEAD = 128 << 10  # bytes read together, if there are pieces close to each other; a page of any size fits
_UNPACK = {  # by a codec's bit in a descriptor: see struct unpacking of loops.c
    0x01: ("libz.so.1", "uncompress"),
    0x02: ("liblzo2.so.2", "lzo1x_decompress_safe"),
    0x04: ("libsnappy.so.1", "snappy_uncompress"),
    0x20: (_ZSTD, "ZSTD_decompressDCtx"),
}
_UNREAD = -2  # what kdump_pack_file returns for a file that cannot be read


def _library() -> ctypes.CDLL:
    found = library()
    if found is None:
        raise KdumpError("libkdump.so was not built", remedy="install kdump where there is a C compiler")
    return found


_LIBRARY: Final = _library()


def _address(array: NDArray[Any]) -> int:
    """Where an array's first byte is."""
    return int(array.__array_interface__["data"][0])


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


class Packer:
    """Compresses the pages of a batch, each into what follows the one before. One for each thread."""

    def __init__(
        self, function: Any, worst: Callable[[int], int], work: NDArray[np.uint8] | _Zstd | None, take: Take, *,
        skip_noise: bool = False,
    ) -> None:  # fmt: skip
        """`function(source, size, target, length, work)`: `length` points to a size_t, `work` is what it may use.

        `worst(size)` is what so many bytes may grow to. With `skip_noise` pages of noise are not tried.
        """
        self._function = ctypes.cast(function, ctypes.c_void_p)
        self._worst = worst
        self._skip_noise = skip_noise
        self._take = take
        self._held = (function, work)  # by address only, below
        self._work = None if work is None else _address(work) if isinstance(work, np.ndarray) else work.address

    def __call__(self, pages: NDArray[np.uint8], *, drop_zeros: bool) -> Packed:
        """See `interface.Packer`. The data's memory is used again once nothing refers to it."""
        count, size = pages.shape
        how, buffer, sizes = self._prepare(count, size, drop_zeros=drop_zeros)
        used = _LIBRARY.kdump_pack(ctypes.byref(how), _address(pages), count, _address(buffer), _address(sizes))
        return _packed(buffer, used, sizes)

    def of_file(self, file: int, places: NDArray[np.int64], size: int, *, drop_zeros: bool) -> Packed | None:
        """See `interface.Packer`. None if not all of the pages can be read."""
        count = len(places)
        places = np.ascontiguousarray(places, np.int64)
        how, buffer, sizes = self._prepare(count, size, drop_zeros=drop_zeros)
        used = _LIBRARY.kdump_pack_file(
            ctypes.byref(how), file, _address(places), count, _FILE_BATCH, _address(buffer), _address(sizes)
        )
        return None if used == _UNREAD else _packed(buffer, used, sizes)

    def _prepare(
        self, count: int, size: int, *, drop_zeros: bool
    ) -> tuple[_Packing, NDArray[np.uint8], NDArray[np.uint32]]:
        """How to pack so many pages, where they go, and where their sizes go."""
        room = self._worst(size)
        how = _Packing(self._function, self._work, size, room, self._skip_noise, drop_zeros)
        return how, self._take(size * count + room), np.empty(count, np.uint32)


def _packed(buffer: NDArray[np.uint8], used: int, sizes: NDArray[np.uint32]) -> Packed:
    if used < 0:
        raise KdumpError("a page could not be compressed", why="the library refused it")
    return Packed(buffer.data[:used].toreadonly(), sizes)


class _Zstd:
    """A compression context of libzstd: what kdump_zstd in loops.c takes."""

    class _Work(ctypes.Structure):
        _fields_ = (("compress", ctypes.c_void_p), ("context", ctypes.c_void_p), ("level", ctypes.c_int))

    def __init__(self, zstd: ctypes.CDLL, level: int) -> None:
        zstd.ZSTD_createCCtx.restype = ctypes.c_void_p
        zstd.ZSTD_freeCCtx.argtypes = [ctypes.c_void_p]
        context = zstd.ZSTD_createCCtx()
        if not context:
            raise MemoryError
        weakref.finalize(self, zstd.ZSTD_freeCCtx, context)
        self._work = self._Work(ctypes.cast(zstd.ZSTD_compressCCtx, ctypes.c_void_p), context, level)
        self.address = ctypes.addressof(self._work)


def packer(codec: str, level: int | None, take: Take) -> AnyPacker:
    """See `interface.Engine`. zstd comes from the system's libzstd; where that is missing, from its Python package."""
    if codec == "zstd":
        return _zstd(1 if level is None else level, take)
    if codec == "zlib":
        # What would be no smaller is not written; bits are, eight bytes at once.
        work = np.empty(_LIBRARY.kdump_deflate_work(), np.uint8)
        return Packer(_LIBRARY.kdump_deflate, lambda size: size + 8, work, take, skip_noise=True)
    functions = {"lzo": _LIBRARY.kdump_lzo, "snappy": _LIBRARY.kdump_snappy}
    work = np.empty(_LIBRARY.kdump_lz_work(), np.uint8)
    return Packer(functions[codec], lambda size: size + size // 16 + 320, work, take)  # as lz.c has it


@functools.cache
def _system(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _zstd(level: int, take: Take) -> AnyPacker:
    if not (zstd := _system(_ZSTD)):
        from kdump.native import plain

        return plain.packer("zstd", level, take)
    worst = lambda size: size + (size >> 8) + 64  # noqa: E731 -- no less than zstd.h's ZSTD_COMPRESSBOUND of 128 KiB
    return Packer(_LIBRARY.kdump_zstd, worst, _Zstd(zstd, level), take, skip_noise=True)


class _Unpacking(ctypes.Structure):
    """struct unpacking of loops.c"""

    _fields_ = (
        ("codec", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("page", ctypes.c_size_t),
    )


def unpacker(codec: int, page_size: int) -> Unpacker | None:
    """See `interface.Engine`: pages are unpacked by the libraries that the system has."""
    if codec not in (0, *_UNPACK) or page_size > _READ_AHEAD:
        return None
    how = _Unpacking(codec, None, None, page_size)
    if codec:
        name, function = _UNPACK[codec]
        found = _system(name)
        if found is None:
            return None
        how.function = ctypes.cast(getattr(found, function), ctypes.c_void_p)
        if name == _ZSTD:
            found.ZSTD_createDCtx.restype = ctypes.c_void_p
            found.ZSTD_freeDCtx.argtypes = [ctypes.c_void_p]
            how.context = found.ZSTD_createDCtx()
            if not how.context:
                raise MemoryError
            weakref.finalize(how, found.ZSTD_freeDCtx, how.context)
    room = np.empty(_READ_AHEAD, np.uint8)

    def unpack(
        data: int | bytes | memoryview, offsets: Numbers, sizes: Numbers, pages: NDArray[np.uint8], rows: Numbers
    ) -> NDArray[np.bool_]:
        done = np.zeros(len(rows), np.bool_)
        offsets, sizes, rows = (np.ascontiguousarray(each, np.int64) for each in (offsets, sizes, rows))
        where = _address(offsets), _address(sizes), _address(rows), len(rows)
        to = _address(pages), _address(done)
        if isinstance(data, int):
            _LIBRARY.kdump_unpack_file(ctypes.byref(how), data, *where, _address(room), len(room), *to)
        else:
            _LIBRARY.kdump_unpack(ctypes.byref(how), _address(np.frombuffer(data, np.uint8)), *where, *to)
        return done

    return unpack


def pwrite_all(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> int:
    """See `interface.Engine`: Python's lock is not taken again for each piece, while other threads want it too."""
    size = memoryview(data).nbytes
    if size <= drafts.PIECE:
        return drafts.pwrite_all(descriptor, data, offset)
    error = _LIBRARY.kdump_write(descriptor, _address(np.frombuffer(data, np.uint8)), size, offset, drafts.PIECE)
    if error:
        raise OSError(error, os.strerror(error))
    return size


def zero_pages(pages: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """See `interface.Engine`."""
    if pages.shape[1] % _LINE:
        raise ValueError(f"pages of {pages.shape[1]} bytes")
    zero = np.empty(len(pages), np.bool_)
    _LIBRARY.kdump_zeros(_address(pages), pages.shape[1], len(pages), _address(zero))
    return zero


class _Words(ctypes.Structure):
    """struct words of secrets.c"""

    _fields_ = (
        ("sorted", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
        ("table", ctypes.c_void_p),
        ("bits", ctypes.c_uint),
    )


def _words(wanted: WordSet) -> _Words:
    return _Words(_address(wanted.words), len(wanted.words), _address(wanted.table), wanted.bits)


def schedules(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """See `interface.Engine`."""
    places = np.empty(len(data) // _LINE, np.int64)
    return places[: _LIBRARY.kdump_schedules(_address(data), len(places), _address(places))]


def words(data: NDArray[np.uint8], wanted: WordSet) -> NDArray[np.int64]:
    """See `interface.Engine`."""
    places = np.empty(len(data) // 8, np.int64)
    return places[: _LIBRARY.kdump_words(ctypes.byref(_words(wanted)), _address(data), len(places), _address(places))]


class _Search(ctypes.Structure):
    """struct search of secrets.c"""

    _fields_ = (
        ("set", ctypes.c_void_p),
        ("schedules", ctypes.c_int),
        ("page", ctypes.c_size_t),
        ("batch", ctypes.c_size_t),
        ("room", ctypes.c_void_p),
        ("most", ctypes.c_size_t),
        ("lines", ctypes.c_void_p),
        ("words", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("line_count", ctypes.c_size_t),
        ("word_count", ctypes.c_size_t),
    )


class _Searcher:
    """See `interface.Searcher`."""

    def __init__(self, page_size: int, wanted: WordSet, schedules: bool) -> None:
        batch = max(1, (_FILE_BATCH << 12) // page_size)
        self._room = np.empty(batch * page_size, np.uint8)
        most = 2 * len(self._room) // 8  # of a batch that has nothing else, and of all others
        self._found = FoundWords(np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.uint64))
        self._wanted = wanted
        self._words = _words(wanted)
        self._how = _Search(
            ctypes.addressof(self._words), schedules, page_size, batch, _address(self._room), most,
            *map(_address, self._found),
        )  # fmt: skip

    def __call__(self, file: int, places: NDArray[np.int64]) -> FoundWords | None:
        places = np.ascontiguousarray(places, np.int64)
        how = self._how
        if _LIBRARY.kdump_search_file(ctypes.byref(how), file, _address(places), len(places)):
            return None
        lines, words, values = self._found
        return FoundWords(lines[: how.line_count], words[: how.word_count], values[: how.word_count])


def searcher(page_size: int, wanted: WordSet, *, schedules: bool) -> Searcher:
    """See `interface.Engine`."""
    return _Searcher(page_size, wanted, schedules)


class _Marking(ctypes.Structure):
    """struct marking of marks.c"""

    _fields_ = (
        ("page", ctypes.c_size_t),
        ("flags", ctypes.c_size_t),
        ("mapping", ctypes.c_size_t),
        ("mapcount", ctypes.c_size_t),
        ("head", ctypes.c_size_t),
        ("of_flags", ctypes.c_void_p),
        ("flag_bytes", ctypes.c_size_t),
        ("type_mask", ctypes.c_uint32),
        ("lowest", ctypes.c_uint32),
        ("span", ctypes.c_uint32),
        ("types", ctypes.c_uint32 * _TYPES),
        ("of_types", ctypes.c_uint32 * _TYPES),
        ("classes", ctypes.c_void_p),
    )


class _StructPages:
    """See `interface.StructPages`."""

    def __init__(self, layout: PageLayout) -> None:
        self._layout = layout  # its arrays, by address only, below
        lowest, highest = min(layout.types, default=0), max(layout.types, default=0)
        numbers = ctypes.c_uint32 * _TYPES
        self._how = _Marking(
            layout.size, layout.flags, layout.mapping, layout.mapcount, layout.head,
            _address(layout.of_flags), len(layout.of_flags), layout.type_mask, lowest, highest - lowest,
            numbers(*layout.types), numbers(*layout.types.values()), _address(layout.classes),
        )  # fmt: skip

    def mark(self, raw: memoryview) -> tuple[NDArray[np.uint16], NDArray[np.uint8], int]:
        """See `interface.StructPages`."""
        count = len(raw) // self._layout.size
        marks, classes = np.empty(count, np.uint16), np.empty(count, np.uint8)
        how, pages = ctypes.byref(self._how), _address(np.frombuffer(raw, np.uint8))
        return marks, classes, _LIBRARY.kdump_marks(how, pages, count, _address(marks), _address(classes))

    def follow_tails(
        self, raw: memoryview, virtual: int, marks: NDArray[np.uint16], classes: NDArray[np.uint8],
        before: tuple[int, int],
    ) -> int:  # fmt: skip
        """See `interface.StructPages`."""
        how, pages = ctypes.byref(self._how), _address(np.frombuffer(raw, np.uint8))
        return int(_LIBRARY.kdump_tails(how, pages, len(marks), virtual, *before, _address(marks), _address(classes)))


def struct_pages(layout: PageLayout) -> _StructPages:
    """See `interface.Engine`."""
    return _StructPages(layout)


def find_fates(classes: NDArray[np.uint8], held: NDArray[np.bool_], table: NDArray[np.uint8]) -> Fates:
    """See `interface.Engine`."""
    count = len(classes)
    found = Fates(np.empty(count, np.bool_), np.empty(count, np.bool_), np.zeros(256, np.int64))
    _LIBRARY.kdump_fates(_address(classes), _address(held), count, _address(table), *map(_address, found))
    return found


def names(raw: NDArray[np.uint8], count: int, *, wide: bool) -> NDArray[np.int64]:
    """See `interface.Engine`."""
    places = np.empty(min(count, len(raw)) + 1, np.int64)
    return places[: _LIBRARY.kdump_names(_address(raw), len(raw), count, wide, _address(places))]


def heads(
    raw: NDArray[np.uint8], begins: NDArray[np.int64], ends: NDArray[np.int64], pieces: list[bytes]
) -> NDArray[np.uint64]:
    """See `interface.Engine`."""
    if len(ends) and (int(ends.max()) > len(raw) or int(begins.min()) < 0):
        raise ValueError("a name lies outside")
    found = np.empty(len(begins), np.uint64)
    table = np.frombuffer(b"".join(piece[:_PIECE].ljust(_PIECE, b"\0") for piece in pieces), np.uint8)
    sizes = np.array([min(len(piece), _PIECE) for piece in pieces], np.uint8)
    begins, ends = np.ascontiguousarray(begins), np.ascontiguousarray(ends)
    arrays = _address(table), _address(sizes), _address(found)
    _LIBRARY.kdump_heads(_address(raw), _address(begins), _address(ends), len(found), *arrays)
    return found


def types(words: NDArray[np.uint32], fixed: NDArray[np.int64], each: NDArray[np.int64]) -> NDArray[np.int64]:
    """See `interface.Engine`."""
    fixed, each = np.ascontiguousarray(fixed, np.int64), np.ascontiguousarray(each, np.int64)
    words = np.require(words, np.uint32, ["C", "A"])
    places = np.empty(len(words) // 3 + 2, np.int64)
    arrays = _address(fixed), _address(each), _address(places)
    return places[: _LIBRARY.kdump_types(_address(words), len(words), *arrays)]
