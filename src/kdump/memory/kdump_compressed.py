"""kdump-compressed dumps (the format of makedumpfile, crash, QEMU and kdump save), header versions 1 to 6.

Source: makedumpfile's diskdump_mod.h and IMPLEMENTATION, QEMU's include/sysemu/dump.h; checked on real dumps.
Block 0 is the main header, block 1 on the sub header with VMCOREINFO and notes behind it, then two bitmaps (one bit a
page, least significant first): memory that existed, and pages that have a descriptor. Descriptors follow in the
order of pfns, then page data.
"""

from __future__ import annotations

import itertools
import struct
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdump.errors import FormatError, NotPresentError
from kdump.memory.decompress import Decompressor
from kdump.memory.elf import parse_notes
from kdump.memory.protocol import Dump, Note, Range
from kdump.memory.source import Source

MAGIC = b"KDUMP   "
MAIN = struct.Struct("<8si390s6xqqIiiII4Ii")  # struct disk_dump_header, 64-bit
SUB = struct.Struct("<QiiQQqQqQqQQQQ")  # struct kdump_sub_header, 64-bit
# Fields of the sub header, and the header version that each came with.
SUB_FIELDS = (
    ("phys_base", 0), ("dump_level", 1), ("split", 2), ("start_pfn", 2), ("end_pfn", 2), ("offset_vmcoreinfo", 3),
    ("size_vmcoreinfo", 3), ("offset_note", 4), ("size_note", 4), ("offset_eraseinfo", 5), ("size_eraseinfo", 5),
    ("start_pfn_64", 6), ("end_pfn_64", 6), ("max_mapnr_64", 6),
)  # fmt: skip
DESCRIPTOR = np.dtype([("offset", "<i8"), ("size", "<u4"), ("flags", "<u4"), ("page_flags", "<u8")])  # page_desc_t
DESCRIPTOR_FIELDS = struct.Struct("<qIIQ")  # the same

STATUS_INCOMPLETE = 0x08
STATUS_EXCLUDED_VMEMMAP = 0x10
COMPRESSION = 0x27  # bits of status and of a descriptor's flags that name a codec

BLOCK_SIZES = (4096, 8192, 16384, 32768, 65536)
RANK_STEP = 512  # bytes of bitmap between two stored ranks
RANGES_LIMIT = 1 << 16
CACHED_PAGES = 512
DESCRIPTORS_CHUNK = 1 << 14
RUNS_CHUNK = 1 << 16  # bytes of bitmap unpacked together
BATCH = 1 << 14  # pages looked up together
INFO_LIMIT = 64 << 20  # bytes of VMCOREINFO or notes


class Header(NamedTuple):
    """Both headers: the main header's fields, and those of the sub header that this version has (others 0)."""

    version: int
    utsname: tuple[str, ...]
    timestamp: int
    status: int
    block_size: int
    sub_blocks: int
    bitmap_blocks: int
    max_mapnr: int
    nr_cpus: int
    sub: dict[str, int]


