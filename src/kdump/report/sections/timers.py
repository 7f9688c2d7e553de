"""Timers: what each CPU was to do later, by function, and which timers are overdue.

Sources: kernel/time/timer.c (`timer_bases`: wheels of struct timer_list, in jiffies), include/linux/hrtimer.h
(`hrtimer_bases`: a tree per clock, in nanoseconds).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from kdump.report.context import DAMAGE, Context
from kdump.report.logtext import clean
from kdump.report.model import Column, Finding, Section, Table, Value
from kdump.units import duration_text

TITLE = "Timers"
NEEDS_DUMP = True
_SHOWN = 200
_MANY = 100_000  # timers of one wheel
_LATE = 5.0  # seconds after which a timer that has not run is worth a word
_RATES = (100, 250, 300, 1000)  # values of CONFIG_HZ


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    rows: list[tuple[Value, ...]] = []
    for cpu in context.objects.cpus("online"):
        for kind, read in (("wheel", _wheel), ("high resolution", _high)):
            groups: dict[str, list[float]] = defaultdict(list)
            try:
                for function, left in read(context, cpu):
                    groups[_name(context, function)].append(left)
            except DAMAGE as error:
                section.notes.append(f"timers of CPU {cpu}, {kind}: {error}")
            ordered = sorted((min(times), name, len(times)) for name, times in groups.items())
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


def _wheel(context: Context, cpu: int) -> Iterator[tuple[int, float]]:
    """(function, seconds left) of every timer in a CPU's wheels; of delayed work, the function of the work."""
    objects = context.objects
    jiffies = objects.unsigned(objects.symbols.address("jiffies"))
    rate = _rate(context, jiffies)
    kind = objects.types.struct("timer_list")
    delayed = objects.symbols.get("delayed_work_timer_fn")
    expires, function = kind.offset("expires"), kind.offset("function")
    for base in objects.per_cpu("timer_bases", cpu):
        heads = objects.address(base.vectors)
        # One read for the whole wheel: most slots are empty.
        raw = objects.bytes(heads, 8 * len(base.vectors)).cast("Q")
        for slot in (slot for slot, first in enumerate(raw) if first):
            for timer in objects.hlist(heads + 8 * slot, "timer_list", "entry", _MANY):
                place = objects.address(timer)
                left = objects.unsigned(place + expires) - jiffies
                called = objects.unsigned(place + function)
                if called == delayed:
                    called = int(objects.container(timer, "delayed_work", "timer").work.func)
                yield called, left / rate


def _rate(context: Context, jiffies: int) -> int:
    """CONFIG_HZ: jiffies begin five minutes before they wrap at 32 bits, so the uptime tells them apart."""
    uptime = context.now / 1e9
    return min(_RATES, key=lambda rate: abs(((jiffies + 300 * rate) & 0xFFFFFFFF) / rate - uptime % (2**32 / rate)))


def _high(context: Context, cpu: int) -> Iterator[tuple[int, float]]:
    """The same of the high resolution timers; seconds are those of the timer's own clock."""
    objects = context.objects
    for base in objects.per_cpu("hrtimer_bases", cpu).clock_base:
        # The scheduler's clock stands for CLOCK_MONOTONIC; each base keeps how far its own clock is ahead of that.
        now = context.now + int(base.offset)
        for timer in objects.rbtree(base.active.rb_root, "hrtimer", "node.node"):
            yield int(timer.function), (int(timer.node.expires) - now) / 1e9
