"""The first pass: which pages a dump of some level keeps, and what became of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kdump.dump import levels
from kdump.dump.classes import NAMES, Classifier, PageClass, dropped
from kdump.dump.facts import PageFacts
from kdump.dump.memmap import MapRun
from kdump.dump.pfnset import CHUNK, PfnSet
from kdump.errors import FormatError, NotPresentError
from kdump.memory.protocol import Memory
from kdump.memory.virtual import VirtualMemory

BATCH = 1 << 20  # bytes of struct pages looked at together: they should stay in the processor's cache

NOTHING = 255  # in place of a class where there is no RAM

Tick = Callable[[int, int], None]  # pages done, pages in all
Watch = Callable[[int, NDArray[np.uint8], NDArray[np.bool_]], None]  # first pfn, class of each page, which are held


@dataclass
class Selection:
    """Which pages exist and which are kept. `by_class` counts all pages of RAM by `PageClass`."""

    present: PfnSet
    kept: PfnSet
    level: int
    by_class: NDArray[np.int64]
    not_applied: dict[str, str] = field(
        default_factory=dict
    )  # class → why its pages are kept though the level drops it
    doubts: list[str] = field(default_factory=list)  # what in the memory map made no sense; its pages are kept

    @property
    def dropped_by_class(self) -> dict[str, int]:
        """Pages dropped, by the class's name; classes without any are left out."""
        drop = dropped(self.level)
        return {NAMES[kind]: int(self.by_class[kind]) for kind in PageClass if drop[kind] and self.by_class[kind]}


@dataclass(frozen=True)
class MemoryMap:
    """What is needed to classify: facts, where the struct pages are, and the address space to read them through."""

    facts: PageFacts
    runs: Sequence[MapRun]
    virtual: VirtualMemory


def select(
    memory: Memory, memory_map: MemoryMap | None, level: int, tick: Tick, watch: Watch | None = None
) -> Selection:
    """Decide every page of RAM. Without `memory_map` everything is kept. `watch` is shown the classes as they come.

    A page that the source itself does not hold (re-filtering a filtered dump) is not kept either.
    """
    shift = memory.page_size.bit_length() - 1
    limit = max((each.end for each in memory.ranges), default=0) >> shift
    found = Selection(PfnSet(limit), PfnSet(limit), level, np.zeros(len(PageClass), np.int64))
    drop = dropped(level)
    off_lru = bool(level & levels.OURS)
    batches = _Batches(memory_map, BATCH, off_lru=off_lru) if memory_map else None
    for chunk in range(-(-limit // CHUNK)):
        first = chunk * CHUNK
        present = _in_ranges(memory, first, min(CHUNK, limit - first), shift)
        tick(first, limit)
        if not present.any():
            continue
        found.present.put(chunk, present)
        held = present & memory.present(first, len(present))
        if watch is None and not (batches and batches.cover(first, first + len(present))):
            found.by_class[PageClass.UNMAPPED] += np.count_nonzero(present)
            found.kept.put(chunk, held)
            continue
        classes = np.full(len(present), PageClass.UNMAPPED, np.uint8)
        if batches:
            batches.fill(classes, first, present)
        classes[~present] = NOTHING
        if watch:
            watch(first, classes, held)
        left = np.count_nonzero(present)
        for kind in PageClass:  # comparing bytes is far cheaper than a table look-up for each page
            if left:
                members = classes == kind
                count = np.count_nonzero(members)
                found.by_class[kind] += count
                left -= count
                if count and drop[kind]:
                    held &= ~members
        found.kept.put(chunk, held)
    tick(limit, limit)
    if memory_map and batches:
        found.doubts = batches.doubts()
        wanted = level & levels.PAGE_CLASS_BITS
        found.not_applied = {name: why for name, why in memory_map.facts.missing.items() if wanted & _BITS.get(name, 0)}
    return found


_BITS = {"free": levels.FREE, "user": levels.USER, "hugetlb": levels.USER}


def _in_ranges(memory: Memory, first: int, count: int, shift: int) -> NDArray[np.bool_]:
    """Which pages of [first, first+count) are wholly or partly RAM."""
    found = np.zeros(count, np.bool_)
    for each in memory.ranges:
        start, end = (each.start >> shift) - first, -(-each.end >> shift) - first
        if start < count and end > 0:
            found[max(start, 0) : end] = True
    return found


class _Batches:
    """Reads the memory map batch by batch and classifies it."""

    def __init__(self, memory_map: MemoryMap, batch: int, *, off_lru: bool) -> None:
        self.facts = memory_map.facts
        self.runs = memory_map.runs
        self.virtual = memory_map.virtual
        self.pages = max(batch // self.facts.size, 64)
        self.classifier = Classifier(self.facts, off_lru=off_lru)
        self.unreadable = 0

    def cover(self, first: int, end: int) -> bool:
        """Whether any page of [first, end) has a struct page."""
        return any(run.first_pfn < end and first < run.first_pfn + run.pages for run in self.runs)

    def fill(self, classes: NDArray[np.uint8], first: int, present: NDArray[np.bool_]) -> None:
        """Set the classes of pages [first, first + len(classes)) where struct pages tell them."""
        end = first + len(classes)
        for run in self.runs:
            start, stop = max(run.first_pfn, first), min(run.first_pfn + run.pages, end)
            at = start
            while at < stop:
                upto = min(at // self.pages * self.pages + self.pages, stop)
                # Struct pages of holes are not looked at: nothing needs to have written them.
                if present[at - first : upto - first].any():
                    for pfn, raw in self._read(run, at, upto):
                        where = run.virtual + (pfn - run.first_pfn) * self.facts.size
                        found = self.classifier.classify(raw, pfn, where)
                        classes[pfn - first : pfn - first + len(found)] = found
                at = upto

    def doubts(self) -> list[str]:
        """What was kept because it made no sense, in sentences."""
        counts = (
            (self.unreadable, "struct pages could not be read"),
            (self.classifier.doubts.bad_orders, "free blocks have an impossible order or place"),
            (self.classifier.doubts.lost_tails, "tail pages point to no head"),
        )
        return [f"{count} {what}" for count, what in counts if count]

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
