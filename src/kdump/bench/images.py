"""Physical memory as other tools take it: a LiME image, and an ELF file whose segments hold all that they claim.

Sources: LiME's lime.h (struct lime_mem_range_header); the ELF specification. Volatility 3 skips a PT_LOAD whose memory
size is not its file size, and knows no more than 65,534 of them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdump import elf
from kdump.dump.elf_writer import FLAGS, PHDR_ROWS
from kdump.dump.extent import check_extent
from kdump.dump.kdump_writer import pack_notes
from kdump.dump.origin import find_mappings, find_origin
from kdump.dump.pages import PageReader
from kdump.errors import KdumpError
from kdump.files.drafts import pwrite_all
from kdump.kernel.kernel import Kernel
from kdump.memory.protocol import Dump

MOST_SEGMENTS: Final = 65_000
_LIME: Final = struct.Struct("<IIQQQ")  # magic, version, first and last address, reserved
_LIME_MAGIC, _LIME_VERSION = 0x4C694D45, 1
_BATCH: Final = 1024  # pages

Progress = Callable[[str, int, int], None]
Runs = NDArray[np.uint64]  # shape (n, 2): first address and the one behind the last, sorted


class _Layout(NamedTuple):
    """Runs of memory in a file, and where in it each begins."""

    segments: Runs
    places: NDArray[np.uint64]


class Summary(NamedTuple):
    """Pages of the dump in the image, in how many runs; `zeros` stand for pages that the dump lacks."""

    pages: int
    runs: int
    zeros: int
    unreadable: int
    size: int


def lime(dump: Dump, descriptor: int, progress: Progress) -> Summary:
    """Write a LiME image through a descriptor of an empty file."""
    runs = held(dump)
    sizes = runs[:, 1] - runs[:, 0]
    places = np.cumsum(sizes + np.uint64(_LIME.size)) - sizes
    heads = zip(places.tolist(), runs.tolist(), strict=True)
    for place, (start, end) in heads:
        pwrite_all(descriptor, _LIME.pack(_LIME_MAGIC, _LIME_VERSION, start, end - 1, 0), place - _LIME.size)
    unreadable = _copy(dump, runs, _Layout(runs, places), descriptor, progress)
    size = int(places[-1] + sizes[-1])
    return Summary(int(sizes.sum()) // dump.memory.page_size, len(runs), 0, unreadable, size)


def equal_elf(dump: Dump, descriptor: int, progress: Progress, most: int = MOST_SEGMENTS) -> Summary:
    """Write an ELF core of `most` segments at most: where the dump has more runs, the smallest gaps are zeros."""
    runs = held(dump)
    segments = merged(runs, most)
    sizes = segments[:, 1] - segments[:, 0]
    notes = pack_notes(find_origin(dump).notes)
    notes_at = elf.EHDR.size + (1 + len(segments)) * elf.PHDR.size
    page = dump.memory.page_size
    data_at = -(-(notes_at + len(notes)) // page) * page
    places = np.cumsum(sizes) - sizes + np.uint64(data_at)
    headers = np.zeros(1 + len(segments), PHDR_ROWS)
    headers[0] = (elf.PT_NOTE, 0, notes_at, 0, 0, len(notes), len(notes), 0)
    body = headers[1:]
    body["type"], body["flags"] = elf.PT_LOAD, FLAGS
    body["offset"], body["paddr"], body["filesz"], body["memsz"] = places, segments[:, 0], sizes, sizes
    _, direct = find_mappings(dump)
    body["vaddr"] = body["paddr"] + np.uint64(direct) if direct is not None else 0
    head = elf.EHDR.pack(
        elf.IDENT, elf.ET_CORE, Kernel(dump).arch.elf_machine, 1, 0, elf.EHDR.size, 0, 0, elf.EHDR.size, elf.PHDR.size,
        len(headers), 0, 0, 0,
    )  # fmt: skip
    pwrite_all(descriptor, head + headers.tobytes() + notes, 0)
    unreadable = _copy(dump, runs, _Layout(segments, places), descriptor, progress)
    pages = int((runs[:, 1] - runs[:, 0]).sum()) // page
    size = int(places[-1] + sizes[-1])
    return Summary(pages, len(segments), int(sizes.sum()) // page - pages, unreadable, size)


def held(dump: Dump) -> Runs:
    """What a dump holds, adjacent pieces joined. Raises `KdumpError` if that is nothing, or it claims too much."""
    check_extent(dump)
    pieces = np.array([(each.start, each.end) for each in dump.memory.held() if each.size], np.uint64).reshape(-1, 2)
    if not len(pieces):
        raise KdumpError(f"{dump.path} holds no memory")
    first = np.flatnonzero(np.concatenate(([True], pieces[1:, 0] > pieces[:-1, 1])))
    last = np.concatenate((first[1:], [len(pieces)])) - 1
    return np.stack((pieces[first, 0], pieces[last, 1]), axis=1)


def merged(runs: Runs, most: int) -> Runs:
    """The same in `most` runs or fewer: the smallest gaps between them are filled."""
    excess = len(runs) - most
    if excess <= 0:
        return runs
    gaps = runs[1:, 0] - runs[:-1, 1]
    kept = np.ones(len(gaps), np.bool_)
    kept[np.argpartition(gaps, excess - 1)[:excess]] = False
    starts = runs[np.concatenate(([True], kept)), 0]
    ends = runs[np.concatenate((kept, [True])), 1]
    return np.stack((starts, ends), axis=1)


def _copy(dump: Dump, runs: Runs, layout: _Layout, descriptor: int, progress: Progress) -> int:
    """Copy `runs` to where the segments that hold them lie in the file; how many pages could not be read.

    What is not written stays a hole of the file, and so zeros.
    """
    page = dump.memory.page_size
    read = PageReader(dump.memory)
    total = int((runs[:, 1] - runs[:, 0]).sum())
    done = unreadable = 0
    into = np.searchsorted(layout.segments[:, 0], runs[:, 0], side="right") - 1
    for (start, end), segment in zip(runs.tolist(), into.tolist(), strict=True):
        place = int(layout.places[segment]) - int(layout.segments[segment, 0])
        for first in range(start // page, end // page, _BATCH):
            pfns = np.arange(first, min(first + _BATCH, end // page), dtype=np.int64)
            pages, bad = read(pfns)
            if bad is not None:
                pages[bad] = 0
                unreadable += int(np.count_nonzero(bad))
            pwrite_all(descriptor, pages.reshape(-1).data, place + first * page)
            done += len(pfns) * page
            progress("write", done, total)
    return unreadable
