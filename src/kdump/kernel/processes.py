"""Processes by their address spaces: each once, however many threads share it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kdump.kernel.objects import Objects, Struct
from kdump.kernel.tasks import Tasks
from kdump.memory.virtual import VirtualMemory

if TYPE_CHECKING:
    from kdump.kernel.kernel import Kernel

_KTHREAD = 0x00200000  # PF_KTHREAD: it may have borrowed one
_DEEP = 64
_NAME = 15  # bytes of a thread's name: TASK_COMM_LEN less its NUL


class Process(NamedTuple):
    """A process, by its first thread: `mm` is its struct mm_struct."""

    pid: int
    name: str
    mm: Struct


def processes(objects: Objects, names: Sequence[str] | None = None) -> Iterator[Process]:
    """Every process that has memory of its own; with `names` those of these only.

    A name is that of any of its threads (15 bytes at most), or, from "/" on, a control group's path: its processes, and
    those of the groups below it.
    """
    table = Tasks(objects.kernel).all
    columns = table.columns
    comms = [bytes(raw).split(b"\0")[0].decode("utf-8", "replace") for raw in columns["comm"].tolist()]
    wanted = {name.encode()[:_NAME].decode("utf-8", "replace") for name in names or () if not name.startswith("/")}
    groups = [name.rstrip("/") for name in names or () if name.startswith("/")]
    seen: set[int] = set()
    for row in np.flatnonzero(((columns["flags"] & _KTHREAD) == 0) & (columns["mm"] != 0)).tolist():
        place = int(columns["mm"][row])
        if place in seen:
            continue
        if names is not None and comms[row] not in wanted:
            path = _group(objects, table.tasks[row].struct) if groups else ""
            if not any(path == group or path.startswith(f"{group}/") for group in groups):
                continue
        seen.add(place)
        yield Process(int(columns["tgid"][row]), comms[row], objects.struct("mm_struct", place))


def address_space(kernel: Kernel, pgd: int) -> VirtualMemory:
    """A process's own memory; `pgd` is that of its struct mm_struct. Raises KdumpError if it is not mapped."""
    root = kernel.virtual.translate(pgd)
    # On arm64 the lower half has tables of its own, laid out as the upper half's.
    return VirtualMemory(kernel.memory, kernel.virtual.paging._replace(root=root, upper_only=False, linear=()))


def group_path(objects: Objects, group: Struct) -> str:
    """Path of a control group below its hierarchy's root."""
    node = group.kn
    names: list[str] = []
    for _ in range(_DEEP):
        parent = node.parent if objects.has(node, "parent") else getattr(node, "__parent")
        if not parent:
            break
        names.insert(0, objects.string(node.name))
        node = parent
    return "/" + "/".join(names)


def _group(objects: Objects, task: Struct) -> str:
    """Path of a task's group in the unified hierarchy; "" without one."""
    return group_path(objects, task.cgroups.dfl_cgrp) if objects.has(task, "cgroups") and task.cgroups else ""
