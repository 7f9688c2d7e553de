"""The last events in ftrace's ring buffers: what the kernel was tracing when it died."""

from __future__ import annotations

from kdump.kernel.ftrace import Event, Tracer
from kdump.kernel.locks import KERNEL
from kdump.report.context import Context
from kdump.report.logtext import clean
from kdump.report.model import Column, Fact, Facts, Section, Table, Value

TITLE = "Trace"
NEEDS_DUMP = True
_SHOWN = 200
_PAGES = 4  # of each CPU's buffer: some hundred events


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    tracer = Tracer(context.objects)
    section.blocks.append(Facts("tracer", [Fact("tracer", "Tracer", clean(tracer.name))]))
    events = tracer.last(_PAGES)
    rows: list[tuple[Value, ...]] = [
        (round(event.nanoseconds / 1e9, 6), event.cpu, event.pid, clean(event.name), clean(_details(context, event)))
        for event in events[-_SHOWN:]
    ]
    columns = [
        Column("time", "Time", "stamp"), Column("cpu", "CPU"), Column("pid", "PID"), Column("event", "Event"),
        Column("fields", "Fields"),
    ]  # fmt: skip
    section.blocks.append(Table("events", "", columns, rows))


def _details(context: Context, event: Event) -> str:
    return ", ".join(f"{name}={_value(context, name, value)}" for name, value in event.fields.items())


def _value(context: Context, name: str, value: int | str) -> str:
    if isinstance(value, str):
        return value
    if value >= KERNEL:  # a kernel address
        symbol = context.kernel.symbolizer.at(value)
        if symbol and symbol.name and symbol.type in "tTwW":
            return symbol.name if name in ("ip", "parent_ip", "func") else f"{symbol.name}+{value - symbol.address:#x}"
        return f"{value:#x}"
    return str(value)
