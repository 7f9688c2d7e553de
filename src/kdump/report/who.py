"""Whose work the kernel was doing: command line, user, container of a task."""

from __future__ import annotations

import re

from kdump.errors import KdumpError
from kdump.kernel.objects import Objects, Struct
from kdump.kernel.processes import address_space, group_path
from kdump.kernel.task import Task as KernelTask
from kdump.report.context import Context
from kdump.report.logtext import clean
from kdump.report.model import Task

_LONGEST = 4096
_CONTAINER = re.compile(r"docker|libpod|containerd|crio|kubepods|lxc|machine\.slice|podman")


def describe(context: Context, task: KernelTask, cpu: int | None) -> Task:
    """The facts about a task; its command line only if user pages are in the dump (level 31 leaves them out)."""
    user = int(task.struct.cred.uid.val) if task.struct.cred else None
    line = "" if task.kernel_thread else _command_line(context, task.struct)
    return Task(clean(task.command), task.pid, cpu, user, line, _container(context.objects, task.struct))


def _command_line(context: Context, task: Struct) -> str:
    mm = task.mm
    if not mm:
        return ""
    start, end = int(mm.arg_start), int(mm.arg_end)
    if not 0 < start < end <= start + (1 << 21):
        return ""
    try:
        own = address_space(context.kernel, int(mm.pgd))
        raw = own.read(start, min(end - start, _LONGEST))
    except KdumpError:
        return ""  # user pages were filtered out: nothing to say about it
    return clean(raw.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace"))


def _container(objects: Objects, task: Struct) -> str:
    """The control group that looks like a container's, and the host name inside; empty for a task of the host."""
    path = group_path(objects, task.cgroups.dfl_cgrp) if objects.has(task, "cgroups") and task.cgroups else ""
    own = task.nsproxy.uts_ns if task.nsproxy else None
    name = ""
    if own and int(own) != objects.symbols.get("init_uts_ns"):
        name = objects.string(own.name.nodename)
    if not name and not _CONTAINER.search(path):
        return ""
    return clean(f"{name} ({path})" if name and path else name or path)
