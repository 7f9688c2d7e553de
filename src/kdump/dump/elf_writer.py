"""Writes an ELF64 vmcore, for gdb, Volatility and other tools that do not read kdump-compressed dumps.

Source: the ELF specification (header, PN_XNUM, program headers). Each run of kept pages is a PT_LOAD; the pages dropped
after it are the part of p_memsz that p_filesz does not cover, which tools read as zeros. The kernel's image is there a
second time under its own virtual address, sharing the file's bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdump.dump.codecs import Packed
from kdump.dump.kdump_writer import Origin, Sink, pack_notes
from kdump.dump.pfnset import CHUNK, PfnSet
from kdump.elf import EHDR, ET_CORE, IDENT, PF_R, PF_W, PF_X, PN_XNUM, PT_LOAD, PT_NOTE, SHDR

_PHDR_FIELDS = ("offset", "vaddr", "paddr", "filesz", "memsz", "align")
# PHDR as rows of an array
PHDR_ROWS = np.dtype([("type", "<u4"), ("flags", "<u4"), *((name, "<u8") for name in _PHDR_FIELDS)])
FLAGS = PF_R | PF_W | PF_X  # as the kernel's own headers have


class Mapping(NamedTuple):
    """Physical memory [physical, physical+size) as the kernel sees it at `virtual`."""

    virtual: int
    physical: int
    size: int


class Load(NamedTuple):
    """A run of kept pages and the dropped ones after it, in pages."""

    pfn: int
    kept: int
    span: int


class ElfWriter:
    """An ELF vmcore being written front to back: `append` the kept pages in order, uncompressed; then `finish`."""

    def __init__(
        self, stream: Sink, origin: Origin, present: PfnSet, kept: PfnSet, *, machine: int,
        image: Mapping | None = None, direct: int | None = None,
    ) -> None:  # fmt: skip
        """`image` maps the kernel's image; `direct` is the virtual address of physical 0, if it is known."""
        self.stream = stream
        self.written = 0
        self._page = origin.page_size
        self._expected: Iterator[NDArray[np.int64]] = kept.pfns()
        self._next: NDArray[np.int64] = np.zeros(0, np.int64)
        notes = pack_notes(origin.notes)
        loads = list(loads_of(present, kept))
        copies = list(_image_loads(loads, image, self._page)) if image else []
        count = 1 + len(copies) + len(loads)
        sections = SHDR.size if count >= PN_XNUM else 0
        notes_at = EHDR.size + sections + count * PHDR_ROWS.itemsize
        data_at = -(-(notes_at + len(notes)) // self._page) * self._page
        head = EHDR.pack(
            IDENT, ET_CORE, machine, 1, 0, EHDR.size + sections, EHDR.size if sections else 0, 0,
            EHDR.size, PHDR_ROWS.itemsize, min(count, PN_XNUM), SHDR.size if sections else 0, 1 if sections else 0, 0,
        )  # fmt: skip
        if sections:
            head += SHDR.pack(0, 0, 0, 0, 0, 1, 0, count, 0, 0)
        headers = np.zeros(count, PHDR_ROWS)
        headers[0] = (PT_NOTE, 0, notes_at, 0, 0, len(notes), len(notes), 0)
        table = np.array(loads, np.uint64).reshape(-1, 3) * np.uint64(self._page)
        ends = np.cumsum(table[:, 1])
        body = headers[1 + len(copies) :]
        body["type"], body["flags"] = PT_LOAD, FLAGS
        body["offset"] = np.uint64(data_at) + ends - table[:, 1]
        body["paddr"], body["filesz"], body["memsz"] = table[:, 0], table[:, 1], table[:, 2]
        body["vaddr"] = body["paddr"] + np.uint64(direct) if direct is not None else 0
        for place, (index, skip, copy, virtual) in enumerate(copies, 1):
            headers[place] = (
                PT_LOAD, FLAGS, int(body["offset"][index]) + skip, virtual, copy.physical,
                max(min(copy.size, loads[index].kept * self._page - skip), 0), copy.size, 0,
            )  # fmt: skip
        stream.skip(0)
        self.size = stream.write((head + headers.tobytes() + notes).ljust(data_at, b"\0"))

    def append(self, pfns: NDArray[np.int64], packed: Packed) -> None:
        """Pages by pfn, none left out. Those that are skipped could not be read: their place is filled with zeros."""
        page, done = self._page, 0
        expected = self._take(int(pfns[-1])) if len(pfns) else pfns
        if len(expected) != len(pfns):
            places = np.searchsorted(expected, pfns).tolist()
            for row, place in enumerate(places):
                self._put(bytes((place - done) * page))
                self._put(packed.data[row * page : (row + 1) * page])
                done = place + 1
        else:
            self._put(packed.data)
        self.written += len(pfns)

    def rest(self) -> None:
        """Never called: the order of pages is that of the program headers."""
        raise AssertionError

    def finish(self, *, incomplete: bool) -> None:
        """Fill what is still missing at the end, unless the dump must end there (every reader notices that)."""
        if not incomplete:
            rest = len(self._next) + sum(len(pfns) for pfns in self._expected)
            for _ in range(rest):
                self._put(bytes(self._page))

    def _put(self, data: bytes | memoryview) -> None:
        if data:
            self.size += self.stream.write(data)

    def _take(self, last: int) -> NDArray[np.int64]:
        """The pfns that should come up to and including `last`."""
        taken = []
        while not len(self._next) or self._next[-1] < last:
            taken.append(self._next)
            self._next = next(self._expected)
        cut = int(np.searchsorted(self._next, last, side="right"))
        taken.append(self._next[:cut])
        self._next = self._next[cut:]
        return np.concatenate(taken)


def loads_of(present: PfnSet, kept: PfnSet) -> Iterator[Load]:
    """Runs of RAM, each cut where kept pages follow dropped ones. A run may begin with dropped pages (kept 0)."""
    pending: Load | None = None
    for what, pfn, size in _states(present, kept):
        # A new run begins where the state changes, except from kept to dropped.
        if pending and (what == 0 or pending.pfn + pending.span != pfn):
            yield pending
            pending = None
        if what == 1:
            pending = pending._replace(span=pending.span + size) if pending else Load(pfn, 0, size)
        elif what == 2 and pending and pending.kept == pending.span:
            pending = Load(pending.pfn, pending.kept + size, pending.span + size)
        elif what == 2:
            if pending:
                yield pending
            pending = Load(pfn, size, size)
    if pending:
        yield pending


def _states(present: PfnSet, kept: PfnSet) -> Iterator[tuple[int, int, int]]:
    """(0 for a hole, 1 for dropped RAM, 2 for kept pages; first pfn; pages) of runs, in order."""
    for chunk in present.numbers():
        first = chunk * CHUNK
        if present.is_full(chunk) and not kept.holds(chunk):  # nearly all of a large machine, or of a large claim
            yield 1, first, CHUNK
            continue
        state = np.unpackbits(present.bits(chunk), bitorder="little")
        state += np.unpackbits(kept.bits(chunk), bitorder="little")
        edges = np.flatnonzero(state[1:] != state[:-1]) + 1
        for start, end in pairwise([0, *edges.tolist(), CHUNK]):
            yield int(state[start]), first + start, end - start


def _image_loads(loads: Sequence[Load], image: Mapping, page: int) -> Iterator[tuple[int, int, Mapping, int]]:
    """(index of the load, bytes into it, physical piece, virtual address) of the kernel's image."""
    for index, load in enumerate(loads):
        start, end = (
            max(image.physical, load.pfn * page),
            min(image.physical + image.size, (load.pfn + load.span) * page),
        )
        if start < end:
            virtual = image.virtual + start - image.physical
            yield index, start - load.pfn * page, Mapping(virtual, start, end - start), virtual
