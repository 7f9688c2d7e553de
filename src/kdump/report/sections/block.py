"""Block devices, what is below them, and the I/O that was in flight on them."""

from __future__ import annotations

from itertools import groupby

from kdump.report.context import Context
from kdump.report.damage import DAMAGE
from kdump.report.drivers import below, in_flight
from kdump.report.model import Column, Finding, Section, Table, Value
from kdump.report.storage import SECTOR, name_of
from kdump.units import duration_text

TITLE = "Block devices"
NEEDS_DUMP = True
_SHOWN = 100
_LONG = 10.0  # seconds that no request should take


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    objects = context.objects
    requests = context.requests
    section.notes += context.lost_requests
    rows: list[tuple[Value, ...]] = []
    for disk in context.disks:
        name = name_of(objects, disk)
        found = None
        try:
            found = below(context, disk)
        except DAMAGE as error:
            section.notes.append(f"the driver of {name}: {error}")
        if found is not None and found.bad:
            text = f"disk {name} ({found.driver}) was {found.state}" + (f": {found.detail}" if found.detail else "")
            section.findings.append(Finding("warning", text))
        size = int(disk.part0.bd_nr_sectors) * SECTOR
        state = (found.driver, found.state, found.detail) if found is not None else ("", "", "")
        rows.append((name, size, in_flight(context, disk), *state))
    columns = [
        Column("disk", "Disk"), Column("size", "Size", "bytes"), Column("in_flight", "In flight"),
        Column("driver", "Driver"), Column("state", "State"), Column("detail", "Below"),
    ]  # fmt: skip
    section.blocks.append(Table("disks", "", columns, rows))
    if not requests:
        return
    ordered = sorted(requests, key=lambda request: -(request.age or 0.0))
    columns = [
        Column("disk", "Disk"), Column("operation", "Operation"), Column("sector", "Sector"),
        Column("size", "Size", "bytes"), Column("age", "Age", "seconds"),
    ]  # fmt: skip
    rows = [(found.name, found.operation, found.sector, found.size, found.age) for found in ordered[:_SHOWN]]
    section.blocks.append(Table("requests", "Requests in flight", columns, rows, max(0, len(ordered) - _SHOWN)))
    for name, members in groupby(sorted(ordered, key=lambda request: request.name), key=lambda request: request.name):
        first, *others = members
        if first.age is not None and first.age > _LONG:
            text = f"a {first.operation} on {name} was in flight for {duration_text(first.age)}"
            more = f", {len(others)} more requests after it" if others else ""
            section.findings.append(Finding("warning", text + more))
