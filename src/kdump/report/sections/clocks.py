"""Clock sources: which one the kernel keeps time with, and which of them it found unstable.

Sources: include/linux/clocksource.h (struct clocksource, CLOCK_SOURCE_UNSTABLE), kernel/time/clocksource.c
(`clocksource_list`, the best first; `curr_clocksource`).
"""

from __future__ import annotations

from kdump.report.context import Context
from kdump.report.logtext import clean
from kdump.report.model import Column, Finding, Section, Table, Value

TITLE = "Clock sources"
NEEDS_DUMP = True
_UNSTABLE = 0x40
_MANY = 1000


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    objects = context.objects
    used = objects.unsigned(objects.symbols.address("curr_clocksource"))
    rows: list[tuple[Value, ...]] = []
    lost: list[str] = []
    for source in objects.list(objects.symbols.address("clocksource_list"), "clocksource", "list", _MANY):
        name = clean(objects.string(source.name))
        # A cycle lasts mult / 2**shift nanoseconds.
        rate = round((10**9 << (source.shift & 63)) / source.mult) if source.mult else None
        unstable = bool(source.flags & _UNSTABLE)
        rows.append((name, objects.address(source) == used, source.rating, rate, unstable))
        if unstable:
            lost.append(name)
    columns = [
        Column("source", "Source"), Column("used", "In use"), Column("rating", "Rating"), Column("rate", "Hz"),
        Column("unstable", "Unstable"),
    ]  # fmt: skip
    section.blocks.append(Table("sources", "", columns, rows))
    if lost:
        now = next((f"; it uses {row[0]}" for row in rows if row[1]), "")
        section.findings.append(
            Finding("warning", f"the kernel found the clock source {', '.join(lost)} unstable{now}")
        )
