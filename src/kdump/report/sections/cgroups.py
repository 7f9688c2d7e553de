"""Control groups of the unified hierarchy, by memory; and containers: processes that live in namespaces of their own.

Sources: include/linux/cgroup-defs.h, include/linux/memcontrol.h, include/linux/page_counter.h,
include/linux/nsproxy.h, kernel/pid_namespace.c.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kdump.kernel.objects import Objects
from kdump.kernel.processes import group_path
from kdump.report.context import Context
from kdump.report.damage import DAMAGE
from kdump.report.logtext import clean
from kdump.report.model import Column, Finding, Section, Table, Value

TITLE = "Control groups and containers"
NEEDS_DUMP = True
_SHOWN = 40
_DEEP = 64
_LONGEST = 255  # bytes of a group's name: NAME_MAX
_FULL = 20  # groups at their limits that are named
_KTHREAD = 0x00200000  # PF_KTHREAD
_MAX_GROUPS = 100000
_UNLIMITED = 1 << 50  # pages; page_counter's maximum is near 2^51


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    objects = context.objects
    page = context.kernel.vmcoreinfo.page_size
    memory = objects.types.enum("cgroup_subsys_id").get("memory_cgrp_id")
    paths, groups = _groups(objects, objects.address(objects.variable("cgrp_dfl_root").cgrp))
    sets = _sets(objects, groups)
    usage, limits = _usage(objects, groups, memory)
    rows: list[tuple[Value, ...]] = []
    full = 0
    for path, used, most, count in zip(paths, usage, limits, sets, strict=True):
        limit = most * page if used is not None and most < _UNLIMITED else None
        size = used * page if used is not None else None
        if limit and size is not None and size >= limit:
            full += 1
            if full <= _FULL:
                section.findings.append(Finding("warning", f"control group {clean(path)} had reached its memory limit"))
        rows.append((clean(path), size, limit, count))
    if full > _FULL:
        text = f"{full - _FULL} more control groups had reached their memory limits"
        section.findings.append(Finding("warning", text))
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
    """Processes by PID namespace, except the machine's own; each is described by its process 1."""
    objects = context.objects
    own = objects.symbols.address("init_pid_ns")
    found: dict[int, list[int]] = {}
    fields, tasks = context.tasks.all.columns, context.all_tasks
    users = (fields["pid"] == fields["tgid"]) & (fields["flags"] & _KTHREAD == 0) & (fields["thread_pid"] != 0)
    for row, space in zip(np.flatnonzero(users).tolist(), _spaces(objects, fields["thread_pid"][users]), strict=True):
        if space != own:
            found.setdefault(space, []).append(row)
    sizes = context.resident_sizes
    rows: list[tuple[Value, ...]] = []
    for space, members in found.items():
        reaper = objects.struct("pid_namespace", space).child_reaper
        rows_of = [tasks[row] for row in members]
        first = next((task for task in rows_of if objects.address(task.struct) == int(reaper)), rows_of[0])
        memory = int(np.maximum(sizes[members], 0).sum())
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


def _spaces(objects: Objects, pids: NDArray[np.int64]) -> list[int]:
    """Addresses of the innermost PID namespaces of these struct pid."""
    pid, number = objects.types.struct("pid"), objects.types.struct("upid")
    level = objects.columns.table(pid, pids, "level")["level"]
    inner = np.clip(level, 0, _DEEP).astype(np.uint64) * np.uint64(number.size)
    at = pid.offset("numbers") + number.offset("ns")
    found: list[int] = objects.columns.pointers(pids.astype(np.uint64) + inner, at).tolist()
    return found


def _groups(objects: Objects, top: int) -> tuple[list[str], NDArray[np.uint64]]:
    """Paths and addresses of all groups below and with `top`; the lists of children are read one by one."""
    kind, state = objects.types.struct("cgroup"), objects.types.struct("cgroup_subsys_state")
    own, children, sibling = kind.offset("self"), state.offset("children"), state.offset("sibling")
    parents, groups, depths = [-1], [top], [0]
    for number, group in enumerate(groups):  # grows while it is walked
        if depths[number] >= _DEEP:
            continue
        for node in objects.nodes(group + own + children, _MAX_GROUPS, "list of control groups"):
            parents.append(number)
            groups.append(node - sibling - own)
            depths.append(depths[number] + 1)
    places = np.array(groups, np.uint64)
    nodes = objects.columns.pointers(places, kind.offset("kn"))
    pointers = objects.columns.pointers(nodes, objects.types.struct("kernfs_node").offset("name"))
    names = objects.columns.strings(pointers, _LONGEST)
    paths = [""]
    for parent, name in zip(parents[1:], names[1:], strict=True):
        paths.append(f"{paths[parent]}/{name}")
    return ["/", *paths[1:]], places


def _sets(objects: Objects, groups: NDArray[np.uint64]) -> Sequence[int | None]:
    member = objects.types.struct("cgroup").first("nr_populated_csets", "self.nr_populated_csets")  # moved in 7.x
    if member is None:
        return [None] * len(groups)
    found: list[int] = objects.columns.members(groups, {"sets": member})["sets"].tolist()
    return found


def _usage(objects: Objects, groups: NDArray[np.uint64], memory: int | None) -> tuple[Sequence[int | None], list[int]]:
    """Pages that each group has charged, None where memory is not accounted, and how many it may have."""
    if memory is None:
        return [None] * len(groups), [0] * len(groups)
    kind, account = objects.types.struct("cgroup"), objects.types.struct("mem_cgroup")
    states = objects.columns.pointers(groups, kind.offset("subsys") + 8 * memory)
    counted = states != 0
    places = np.where(counted, states - np.uint64(account.offset("css")), np.uint64(0))
    table = objects.columns.table(account, places, "memory.usage", "memory.max")
    used = np.frombuffer(np.ascontiguousarray(table["memory.usage"]).tobytes(), np.int64)
    counted &= table.ok
    most = np.minimum(table["memory.max"], np.uint64(_UNLIMITED)).tolist()
    return [value if known else None for value, known in zip(used.tolist(), counted.tolist(), strict=True)], most
