"""Timers: what each CPU was to do later, by function, and which timers are overdue.

Sources: kernel/time/timer.c (`timer_bases`: wheels of struct timer_list, in jiffies), include/linux/hrtimer.h
(`hrtimer_bases`: a tree per clock, in nanoseconds).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kdump.report.context import Context
from kdump.report.damage import DAMAGE
from kdump.report.logtext import clean
from kdump.report.model import Column, Finding, Section, Table, Value
from kdump.units import duration_text

Numbers = NDArray[np.uint64]

TITLE = "Timers"
NEEDS_DUMP = True
_SHOWN = 200
_MANY = 1 << 21  # timers of one CPU
_LATE = 5.0  # seconds after which a timer that has not run is worth a word
_RATES = (100, 250, 300, 1000)  # values of CONFIG_HZ


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    rows: list[tuple[Value, ...]] = []
    for cpu in context.objects.cpus("online"):
        for kind, read in (("wheel", _wheel), ("high resolution", _high)):
            groups: dict[str, list[float]] = {}
            try:
                for function, count, first in _by_function(*read(context, cpu)):
                    known = groups.setdefault(_name(context, function), [0, first])
                    known[:] = known[0] + count, min(known[1], first)
            except DAMAGE as error:
                section.notes.append(f"timers of CPU {cpu}, {kind}: {error}")
            ordered = sorted((first, name, int(count)) for name, (count, first) in groups.items())
            rows += [(cpu, kind, name, count, round(first, 3)) for first, name, count in ordered]
            if ordered and ordered[0][0] < -_LATE:
                overdue, name, _ = ordered[0]
                text = f"timers of CPU {cpu} are overdue, {name}() by {duration_text(-overdue)}"
                section.findings.append(Finding("warning", text))
    columns = [
        Column("cpu", "CPU"), Column("kind", "Kind"), Column("function", "Function"), Column("timers", "Timers"),
        Column("next", "Next in s"),
    ]  # fmt: skip
    section.blocks.append(Table("timers", "", columns, rows[:_SHOWN], max(0, len(rows) - _SHOWN)))


def _name(context: Context, address: int) -> str:
    symbol = context.kernel.symbolizer.at(address)
    return clean(symbol.name) if symbol and symbol.name else f"{address:#x}"


def _by_function(functions: Numbers, left: NDArray[np.float64]) -> Iterator[tuple[int, int, float]]:
    """(function, how many timers call it, seconds until the first)."""
    distinct, place, count = np.unique(functions, return_inverse=True, return_counts=True)
    first = np.full(len(distinct), np.inf)
    np.minimum.at(first, place, left)
    yield from zip(distinct.tolist(), count.tolist(), first.tolist(), strict=True)


def _wheel(context: Context, cpu: int) -> tuple[Numbers, NDArray[np.float64]]:
    """Functions and seconds left of the timers in a CPU's wheels; of delayed work, the function of the work."""
    objects, columns = context.objects, context.objects.columns
    jiffies = objects.unsigned(objects.symbols.address("jiffies"))
    kind = objects.types.struct("timer_list")
    # One read for a whole wheel: most slots are empty.
    heads = [
        np.frombuffer(objects.bytes(objects.address(base.vectors), 8 * len(base.vectors)), "<u8")
        for base in objects.per_cpu("timer_bases", cpu)
    ]
    nodes = columns.chains(np.concatenate(heads), _MANY)
    timers = nodes - np.uint64(kind.offset("entry"))
    table = columns.table(kind, timers, "expires", "function")
    functions = table["function"].astype(np.uint64)
    delayed = objects.symbols.get("delayed_work_timer_fn")
    works = np.flatnonzero(functions == np.uint64(delayed or 0))
    if len(works) and delayed:
        work = objects.types.struct("delayed_work")
        functions[works] = columns.pointers(timers[works] - np.uint64(work.offset("timer")), work.offset("work.func"))
    left = (table["expires"].astype(np.uint64) - np.uint64(jiffies)).view(np.int64)
    return functions[table.ok], left[table.ok] / _rate(context, jiffies)


def _rate(context: Context, jiffies: int) -> int:
    """CONFIG_HZ: jiffies begin five minutes before they wrap at 32 bits, so the uptime tells them apart."""
    uptime = context.now / 1e9
    return min(_RATES, key=lambda rate: abs(((jiffies + 300 * rate) & 0xFFFFFFFF) / rate - uptime % (2**32 / rate)))


def _high(context: Context, cpu: int) -> tuple[Numbers, NDArray[np.float64]]:
    """The same of the high resolution timers; seconds are those of the timer's own clock."""
    objects, columns = context.objects, context.objects.columns
    kind = objects.types.struct("hrtimer")
    functions, left = [], []
    for base in objects.per_cpu("hrtimer_bases", cpu).clock_base:
        # The scheduler's clock stands for CLOCK_MONOTONIC; each base keeps how far its own clock is ahead of that.
        now = context.now + int(base.offset)
        root = base.active.rb_root
        nodes = columns.tree(int(root.rb_root.rb_node if objects.has(root, "rb_root") else root.rb_node), _MANY)
        table = columns.table(kind, nodes - np.uint64(kind.offset("node.node")), "function", "node.expires")
        functions.append(table["function"][table.ok].astype(np.uint64))
        left.append((table["node.expires"][table.ok] - now) / 1e9)
    return np.concatenate(functions), np.concatenate(left)
