"""Check a dump by itself: read and decompress every page that it claims to hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdump.dump.pages import PageReader
from kdump.dump.workers import in_order, thread_count
from kdump.memory.protocol import Dump, Memory

BATCH = 2 << 20  # bytes read together


class Soundness(NamedTuple):
    """`pages` were read; `bad` are the pfns (the first `BAD_SHOWN`) of `bad_count` that could not be."""

    pages: int
    bad_count: int
    bad: list[int]


BAD_SHOWN = 8


def check_pages(dump: Dump, tick: Callable[[int, int], None]) -> Soundness:
    """Read every page of the dump on all CPUs; `tick` is told bytes done and bytes in all (of RAM)."""
    memory = dump.memory
    size = memory.page_size
    limit = max((each.end for each in memory.ranges), default=0) // size
    pages, bad_count, bad = 0, 0, list[int]()

    def make_work() -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
        read = PageReader(memory)

        def work(pfns: NDArray[np.int64]) -> NDArray[np.int64]:
            _, unreadable = read(pfns)
            return pfns[:0] if unreadable is None else pfns[unreadable]

        return work

    for pfns, wrong in in_order(_held(memory), make_work, thread_count(None)):
        pages += len(pfns)
        bad_count += len(wrong)
        bad += wrong[: BAD_SHOWN - len(bad)].tolist()
        tick(int(pfns[-1]) * size, limit * size)
    return Soundness(pages, bad_count, bad)


def _held(memory: Memory) -> Iterator[NDArray[np.int64]]:
    """The pfns that the dump holds, in order, in batches."""
    pending: list[NDArray[np.int64]] = []
    batch = room = max(1, BATCH // memory.page_size)
    for each in memory.held():
        at, end = each.start // memory.page_size, each.end // memory.page_size
        while at < end:
            count = min(end - at, room)
            pending.append(np.arange(at, at + count))
            at, room = at + count, room - count
            if not room:
                yield np.concatenate(pending)
                pending, room = [], batch
    if pending:
        yield np.concatenate(pending)
