"""The first pass: which pages a dump of some level keeps, and what became of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdump.dump import levels
from kdump.dump.bulk import SlabFacts
from kdump.dump.classes import NAMES, Classifier, PageClass, comes_first, dropped
from kdump.dump.facts import PageFacts
from kdump.dump.marks import find_fates
from kdump.dump.memmap import MapRun
from kdump.dump.pfnset import CHUNK, PfnSet
from kdump.dump.workers import in_order
from kdump.errors import FormatError, NotPresentError
from kdump.memory.protocol import Memory, Range
from kdump.memory.virtual import VirtualMemory
from kdump.native.interface import Fates

BATCH = 4 << 20  # bytes of struct pages looked at together: with fewer Python takes longer

NOTHING = 255  # in place of a class where there is no RAM

Tick = Callable[[int, int], None]  # pages done, pages in all
Watch = Callable[[int, NDArray[np.uint8], NDArray[np.bool_]], None]  # first pfn, class of each page, which are held


@dataclass
class Selection:
    """Which pages exist and which are kept. `by_class` counts the pages of RAM by `PageClass`.

    `first` are those of the kept pages that are to be written first (see `comes_first`); None is all. (Where the source
    holds no page far and wide, as in a dump that was filtered before, they count as UNMAPPED.)
    """

    present: PfnSet
    kept: PfnSet
    level: int
    by_class: NDArray[np.int64]
    not_applied: dict[str, str] = field(
        default_factory=dict
    )  # class → why its pages are kept though the level drops it
    doubts: list[str] = field(default_factory=list)  # what in the memory map made no sense; its pages are kept
    first: PfnSet | None = None
    also: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(PageClass), np.int64))  # kept by `Also`
    own: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))  # see `MemoryMap`

    @property
    def dropped_by_class(self) -> dict[str, int]:
        """Pages dropped, by the class's name; classes without any are left out."""
        drop = dropped(self.level)
        counts = self.by_class - self.also
        return {NAMES[kind]: int(counts[kind]) for kind in PageClass if drop[kind] and counts[kind]}


@dataclass(frozen=True)
class MemoryMap:
    """The input of the classification: facts, where the struct pages are, and the address space to read them through.

    `listed` are the pfns, in order, of free pages that no struct page tells (see `pcp`); `own` are the pages that the
    struct pages themselves lie in, `slabs` tells which slabs are reclaimable (see `bulk`).
    """

    facts: PageFacts
    runs: Sequence[MapRun]
    virtual: VirtualMemory
    listed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    own: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    slabs: SlabFacts | None = None


class Also(NamedTuple):
    """Pages that are kept though the level drops them: `runs`, shape (n, 2), are [first, end) pfns, rising and apart.

    `classes`, shape (len(PageClass),): of which classes they may be.
    """

    runs: NDArray[np.int64]
    classes: NDArray[np.bool_]

    def add(self, first: int, classes: NDArray[np.uint8], held: NDArray[np.bool_], fates: Fates) -> NDArray[np.int64]:
        """Keep those of the pages from pfn `first` on; how many of each class, shape (len(PageClass),)."""
        counts = np.zeros(len(PageClass), np.int64)
        start = int(np.searchsorted(self.runs[:, 1], first, "right"))
        stop = int(np.searchsorted(self.runs[:, 0], first + len(held)))
        for begin, end in (self.runs[start:stop] - first).tolist():
            part = slice(max(begin, 0), end)
            of = classes[part]
            more = held[part] & ~fates.kept[part]
            more &= self.classes[np.minimum(of, len(PageClass) - 1)]
            if more.any():
                fates.kept[part] |= more
                np.add.at(counts, of[more], 1)
        return counts


class _Chosen(NamedTuple):
    """The result for one chunk: which pages the source holds, and their fates; `classes` if they are told."""

    held: NDArray[np.bool_]
    fates: Fates
    classes: NDArray[np.uint8] | None
    unmapped: int  # pages that the source holds and that have no struct page
    also: NDArray[np.int64] | None = None  # see `Also.add`


