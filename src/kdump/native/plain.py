"""The engine in Python, with NumPy: for machines without a C compiler, and as a reference for the compiled one."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kdump.errors import KdumpError
from kdump.files.drafts import pwrite_all as pwrite_all  # noqa: PLC0414 -- a part of this engine
from kdump.native.chain import follow
from kdump.native.interface import ANONYMOUS, HEAD, TAIL, Fates, Packed, Packer, PageLayout, Searcher, Take, WordSet

NAME: Final = "plain"

_LOWEST_MASK = 0xFFFF_FFFF_0000_0000  # no struct page lies above it: the kernel's image and modules do


def packer(codec: str, level: int | None, take: Take) -> Packer:
    """See `interface.Engine`: zstd and zlib, from their packages."""
    if codec == "zstd":
        return _Rows(_zstd(1 if level is None else level))
    if codec == "zlib":
        return _Rows(lambda pages, rows: [zlib.compress(pages[row], 1) for row in rows.tolist()])
    raise KdumpError(
        f"{codec} is not available",
        why="kdump was installed without its compiled library",
        remedy="use zstd, or install kdump again where there is a C compiler",
    )


def unpacker(codec: int, page_size: int) -> None:
    """See `interface.Engine`: it cannot; `kdump.memory.decompress` takes pages one by one."""


class _Rows:
    """Packs pages that hold more than zeros by a function that takes pages and their rows."""

    def __init__(self, compress: Callable[[NDArray[np.uint8], NDArray[np.intp]], Any]) -> None:
        self._compress = compress

    def __call__(self, pages: NDArray[np.uint8], *, drop_zeros: bool) -> Packed:
        """See `interface.Packer`."""
        size = pages.shape[1]
        rows = np.flatnonzero(~zero_pages(pages)) if drop_zeros else np.arange(len(pages))
        packed = list(self._compress(pages, rows)) if len(rows) else []
        shrunk = np.fromiter(map(len, packed), np.uint32, len(rows))
        for index in np.flatnonzero(shrunk >= size).tolist():
            packed[index] = pages[rows[index]].data
        sizes = np.zeros(len(pages), np.uint32)
        sizes[rows] = np.minimum(shrunk, size)
        return Packed(b"".join(packed), sizes)

    def of_file(self, file: int, places: NDArray[np.int64], size: int, *, drop_zeros: bool) -> Packed | None:
        """It cannot."""


def _zstd(level: int) -> Callable[[NDArray[np.uint8], NDArray[np.intp]], Any]:
    import zstandard

    segments = zstandard.BufferWithSegments
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=False)

    def compress(pages: NDArray[np.uint8], rows: NDArray[np.intp]) -> Any:
        """A whole batch in one call into C; each page a frame that states its content size."""
        where = np.empty((len(rows), 2), np.uint64)
        where[:, 0] = rows
        where[:, 0] *= np.uint64(pages.shape[1])
        where[:, 1] = pages.shape[1]
        return compressor.multi_compress_to_buffer(segments(pages.data.cast("B"), where.tobytes()))

    return compress


def zero_pages(pages: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """See `interface.Engine`."""
    found: NDArray[np.bool_] = np.bitwise_or.reduce(pages.view(np.uint64), axis=1) == 0
    return found


def schedules(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """See `interface.Engine`."""
    lines = data[: len(data) // 64 * 64].view("<u4").reshape(-1, 16)
    lines = lines[rows := np.flatnonzero(lines[:, 12:].any(axis=1))]
    last = lines[:, 12:]
    source = last ^ lines[:, 11:15]
    hit = np.zeros(len(lines), np.bool_)
    for back in (4, 6, 8):
        same = (source == lines[:, 12 - back : 16 - back]) & (source != 0) & (last != 0)
        hit |= (same[:, 0] & same[:, 1]) | (same[:, 2] & same[:, 3])
    return rows[hit].astype(np.int64) * 64


def words(data: NDArray[np.uint8], wanted: WordSet) -> NDArray[np.int64]:
    """See `interface.Engine`."""
    if not len(wanted.words):
        return np.zeros(0, np.int64)
    held = data[: len(data) // 8 * 8].view("<u8")
    place = np.searchsorted(wanted.words, held)
    return np.flatnonzero(wanted.words[np.minimum(place, len(wanted.words) - 1)] == held).astype(np.int64) * 8


def searcher(page_size: int, wanted: WordSet, *, schedules: bool) -> Searcher:
    """See `interface.Engine`. Pages that were read already are searched as fast."""
    del page_size, wanted, schedules
    return lambda _file, _places: None


class _StructPages:
    """See `interface.StructPages`."""

    def __init__(self, layout: PageLayout) -> None:
        self._layout = layout

    def mark(self, raw: memoryview) -> tuple[NDArray[np.uint16], NDArray[np.uint8], int]:
        """See `interface.StructPages`."""
        layout, size = self._layout, self._layout.size
        marks = (_field(raw, "u1", layout.head, size) & np.uint8(1)).astype(np.uint16) * np.uint16(TAIL)
        marks |= (_field(raw, "u1", layout.mapping, size) & np.uint8(1)) * np.uint16(ANONYMOUS)
        for byte, table in enumerate(layout.of_flags):
            marks |= table[_field(raw, "u1", layout.flags + byte, size)]
        types = _field(raw, "<u4", layout.mapcount, size) & np.uint32(layout.type_mask)
        for value, mark in layout.types.items():
            marks |= (types == value) * np.uint16(mark)
        return marks, layout.classes[marks], int(np.bitwise_or.reduce(marks, initial=0))

    def follow_tails(
        self, raw: memoryview, virtual: int, marks: NDArray[np.uint16], classes: NDArray[np.uint8],
        before: tuple[int, int],
    ) -> int:  # fmt: skip
        """See `interface.StructPages`."""
        size = self._layout.size
        tails = np.flatnonzero(marks & np.uint16(TAIL))
        pointer = _field(raw, "<u8", self._layout.head, size)[tails]
        own = np.uint64(virtual) + tails.astype(np.uint64) * np.uint64(size)
        # Since 7.1 compound_info may be a mask to apply to the tail's own address instead of the head's address.
        found = np.where(pointer >= np.uint64(_LOWEST_MASK), own & pointer, pointer) & ~np.uint64(1)
        place = (found - np.uint64(virtual)) // np.uint64(size)
        inside = place < tails.astype(np.uint64)
        where = np.where(inside, place, 0).astype(np.intp)
        is_head = inside & ((marks[where] & np.uint16(TAIL | HEAD)) == HEAD)
        is_before = found == np.uint64(before[0])
        classes[tails] = np.where(is_before, np.uint8(before[1]), np.where(is_head, classes[where], np.uint8(0)))
        return len(tails) - int(np.count_nonzero(is_head | is_before))


def _field(raw: memoryview | bytes, dtype: str, offset: int, stride: int) -> NDArray[Any]:
    return np.ndarray((len(raw) // stride,), dtype, raw, offset, (stride,))


def struct_pages(layout: PageLayout) -> _StructPages:
    """See `interface.Engine`."""
    return _StructPages(layout)


def find_fates(classes: NDArray[np.uint8], held: NDArray[np.bool_], table: NDArray[np.uint8]) -> Fates:
    """See `interface.Engine`."""
    data = classes.tobytes()
    fates = np.frombuffer(data.translate(table.tobytes()), np.uint8) * held  # NumPy's look-up takes longer
    counts = np.array([data.count(number) for number in range(256)], np.int64)
    return Fates((fates & np.uint8(1)).view(np.bool_), fates > 1, counts)


def names(raw: NDArray[np.uint8], count: int, *, wide: bool) -> NDArray[np.int64]:
    """See `interface.Engine`."""
    codes = np.concatenate((raw, np.zeros(1, np.uint8)))

    def narrow(first: int, end: int) -> NDArray[np.int64]:
        return codes[first:end].astype(np.int64) + 1

    def uleb128(first: int, end: int) -> NDArray[np.int64]:
        found = narrow(first, end)
        long = np.flatnonzero(found > 0x80)
        found[long] += (codes[first + 1 : end + 1][long].astype(np.int64) << 7) - 0x7F
        return found

    return follow(uleb128 if wide else narrow, len(raw), count)


def heads(
    raw: NDArray[np.uint8], begins: NDArray[np.int64], ends: NDArray[np.int64], pieces: list[bytes]
) -> NDArray[np.uint64]:
    """See `interface.Engine`."""
    if len(ends) and (int(ends.max()) > len(raw) or int(begins.min()) < 0):
        raise ValueError("a name lies outside")
    cells = np.array([int.from_bytes(piece[:8], "little") for piece in pieces], np.uint64)
    sizes = np.array([min(len(piece), 8) for piece in pieces], np.uint64)
    first = np.array([int.from_bytes(piece[1:9], "little") for piece in pieces], np.uint64)
    codes = raw[np.minimum(begins, len(raw) - 1)]
    found = first[codes]
    filled = np.array([min(max(len(piece) - 1, 0), 8) for piece in pieces], np.uint64)[codes]
    for step in range(1, 9):
        places = begins + step
        short = np.flatnonzero((filled < 8) & (places < ends))
        if not len(short):
            break
        codes = raw[places[short]]
        found[short] |= cells[codes] << (filled[short] * np.uint64(8))
        filled[short] += sizes[codes]
    found[begins >= ends] = 0
    return found


def types(words: NDArray[np.uint32], fixed: NDArray[np.int64], each: NDArray[np.int64]) -> NDArray[np.int64]:
    """See `interface.Engine`."""
    size = len(words)

    def lengths(first: int, end: int) -> NDArray[np.int64]:
        info = words[first + 1 : min(end, size - 2) + 1]  # a record has three words or more
        kinds = (info >> 24) & 0x7F
        found = np.zeros(end - first, np.int64)
        found[: len(info)] = fixed[kinds] + each[kinds] * (info & 0xFFFFFF)
        return found

    return follow(lengths, size)
