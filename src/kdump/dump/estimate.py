"""The cost of each dump level: pages by class from one pass, and how a sample of each class compresses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdump.dump.classes import NAMES, PageClass, dropped
from kdump.dump.codecs import codec, compressor
from kdump.dump.first_pass import Progress, first_pass
from kdump.dump.levels import ZERO
from kdump.dump.pages import PageReader
from kdump.errors import KdumpError
from kdump.kernel.completed import completed
from kdump.memory.protocol import Dump

SAMPLE = 4096  # pages of each class that are compressed
DESCRIPTOR = 24  # bytes of a kept page besides its data


@dataclass(frozen=True)
class ClassCost:
    """A class's pages, which share of them is zero, and the mean bytes of the others compressed."""

    name: str
    pages: int
    zero: float
    bytes_each: float


@dataclass(frozen=True)
class Estimate:
    """`levels`: level → (pages kept, estimated bytes of the dump). `classes` that have pages."""

    pages: int
    page_size: int
    codec: str
    classes: tuple[ClassCost, ...]
    levels: dict[int, tuple[int, int]]
    not_applied: dict[str, str]


class _Sampler:
    """Keeps a uniform sample of each class's pfns while the classes go by in chunks."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(1)
        self._keys: dict[int, NDArray[np.float64]] = {}
        self.pfns: dict[int, NDArray[np.int64]] = {}

    def __call__(self, first: int, classes: NDArray[np.uint8], held: NDArray[np.bool_]) -> None:
        for kind in PageClass:
            found = np.flatnonzero((classes == kind) & held) + first
            if not len(found):
                continue
            keys = np.concatenate((self._keys.get(kind, np.zeros(0)), self._random.random(len(found))))
            pfns = np.concatenate((self.pfns.get(kind, found[:0]), found))
            best = np.argsort(keys)[:SAMPLE]
            self._keys[kind], self.pfns[kind] = keys[best], pfns[best]


def estimate(dump: Dump, name: str = "zstd", level: int = 0, progress: Progress | None = None) -> Estimate:
    """Classify the whole dump (or live kernel) and compress a sample. Sizes are of kdump-compressed files."""
    dump = completed(dump)
    sampler = _Sampler()
    selection = first_pass(dump, 31, progress=progress, watch=sampler)
    compress = compressor(codec(name, level), level)
    read = PageReader(dump.memory)
    costs = {}
    for kind, pfns in sampler.pfns.items():
        pages, unreadable = read(np.sort(pfns))
        if unreadable is not None:
            pages = pages[~unreadable]
        if not len(pages):
            raise KdumpError(f"{dump.path}: no page of the class {NAMES[PageClass(kind)]} can be read")
        sizes = compress(pages, drop_zeros=True).sizes
        packed = sizes[sizes != 0]
        costs[kind] = ClassCost(
            NAMES[PageClass(kind)],
            int(selection.by_class[kind]),
            1 - len(packed) / len(sizes),
            float(packed.mean()) if len(packed) else 0.0,
        )
    fixed = selection.present.limit // 4 + 8192  # both bitmaps, headers
    totals = {}
    for number in range(32):
        drop = dropped(number)
        kept = [cost for kind, cost in costs.items() if not drop[kind]]
        data = sum(cost.pages * ((1 - cost.zero) * cost.bytes_each + DESCRIPTOR) for cost in kept)
        if not number & ZERO:
            data += sum(cost.pages * cost.zero * _ZERO_PAGE for cost in kept)
        totals[number] = (sum(cost.pages for cost in kept), round(fixed + data))
    return Estimate(
        selection.present.count,
        dump.memory.page_size,
        name,
        tuple(costs[kind] for kind in sorted(costs)),
        totals,
        selection.not_applied,
    )


_ZERO_PAGE = 20  # bytes of a page of zeros, compressed
