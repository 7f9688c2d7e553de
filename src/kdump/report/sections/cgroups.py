"""Control groups of the unified hierarchy: which use most memory, how many processes they hold.

Sources: include/linux/cgroup-defs.h, include/linux/memcontrol.h, include/linux/page_counter.h.
"""

from __future__ import annotations

from collections.abc import Iterator

from kdump.kernel.objects import Objects, Struct
from kdump.report.context import Context
from kdump.report.logtext import clean
from kdump.report.model import Column, Finding, Section, Table, Value

TITLE = "Control groups"
NEEDS_DUMP = True
_SHOWN = 40
_DEEP = 64
_MAX_GROUPS = 100000
_UNLIMITED = 1 << 50  # pages; page_counter's maximum is near 2^51


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    objects = context.objects
    page = context.kernel.vmcoreinfo.page_size
    memory = objects.types.enum("cgroup_subsys_id").get("memory_cgrp_id")
    rows: list[tuple[Value, ...]] = []
    for path, group in _groups(objects, objects.variable("cgrp_dfl_root").cgrp, "", 0):
        tasks = int(group.nr_populated_csets)
        usage = limit = None
        if memory is not None and (state := group.subsys[memory]):
            counter = objects.container(state, "mem_cgroup", "css").memory
            usage, most = int(counter.usage.counter) * page, int(counter.max)
            limit = most * page if most < _UNLIMITED else None
            if limit and usage >= limit:
                section.findings.append(Finding("warning", f"control group {clean(path)} had reached its memory limit"))
        rows.append((clean(path), usage, limit, tasks))
    rows.sort(key=lambda row: -(row[1] if isinstance(row[1], int) else 0))
    columns = [
        Column("path", "Group"), Column("memory", "Memory", "bytes"), Column("limit", "Limit", "bytes"),
        Column("sets", "Sets"),
    ]  # fmt: skip
    section.blocks.append(Table("groups", "", columns, rows[:_SHOWN], max(0, len(rows) - _SHOWN)))


def _groups(objects: Objects, group: Struct, path: str, depth: int) -> Iterator[tuple[str, Struct]]:
    yield path or "/", group
    if depth >= _DEEP:
        return
    for state in objects.list(group.self.children, "cgroup_subsys_state", "sibling", _MAX_GROUPS):
        child = objects.container(state, "cgroup", "self")
        yield from _groups(objects, child, f"{path}/{objects.string(child.kn.name)}", depth + 1)