def select(
    memory: Memory,
    memory_map: MemoryMap | None,
    level: int,
    tick: Tick,
    *,
    watch: Watch | None = None,
    threads: int = 0,
    stop: Callable[[], str] = lambda: "",
    also: Also | None = None,
) -> Selection:
    """Decide every page of RAM. Without `memory_map` everything is kept. `watch` is shown the classes as they come.

    A page that the source itself does not hold (re-filtering a filtered dump) is not kept either. Chunks are decided by
    `threads` threads (0: the caller); no block of free pages and no folio reaches across their bounds. Raises
    `StoppedError` if `stop` says something while they are waited for.
    """
    shift = memory.page_size.bit_length() - 1
    limit = max((each.end for each in memory.ranges), default=0) >> shift
    found = Selection(PfnSet(limit), PfnSet(limit), level, np.zeros(len(PageClass), np.int64))
    keep, begin = ~dropped(level), comes_first(level)
    if memory_map:
        found.first = PfnSet(limit)
        found.own = memory_map.own
    readers: list[_Batches] = []
    unmapped = 0

    def make_work() -> Callable[[tuple[int, NDArray[np.bool_]]], _Chosen]:
        batches = _Batches(memory_map, BATCH, off_lru=bool(level & levels.OURS)) if memory_map else None
        if batches:
            readers.append(batches)

        def work(job: tuple[int, NDArray[np.bool_]]) -> _Chosen:
            chunk, present = job
            first = chunk * CHUNK
            held = present & memory.present(first, len(present))
            # What the source does not hold need not be told apart: a damaged header may claim petabytes of it.
            if not batches or not batches.cover(first, first + len(present)) or not held.any():
                by_class = np.zeros(len(PageClass), np.int64)
                by_class[PageClass.UNMAPPED] = np.count_nonzero(present)
                return _Chosen(held, Fates(held, held, by_class), None, int(np.count_nonzero(held)))
            classes = np.full(len(present), PageClass.UNMAPPED, np.uint8)
            batches.fill(classes, first, held)
            unmapped = int(np.count_nonzero(held & (classes == PageClass.UNMAPPED)))
            classes[~present] = NOTHING
            fates = find_fates(classes, held, keep, begin)
            return _Chosen(held, fates, classes, unmapped, also and also.add(first, classes, held, fates))

        return work

    for (chunk, present), chosen in in_order(_ram(memory.ranges, limit, shift), make_work, threads, stop):
        tick(chunk * CHUNK, limit)
        found.present.put(chunk, present)
        found.kept.put(chunk, chosen.fates.kept)
        if found.first:
            found.first.put(chunk, chosen.fates.first)
        found.by_class += chosen.fates.counts
        unmapped += chosen.unmapped
        if chosen.also is not None:
            found.also += chosen.also
        if watch:
            nothing = np.full(len(present), PageClass.UNMAPPED, np.uint8)
            watch(chunk * CHUNK, nothing if chosen.classes is None else chosen.classes, chosen.held)
    tick(limit, limit)
    if memory_map:
        unread = sum(each.unreadable for each in readers)
        found.doubts = _doubts(readers, unread, unmapped - unread)
        wanted = level & levels.PAGE_CLASS_BITS
        found.not_applied = {name: why for name, why in memory_map.facts.missing.items() if wanted & _BITS.get(name, 0)}
        if wanted and unmapped and unmapped == found.kept.count:
            found.not_applied["all but zero pages"] = "RAM has no struct page"
    return found


_BITS = {"free": levels.FREE, "user": levels.USER, "hugetlb": levels.USER}


