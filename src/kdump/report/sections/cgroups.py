"""Control groups of the unified hierarchy, by memory; and containers: processes that live in namespaces of their own.

Sources: include/linux/cgroup-defs.h, include/linux/memcontrol.h, include/linux/page_counter.h,
include/linux/nsproxy.h, kernel/pid_namespace.c.
"""

from __future__ import annotations

from collections.abc import Iterator

from kdump.kernel.objects import Objects, Struct
from kdump.kernel.tasks import Task
from kdump.report.context import DAMAGE, Context
from kdump.report.logtext import clean
from kdump.report.model import Column, Finding, Section, Table, Value
from kdump.report.who import group_path

TITLE = "Control groups and containers"
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
        own = group if objects.has(group, "nr_populated_csets") else group.self  # moved there in 7.x
        tasks = int(own.nr_populated_csets) if objects.has(own, "nr_populated_csets") else None
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
    try:
        _containers(context, section)
    except DAMAGE as error:
        section.notes.append(f"containers: {error}")


def _containers(context: Context, section: Section) -> None:
    """Processes by PID namespace, save the machine's own; each told by the process that is 1 in there."""
    objects = context.objects
    own = objects.symbols.address("init_pid_ns")
    found: dict[int, list[Task]] = {}
    for task in context.all_tasks:
        if task.kernel_thread or task.pid != task.tgid or not task.struct.thread_pid:
            continue
        level = int(task.struct.thread_pid.level)
        space = int(task.struct.thread_pid.numbers[level].ns)
        if space != own:
            found.setdefault(space, []).append(task)
    rows: list[tuple[Value, ...]] = []
    for space, members in found.items():
        reaper = objects.struct("pid_namespace", space).child_reaper
        first = next((task for task in members if objects.address(task.struct) == int(reaper)), members[0])
        memory = sum(context.resident(task.struct) or 0 for task in members)
        proxy = first.struct.nsproxy
        host = clean(objects.string(proxy.uts_ns.name.nodename)) if proxy else ""
        path = clean(group_path(objects, first.struct.cgroups.dfl_cgrp)) if first.struct.cgroups else ""
        rows.append((host, first.pid, clean(first.command), len(members), memory, path))
    rows.sort(key=lambda row: -int(row[4] or 0))
    columns = [
        Column("host", "Host name"), Column("pid", "PID"), Column("first", "First process"),
        Column("processes", "Processes"), Column("rss", "RSS", "bytes"), Column("group", "Group"),
    ]  # fmt: skip
    section.blocks.append(Table("containers", "Containers", columns, rows[:_SHOWN], max(0, len(rows) - _SHOWN)))


def _groups(objects: Objects, group: Struct, path: str, depth: int) -> Iterator[tuple[str, Struct]]:
    yield path or "/", group
    if depth >= _DEEP:
        return
    for state in objects.list(group.self.children, "cgroup_subsys_state", "sibling", _MAX_GROUPS):
        child = objects.container(state, "cgroup", "self")
        yield from _groups(objects, child, f"{path}/{objects.string(child.kn.name)}", depth + 1)
