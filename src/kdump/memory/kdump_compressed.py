"""Reading kdump-compressed dumps (of makedumpfile, QEMU, kdump save): one file, or several that are one dump."""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from kdump.errors import FormatError, NotPresentError
from kdump.memory.decompress import Decompressor
from kdump.memory.elf import parse_notes
from kdump.memory.gather import distinct
from kdump.memory.kdump_format import COMPRESSION
from kdump.memory.kdump_part import Part, runs
from kdump.memory.pieces import Pieces
from kdump.memory.protocol import Dump, Note, Range
from kdump.memory.source import FileSource, Source
from kdump.memory.turned import of_machine, own_notes, readable

RANGES_LIMIT = 1 << 16
CACHED_PAGES = 512
SHARED_PAGES = 16  # unpacked ones kept while consecutive pages are read
BATCH = 1 << 14  # pages looked up together
STRETCH = 16 << 20  # bytes of a file that are mapped together
INFO_LIMIT = 64 << 20  # bytes of VMCOREINFO or notes


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
            found = list(itertools.islice(runs(first.present, 0, first.max_pfn), RANGES_LIMIT + 1))
            if len(found) > RANGES_LIMIT:
                raise FormatError(f"memory in more than {RANGES_LIMIT} pieces", path=first.source.path, field="bitmap1")
            self._ranges = [Range(start * self.page_size, end * self.page_size) for start, end in found]
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
            start, end = max(part.first, first_pfn), min(part.held_end, first_pfn + count)
            if start < end:
                bits = np.unpackbits(part.dumped(start >> 3, (end + 7) >> 3), bitorder="little")
                held[start - first_pfn : end - first_pfn] = bits[start & 7 :][: end - start]
        return held

    def held(self) -> Iterator[Range]:
        """See `Memory.held`."""
        for part in self.parts:
            for start, end in runs(part.dumped, part.first, part.held_end):
                yield Range(start * self.page_size, end * self.page_size)

    def gather(self, pfns: NDArray[np.int64], pages: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """See `kdump.memory.gather.GathersPages`."""
        held = np.zeros(len(pfns), np.bool_)
        for part in self.parts:
            first, end = (int(place) for place in np.searchsorted(pfns, (part.first, min(part.end, part.max_pfn))))
            if first < end:
                rows = slice(first, end)
                held[rows] = self._gather(part, pfns[rows], pages[rows])
        return held

    def _gather(self, part: Part, pfns: NDArray[np.int64], pages: NDArray[np.uint8]) -> NDArray[np.bool_]:
        numbers = part.places(pfns)
        rows = np.flatnonzero((numbers >= 0) & (numbers < part.described))
        table = part.table(numbers[rows])
        offsets, sizes = table["offset"], table["size"]
        whole = (offsets > 0) & (sizes > 0) & (sizes <= self.page_size)
        whole &= offsets + sizes.astype(np.int64) <= part.source.size
        rows, table = rows[whole], table[whole]
        done = self._unpack(part.source, table, rows, pages)
        held = np.zeros(len(pfns), np.bool_)
        held[rows[done]] = True
        return held

    def _unpack(
        self, source: Source, table: NDArray[np.void], rows: NDArray[np.intp], pages: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        """Unpack the pages of these descriptors to these rows; returns which of them worked."""
        done = np.zeros(len(table), np.bool_)
        offsets, sizes = table["offset"].astype(np.int64), table["size"].astype(np.int64)
        codecs = table["flags"] & COMPRESSION
        order = np.argsort(offsets, kind="stable")
        file = source.descriptor if isinstance(source, FileSource) else None
        if file is not None:
            for codec in distinct(codecs).tolist():
                these = order[codecs[order] == codec]
                pieces = Pieces(file, offsets[these], sizes[these])
                done[these] = self._decompress.many(pieces, codec, pages, rows[these], source.path)
            return done
        start = 0
        while start < len(order):
            # What lies within one stretch of the file is unpacked from one view of it.
            base = int(offsets[order[start]])
            inside = np.searchsorted(offsets[order[start:]], base + STRETCH)
            chosen = order[start : start + int(inside)]
            start += int(inside)
            data = source.view(base, int((offsets[chosen] + sizes[chosen]).max()) - base)
            for codec in distinct(codecs[chosen]).tolist():
                these = chosen[codecs[chosen] == codec]
                pieces = Pieces(data, offsets[these] - base, sizes[these])
                done[these] = self._decompress.many(pieces, codec, pages, rows[these], source.path)
        return done

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
        if pfn < 0 or not first.existed(pfn):
            return "not memory of the machine"
        if first.rank(pfn + 1) > first.rank(pfn):
            if any(part.held_end <= pfn < part.end for part in self.parts):
                return f"{first.source.path} is incomplete and lacks it"
            return "in another file of the split dump"
        return "excluded by the filter"

    def _pages_from(self, pfn: int, count: int) -> Iterator[memoryview]:
        """Consecutive pages, past the cache. What several descriptors share is unpacked once, if it is near."""
        end = pfn + count
        shared: dict[tuple[int, int, int], memoryview] = {}
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
                    where = offset, size, flags
                    if where not in shared:
                        if len(shared) == SHARED_PAGES:
                            shared.clear()
                        shared[where] = self._decompress(data, flags & COMPRESSION, part.source.path, offset)
                    data = shared[where]
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
    notes: tuple[Note, ...] = tuple(parse_notes(raw, first.source.path, sub["offset_note"], header.order))
    if not vmcoreinfo:
        vmcoreinfo = next((note.data for note in notes if note.name == "VMCOREINFO"), b"")
    arch = of_machine(header.utsname[4], notes)
    if header.order == "big" and not readable(arch, header.order):
        raise FormatError("big-endian dumps of an unknown machine are not supported", path=first.source.path)
    lacks = _lacks(parts)
    return Dump(
        path=first.source.path,
        format=f"{first.source.wrapping}kdump",
        memory=KdumpMemory(parts),
        vmcoreinfo=vmcoreinfo,
        notes=own_notes(notes, arch, header.order, first.source.path),
        header={
            "header_version": header.version,
            "utsname": header.utsname,
            "machine": arch.name if arch else header.utsname[4].lower(),
            "timestamp": header.timestamp,
            "status": header.status,
            "block_size": header.block_size,
            "nr_cpus": header.nr_cpus,
            "max_mapnr": first.max_pfn,
            "parts": len(parts),
            **{name: sub[name] for name in ("phys_base", "dump_level", "split", "offset_eraseinfo", "size_eraseinfo")},
        },
        incomplete=bool(lacks),
        parts=tuple(part.source.path for part in parts) if len(parts) > 1 else (),
        lacks=lacks,
    )


def _lacks(parts: list[Part]) -> str:
    """The missing parts, in a sentence: the pages between the parts (sorted by their first), and what was cut off."""
    edges = [0, *(edge for part in parts for edge in (part.first, part.end)), parts[-1].max_pfn]
    gaps = [f"{start:#x} to {end - 1:#x}" for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]
    said = [f"no file has the pages (pfns) {', '.join(gaps)}: a part is missing"] if gaps else []
    for part in parts:
        if part.held_end < part.end:
            said.append(f"{part.source.path} ends before page {part.held_end:#x} of {part.end:#x}")
        elif part.incomplete:
            said.append(f"{part.source.path} is marked incomplete, or lacks data at its end")
    return "; ".join(said)


def _section(part: Part, name: str) -> memoryview:
    offset, size = part.header.sub[f"offset_{name}"], part.header.sub[f"size_{name}"]
    if size > INFO_LIMIT:
        raise FormatError(f"{size:#x} bytes", path=part.source.path, field=f"size_{name}")
    return part.source.view(offset, size) if size and offset else memoryview(b"")