class Part:
    """One file of a dump: header, bitmaps, descriptors. `first`..`end` are the pfns whose descriptors it holds."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.header = header = _read_header(source)
        block = header.block_size
        self._bitmap_offset = (1 + header.sub_blocks) * block
        self._half = header.bitmap_blocks // 2 * block
        self.descriptors_offset = self._bitmap_offset + 2 * self._half
        sub = header.sub
        self.max_pfn = sub["max_mapnr_64"] or header.max_mapnr
        self.split = bool(sub["split"])
        self.first = (sub["start_pfn_64"] or sub["start_pfn"]) if self.split else 0
        self.end = min((sub["end_pfn_64"] or sub["end_pfn"]) if self.split else self.max_pfn, self.max_pfn)
        if self.max_pfn > self._half * 8:
            raise FormatError(
                f"{self.max_pfn:#x} pages, but a bitmap of {self._half:#x} bytes",
                path=source.path,
                offset=block + 96,
                field="max_mapnr",
            )
        if self.descriptors_offset > source.size:
            raise FormatError(
                f"two bitmaps of {self._half:#x} bytes do not fit the file ({source.size:#x} bytes)",
                path=source.path,
                offset=436,
                field="bitmap_blocks",
            )
        self._ranks: NDArray[np.int64] | None = None

    def present(self, first_byte: int, end_byte: int) -> NDArray[np.uint8]:
        """Bytes of the first bitmap: memory that existed."""
        return np.frombuffer(self.source.view(self._bitmap_offset + first_byte, end_byte - first_byte), np.uint8)

    def dumped(self, first_byte: int, end_byte: int) -> NDArray[np.uint8]:
        """Bytes of the second bitmap: pages with a descriptor."""
        offset = self._bitmap_offset + self._half + first_byte
        return np.frombuffer(self.source.view(offset, end_byte - first_byte), np.uint8)

    def rank(self, pfn: int) -> int:
        """How many bits of the second bitmap are set before `pfn`."""
        if self._ranks is None:
            self._ranks = self._count()
        step = (pfn >> 3) // RANK_STEP
        count = int(self._ranks[step])
        tail = self.dumped(step * RANK_STEP, pfn >> 3)
        count += int(np.bitwise_count(tail).sum(dtype=np.int64))
        if pfn & 7:
            count += (int(self.dumped(pfn >> 3, (pfn >> 3) + 1)[0]) & (1 << (pfn & 7)) - 1).bit_count()
        return count

    def existed(self, pfn: int) -> bool:
        """Whether `pfn` was memory."""
        return pfn < self.max_pfn and bool(self.present(pfn >> 3, (pfn >> 3) + 1)[0] >> (pfn & 7) & 1)

    def descriptors(self, first: int, count: int) -> NDArray[np.void]:
        """Descriptors of `count` pages from the `first`th of this part on; dtype `DESCRIPTOR`."""
        offset = self.descriptors_offset + first * DESCRIPTOR.itemsize
        return np.frombuffer(self.source.view(offset, count * DESCRIPTOR.itemsize), DESCRIPTOR)

    def pages(self, pfn: int, count: int) -> Iterator[tuple[int, int, int]]:
        """(offset, size, flags) of each of `count` consecutive pages, all of which the second bitmap has.

        Raises `NotPresentError` for one that an incomplete file lacks, `FormatError` for an impossible descriptor.
        """
        index = self.rank(pfn) - self.rank(self.first)
        offset = self.descriptors_offset + index * DESCRIPTOR.itemsize
        if offset + count * DESCRIPTOR.itemsize > self.source.size:
            raise NotPresentError(pfn * self.header.block_size, why=f"{self.source.path} is incomplete and lacks it")
        for start, size, flags, _ in DESCRIPTOR_FIELDS.iter_unpack(
            self.source.view(offset, count * DESCRIPTOR.itemsize)
        ):
            self._check(pfn, offset, start, size)
            yield start, size, flags
            pfn += 1
            offset += DESCRIPTOR.itemsize

    def _check(self, pfn: int, offset: int, start: int, size: int) -> None:
        if (not start and self.incomplete) or (start > 0 and start + size > self.source.size):
            raise NotPresentError(pfn * self.header.block_size, why=f"{self.source.path} is incomplete and lacks it")
        if start <= 0 or not 0 < size <= self.header.block_size:
            raise FormatError(
                f"the descriptor of page {pfn:#x} names {size:#x} bytes at {start:#x}",
                path=self.source.path,
                offset=offset,
                field="page_desc",
                why="that is impossible",
            )

    @cached_property
    def total(self) -> int:
        """How many descriptors this part should have."""
        return self.rank(self.end) - self.rank(self.first) if self.end > self.first else 0

    @cached_property
    def incomplete(self) -> bool:
        """Whether the header says so, or descriptors or the last page's data lie past the end of the file.

        Page data are in the order of pfns, but pages of zeros share one place: the last chunk of descriptors with more
        than one offset decides.
        """
        if self.header.status & STATUS_INCOMPLETE or self.source.incomplete:
            return True
        total = self.total
        if self.descriptors_offset + total * DESCRIPTOR.itemsize > self.source.size:
            return True
        for end in range(total, 0, -DESCRIPTORS_CHUNK):
            start = max(end - DESCRIPTORS_CHUNK, 0)
            table = self.descriptors(start, end - start)
            if not start or (table["offset"] != table["offset"][0]).any():
                return bool((table["offset"] + table["size"] > self.source.size).any())
        return False

    def _count(self) -> NDArray[np.int64]:
        """The rank of every RANK_STEP-th byte, in chunks so that memory stays small."""
        steps = self._half // RANK_STEP
        counts = np.zeros(steps + 1, np.int64)
        chunk = 1 << 20
        for start in range(0, self._half, chunk):
            end = min(start + chunk, self._half)
            ones = np.bitwise_count(self.dumped(start, end)).reshape(-1, RANK_STEP).sum(axis=1, dtype=np.int64)
            counts[start // RANK_STEP + 1 : end // RANK_STEP + 1] = ones
        return np.cumsum(counts, out=counts)


class KdumpMemory:
    """Physical memory in one or several kdump-compressed files. Thread-safe."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """`parts` are sorted by their first pfn and do not overlap."""
        self.parts = tuple(parts)
        self.page_size = parts[0].header.block_size
        self.max_pfn = max(part.max_pfn for part in parts)
        self._firsts = [part.first for part in parts]
        self._ranges: list[Range] | None = None
        self._decompress = Decompressor(self.page_size)
        self._pages: OrderedDict[int, memoryview] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def ranges(self) -> Sequence[Range]:
        """See `Memory.ranges`; from the first bitmap."""
        if self._ranges is None:
            first = self.parts[0]
            runs = list(itertools.islice(_runs(first.present, 0, first.max_pfn), RANGES_LIMIT + 1))
            if len(runs) > RANGES_LIMIT:
                raise FormatError(f"memory in more than {RANGES_LIMIT} pieces", path=first.source.path, field="bitmap1")
            self._ranges = [Range(start * self.page_size, end * self.page_size) for start, end in runs]
        return self._ranges

    def view(self, address: int, size: int) -> memoryview:
        """See `Memory.view`; a view inside one page shares the cached page, a longer one is a copy."""
        pfn, start = divmod(address, self.page_size)
        if start + size <= self.page_size:
            return self._page(pfn)[start : start + size]
        last = (address + size - 1) // self.page_size
        data = b"".join(self._pages_from(pfn, last + 1 - pfn))
        return memoryview(data)[start : start + size]

    def present(self, first_pfn: int, count: int) -> NDArray[np.bool_]:
        """See `Memory.present`."""
        held = np.zeros(count, np.bool_)
        for part in self.parts:
            start, end = max(part.first, first_pfn), min(part.end, first_pfn + count)
            if start < end:
                bits = np.unpackbits(part.dumped(start >> 3, (end + 7) >> 3), bitorder="little")
                held[start - first_pfn : end - first_pfn] = bits[start & 7 :][: end - start]
        return held

    def held(self) -> Iterator[Range]:
        """See `Memory.held`."""
        for part in self.parts:
            for start, end in _runs(part.dumped, part.first, part.end):
                yield Range(start * self.page_size, end * self.page_size)

    def close(self) -> None:
        """See `Memory.close`."""
        for part in self.parts:
            part.source.close()

    def _page(self, pfn: int) -> memoryview:
        with self._lock:
            page = self._pages.get(pfn)
            if page is not None:
                self._pages.move_to_end(pfn)
                return page
        data = next(self._pages_from(pfn, 1))
        with self._lock:
            self._pages[pfn] = data
            if len(self._pages) > CACHED_PAGES:
                self._pages.popitem(last=False)
        return data

    def _why_absent(self, pfn: int) -> str:
        first = self.parts[0]
        if not first.existed(pfn):
            return "not memory of the machine"
        if first.rank(pfn + 1) > first.rank(pfn):
            return "in another file of the split dump"
        return "excluded by the filter"

    def _pages_from(self, pfn: int, count: int) -> Iterator[memoryview]:
        """Consecutive pages, past the cache."""
        end = pfn + count
        while pfn < end:
            part = self.parts[max(bisect_right(self._firsts, pfn) - 1, 0)]
            stop = min(end, pfn + BATCH, part.end)
            absent = np.flatnonzero(~self.present(pfn, max(stop - pfn, 1)))
            if len(absent):
                missing = pfn + int(absent[0])
                raise NotPresentError(missing * self.page_size, self.page_size, why=self._why_absent(missing))
            for offset, size, flags in part.pages(pfn, stop - pfn):
                data = part.source.view(offset, size)
                if flags & COMPRESSION:
                    data = self._decompress(data, flags & COMPRESSION, part.source.path, offset)
                elif size != self.page_size:
                    raise FormatError(
                        f"a raw page of {size:#x} bytes", path=part.source.path, offset=offset, field="page_desc"
                    )
                yield data
            pfn = stop


def open_kdump(source: Source) -> Dump:
    """One kdump-compressed file as a `Dump`; one part of a split set too (it holds only its own pages)."""
    return _dump([Part(source)])


def open_split(sources: Sequence[Source]) -> Dump:
    """The files of a split set, in any order, as one `Dump`. Raises `FormatError` if they do not belong together."""
    parts = sorted((Part(source) for source in sources), key=lambda part: part.first)
    for before, part in itertools.pairwise(parts):
        main, other = before.header, part.header
        if not part.split or not before.split or main[:2] + main[4:8] != other[:2] + other[4:8]:
            raise FormatError(f"does not belong to the same split dump as {before.source.path}", path=part.source.path)
        if part.first < before.end:
            raise FormatError(
                f"pages from {part.first:#x} on are in {before.source.path} too",
                path=part.source.path,
                field="start_pfn",
            )
    return _dump(parts)


def _dump(parts: list[Part]) -> Dump:
    first = parts[0]
    header, sub = first.header, first.header.sub
    vmcoreinfo = bytes(_section(first, "vmcoreinfo"))
    raw = _section(first, "note")
    notes: tuple[Note, ...] = tuple(parse_notes(raw, first.source.path, sub["offset_note"]))
    if not vmcoreinfo:
        vmcoreinfo = next((note.data for note in notes if note.name == "VMCOREINFO"), b"")
    gaps = any(before.end < part.first for before, part in itertools.pairwise(parts))
    whole = not gaps and first.first == 0 and parts[-1].end >= parts[-1].max_pfn
    return Dump(
        path=first.source.path,
        format=f"{first.source.wrapping}kdump",
        memory=KdumpMemory(parts),
        vmcoreinfo=vmcoreinfo,
        notes=notes,
        header={
            "header_version": header.version,
            "utsname": header.utsname,
            "machine": header.utsname[4],
            "timestamp": header.timestamp,
            "status": header.status,
            "block_size": header.block_size,
            "nr_cpus": header.nr_cpus,
            "max_mapnr": first.max_pfn,
            "parts": len(parts),
            **{name: sub[name] for name in ("phys_base", "dump_level", "split", "offset_eraseinfo", "size_eraseinfo")},
        },
        incomplete=not whole or any(part.incomplete for part in parts),
        parts=tuple(part.source.path for part in parts) if len(parts) > 1 else (),
    )


def _section(part: Part, name: str) -> memoryview:
    offset, size = part.header.sub[f"offset_{name}"], part.header.sub[f"size_{name}"]
    if size > INFO_LIMIT:
        raise FormatError(f"{size:#x} bytes", path=part.source.path, field=f"size_{name}")
    return part.source.view(offset, size) if size and offset else memoryview(b"")


def _read_header(source: Source) -> Header:
    def wrong(what: str, field: str, offset: int) -> FormatError:
        return FormatError(what, path=source.path, offset=offset, field=field)

    if source.size < MAIN.size:
        raise FormatError(f"only {source.size} bytes: no room for a header", path=source.path)
    raw = source.view(0, MAIN.size)
    (magic, version, names, seconds, _, status, block, sub_blocks, bitmap_blocks, max_mapnr, *_, cpus) = MAIN.unpack(
        raw
    )
    if magic != MAGIC:
        raise wrong("not a kdump-compressed dump", "signature", 0)
    if 0 < int.from_bytes(raw[8:12], "big") < 100:
        raise wrong("big-endian dumps are not supported", "header_version", 8)
    if not 0 <= version < 100:
        raise wrong(f"version {version}", "header_version", 8)
    if block not in BLOCK_SIZES:
        if int.from_bytes(raw[416:420], "little") in BLOCK_SIZES:
            raise wrong("32-bit dumps are not supported", "block_size", 416)
        raise wrong(f"pages of {block} bytes", "block_size", 428)
    if sub_blocks < 1:
        raise wrong(f"{sub_blocks} blocks of sub header", "sub_hdr_size", 432)
    if source.size < block + SUB.size:
        raise wrong("ends before the sub header", "sub_hdr_size", 432)
    values = SUB.unpack(source.view(block, SUB.size))
    sub = {name: value if version >= since else 0 for (name, since), value in zip(SUB_FIELDS, values, strict=True)}
    utsname = tuple(
        names[at : at + 65].split(b"\0", 1)[0].decode("utf-8", "replace") for at in range(0, len(names), 65)
    )
    return Header(version, utsname, seconds, status, block, sub_blocks, bitmap_blocks, max_mapnr, cpus, sub)


def _runs(bitmap: Callable[[int, int], NDArray[np.uint8]], first: int, end: int) -> Iterator[tuple[int, int]]:
    """Runs [start, end) of set bits among bits first..end; `bitmap(a, b)` gives the bytes [a, b) of the bitmap."""
    pending = -1
    for start in range(first >> 3, (end + 7) >> 3, RUNS_CHUNK):
        data = bitmap(start, min(start + RUNS_CHUNK, (end + 7) >> 3))
        if (data == (0 if pending < 0 else 0xFF)).all() and start << 3 >= first and (start + len(data)) << 3 <= end:
            continue
        bits = np.unpackbits(data, bitorder="little")
        bits[: max(first - (start << 3), 0)] = 0
        bits[end - (start << 3) :] = 0
        changes = np.flatnonzero(np.diff(bits, prepend=np.uint8(pending >= 0))) + (start << 3)
        for change in changes.tolist():
            if pending >= 0:
                yield pending, change
            pending = change if pending < 0 else -1
    if pending >= 0:
        yield pending, end