def _ram(ranges: Sequence[Range], limit: int, shift: int) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """(number, which of its pages are wholly or partly RAM) of each chunk below pfn `limit` that has any, in order."""
    chunk, found = -1, np.zeros(0, np.bool_)
    for each in ranges:
        at, end = each.start >> shift, -(-each.end >> shift)
        while at < end:
            if at // CHUNK != chunk:
                if chunk >= 0:
                    yield chunk, found
                chunk = at // CHUNK
                found = np.zeros(min(CHUNK, limit - chunk * CHUNK), np.bool_)
            stop = min(end, (chunk + 1) * CHUNK)
            found[at - chunk * CHUNK : stop - chunk * CHUNK] = True
            at = stop
    if chunk >= 0:
        yield chunk, found


def _doubts(readers: Sequence[_Batches], unread: int, unmapped: int) -> list[str]:
    """Sentences about pages that were kept because their facts were inconsistent."""
    doubts = [each.classifier.doubts for each in readers]
    counts = (
        (unread, "struct pages could not be read"),
        (unmapped, "pages of RAM have no struct page"),
        (sum(each.bad_orders for each in doubts), "free blocks have an impossible order or place"),
        (sum(each.lost_tails for each in doubts), "tail pages point to no head"),
    )
    return [f"{count} {what}" for count, what in counts if count]


class _Batches:
    """Reads the memory map batch by batch and classifies it."""

    def __init__(self, memory_map: MemoryMap, batch: int, *, off_lru: bool) -> None:
        self.facts = memory_map.facts
        self.runs = memory_map.runs
        self.virtual = memory_map.virtual
        self.listed = memory_map.listed
        self.own = memory_map.own
        self.pages = max(batch // self.facts.size, 64)
        self.classifier = Classifier(self.facts, off_lru=off_lru, slabs=memory_map.slabs)
        self.unreadable = 0

    def cover(self, first: int, end: int) -> bool:
        """Whether any page of [first, end) has a struct page."""
        return any(run.first_pfn < end and first < run.first_pfn + run.pages for run in self.runs)

    def fill(self, classes: NDArray[np.uint8], first: int, wanted: NDArray[np.bool_]) -> None:
        """Set the classes of pages [first, first + len(classes)) where struct pages tell them.

        Batches without a `wanted` page are passed over: nothing needs to have written the struct pages of holes.
        """
        end = first + len(classes)
        for run in self.runs:
            start, stop = max(run.first_pfn, first), min(run.first_pfn + run.pages, end)
            at = start
            while at < stop:
                upto = min(at // self.pages * self.pages + self.pages, stop)
                if wanted[at - first : upto - first].any():
                    for pfn, raw in self._read(run, at, upto):
                        where = run.virtual + (pfn - run.first_pfn) * self.facts.size
                        found = self.classifier.classify(raw, pfn, where)
                        classes[pfn - first : pfn - first + len(found)] = found
                at = upto
        listed = self.listed[slice(*np.searchsorted(self.listed, (first, end)))] - first
        classes[listed[classes[listed] == PageClass.KERNEL]] = PageClass.FREE
        for start, stop in self.own[(self.own[:, 0] < end) & (self.own[:, 1] > first)] - first:
            own = classes[max(start, 0) : stop]
            own[own == PageClass.KERNEL] = PageClass.MEMORY_MAP

    def _read(self, run: MapRun, start: int, stop: int) -> Iterator[tuple[int, memoryview]]:
        """(pfn, struct pages) of [start, stop); where they cannot be read at once, what can be read page by page."""
        size = self.facts.size
        address = run.virtual + (start - run.first_pfn) * size
        try:
            yield start, self.virtual.view(address, (stop - start) * size)
            return
        except (NotPresentError, FormatError):
            pass
        step = max(4096 // size, 1)
        for pfn in range(start, stop, step):
            count = min(step, stop - pfn)
            try:
                yield pfn, self.virtual.view(run.virtual + (pfn - run.first_pfn) * size, count * size)
            except (NotPresentError, FormatError):
                self.unreadable += count
