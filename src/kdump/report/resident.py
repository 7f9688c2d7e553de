"""Resident memory of every process, as columns.

Source: include/linux/mm_types.h and mm_types_task.h: until 6.1 atomic counters, and what each thread has not yet added
to them; since 6.2 per-CPU counters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdump.kernel.objects import Objects
    from kdump.kernel.task_table import TaskTable

_KINDS = ("MM_FILEPAGES", "MM_ANONPAGES", "MM_SHMEMPAGES")
_KTHREAD = 0x00200000  # PF_KTHREAD


def sizes(objects: Objects, table: TaskTable, page_size: int) -> NDArray[np.int64]:
    """Shape (threads,): resident bytes of each process in the row of its first thread, -1 in all others."""
    columns = table.columns
    own = (columns["pid"] == columns["tgid"]) & (columns["mm"] != 0) & (columns["flags"] & _KTHREAD == 0)
    rows = np.flatnonzero(own)
    found = np.full(len(own), -1, np.int64)
    kinds = [objects.types.enumerator(name) for name in _KINDS]
    layout = objects.types.struct("mm_struct")
    spaces = columns["mm"][rows].astype(np.uint64)
    if layout.has("rss_stat.count"):
        base = layout.offset("rss_stat.count")
        values, _ = objects.columns.words(spaces, [base + 8 * kind for kind in kinds])
        pages = values.view(np.int64).sum(axis=1)
        if "rss" in columns:
            pages += _of_threads(columns, rows, kinds)
    else:
        pages = _per_cpu(objects, spaces, layout.offset("rss_stat"), kinds)
    found[rows] = np.maximum(pages, 0) * page_size
    return found


def _of_threads(columns: dict[str, NDArray[np.int64]], rows: NDArray[np.intp], kinds: list[int]) -> NDArray[np.int64]:
    """The counts that the threads of each process have not yet added to its counters."""
    raw = np.ascontiguousarray(columns["rss"])
    counts = raw.view(np.int32).reshape(len(raw), -1)[:, kinds].sum(axis=1, dtype=np.int64)
    groups, place = np.unique(columns["tgid"], return_inverse=True)
    totals = np.zeros(len(groups), np.int64)
    np.add.at(totals, place, counts)
    return totals[place[rows]]


def _per_cpu(objects: Objects, spaces: NDArray[np.uint64], base: int, kinds: list[int]) -> NDArray[np.int64]:
    counter = objects.types.struct("percpu_counter")
    places = [base + counter.size * kind for kind in kinds]
    at = counter.offset("count"), counter.offset("counters")
    values, _ = objects.columns.words(spaces, [place + each for place in places for each in at])
    counts, pointers = values[:, ::2].view(np.int64), values[:, 1::2]
    total: NDArray[np.int64] = counts.sum(axis=1)
    for cpu in objects.cpus("online"):
        copies = pointers + np.uint64(objects.per_cpu_base(cpu))  # wraps around, as the kernel's arithmetic does
        parts = objects.columns.numbers(np.where(pointers != 0, copies, 0), "i4")
        total = total + np.where(pointers != 0, parts, 0).sum(axis=1)
    return total
