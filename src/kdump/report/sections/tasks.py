"""Tasks: how many in each state, and every process; equal ones share a line.

Kernel threads that differ only in a number (kworker/0:1, kworker/1:0), equal processes of one parent, and threads of a
process that do the same share a line for each state. It has the first one's PID and the memory of all.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from kdump.report.context import Context
from kdump.report.logtext import clean
from kdump.report.model import Column, Fact, Facts, Section, Table, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdump.kernel.task_table import TaskTable

TITLE = "Tasks"
NEEDS_DUMP = True
_SHOWN = 5000
_FOLD = 4  # so many that are alike become one line
_STATES = {
    "R": "runnable", "S": "sleeping", "D": "blocked", "T": "stopped", "t": "traced", "Z": "zombie", "X": "dead",
    "P": "parked", "I": "idle kernel threads",
}  # fmt: skip
_KTHREAD = 0x00200000  # PF_KTHREAD
_NUMBERED = re.compile(r"[/:.-]?(?:u?\d.*)$")


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    table = context.tasks.all
    states = Counter(table.tasks.states.tolist())
    facts = [Fact("threads", "Threads", len(table.address))]
    facts += [Fact(f"state_{key}", f"{_STATES.get(key, '?')} ({key})", count) for key, count in states.most_common()]
    section.blocks.append(Facts("counts", facts))
    columns = [
        Column("pid", "PID"), Column("ppid", "PPID"), Column("cpu", "CPU"), Column("state", "State"),
        Column("rss", "RSS", "bytes"), Column("command", "Command"), Column("count", "Tasks"),
    ]  # fmt: skip
    rows = _rows(table, context.resident_sizes)
    section.blocks.append(Table("tasks", "", columns, rows[:_SHOWN], max(0, len(rows) - _SHOWN)))


def _rows(table: TaskTable, sizes: NDArray[np.int64]) -> list[tuple[Value, ...]]:
    fields, states = table.columns, table.tasks.states
    parents = _parents(table)
    kernel = fields["flags"] & _KTHREAD != 0
    names, name = np.unique(fields["comm"], return_inverse=True)
    texts = [_text(raw) for raw in names.tolist()]
    stems = {text: number for number, text in enumerate(dict.fromkeys(map(_stem, texts)))}
    stem = np.array([stems[_stem(text)] for text in texts] or [0])[name]
    thread = fields["pid"] != fields["tgid"]
    # Alike are kernel threads with such a name, processes of one parent, threads of one process.
    key = np.stack([
        np.where(kernel, stem, name), np.where(kernel, -1, parents), np.where(thread, fields["tgid"], 0),
        kernel.astype(np.int64), np.unique(states, return_inverse=True)[1],
    ], axis=1)  # fmt: skip
    _, first, place, count = np.unique(key, axis=0, return_index=True, return_inverse=True, return_counts=True)
    place = place.ravel()
    folded = count >= _FOLD
    total = np.zeros(len(count), np.int64)
    np.add.at(total, place, np.maximum(sizes, 0))
    lowest = np.full(len(count), 1 << 30)
    highest = np.full(len(count), -1)
    np.minimum.at(lowest, place, fields["cpu"])
    np.maximum.at(highest, place, fields["cpu"])
    leads = np.zeros(len(place), np.bool_)
    leads[first] = True
    rows: list[tuple[Value, ...]] = []
    for row in np.flatnonzero(leads | ~folded[place]).tolist():
        group = place[row]
        many = bool(folded[group])
        text = texts[name[row]]
        if kernel[row]:
            text = f"[{_stem(text)}…]" if many and _stem(text) != text else f"[{text}]"
        size = int(total[group]) if many else int(sizes[row])
        rss = None if kernel[row] or thread[row] or sizes[row] < 0 else size
        cpu = int(fields["cpu"][row]) if not many or lowest[group] == highest[group] else None
        rows.append((
            int(fields["pid"][row]), int(parents[row]), cpu, str(states[row]), rss, text,
            int(count[group]) if many else 1,
        ))  # fmt: skip
    return rows


def _parents(table: TaskTable) -> NDArray[np.int64]:
    """PIDs of the parents' processes; 0 where the parent is not among the tasks, as the idle task is not."""
    parents = table.columns["real_parent"].astype(np.uint64)
    found = np.zeros(len(parents), np.int64)
    if len(parents):
        order = np.argsort(table.address, kind="stable")
        place = order[np.minimum(np.searchsorted(table.address, parents, sorter=order), len(order) - 1)]
        known = table.address[place] == parents
        found[known] = table.columns["tgid"][place[known]]
    return found


def _text(raw: bytes) -> str:
    return clean(raw.split(b"\0", 1)[0].decode("utf-8", "replace"))


def _stem(text: str) -> str:
    """A name without the number that tells threads of one kind apart."""
    return _NUMBERED.sub("", text) or text
