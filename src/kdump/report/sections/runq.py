"""Run queues: the tasks that were ready to run on each CPU and did not run, the longest wait first.

Source: include/linux/sched.h: `on_rq` is 1 for a task in a run queue, `sched_info.last_queued` when it came there.
"""

from __future__ import annotations

import numpy as np

from kdump.kernel.task import Task
from kdump.report.context import Context
from kdump.report.logtext import clean
from kdump.report.model import Column, Finding, Section, Table, Value
from kdump.units import duration_text

TITLE = "Run queues"
NEEDS_DUMP = True
_SHOWN = 200
_QUEUED = 1  # TASK_ON_RQ_QUEUED
_LONG = 5.0  # seconds that a ready task should not wait


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    objects = context.objects
    ready: dict[int, list[tuple[float, Task]]] = {cpu: [] for cpu in objects.cpus("online")}
    on_queue = context.tasks.all.columns["on_rq"]
    for row in np.flatnonzero(on_queue == _QUEUED).tolist():
        task = context.all_tasks[row]
        if not task.running:
            ready.setdefault(task.cpu, []).append((_waited(context, task), task))
    queues: list[tuple[Value, ...]] = []
    tasks: list[tuple[Value, ...]] = []
    for cpu, found in ready.items():
        found.sort(key=lambda each: -each[0])
        queue = objects.per_cpu("runqueues", cpu)
        throttled = int(queue.rt.rt_throttled) if objects.has(queue, "rt.rt_throttled") else 0
        longest = found[0][0] if found else None
        queues.append((cpu, int(queue.nr_running), len(found), longest, int(queue.nr_switches), bool(throttled)))
        tasks += [(cpu, task.pid, clean(task.command), int(task.struct.prio) - 120, waited) for waited, task in found]
        if longest is not None and longest >= _LONG:
            who = f"{clean(found[0][1].command)} (pid {found[0][1].pid})"
            many = f"{len(found)} tasks, the first {who}," if len(found) > 1 else who
            text = f"{many} waited for CPU {cpu} for {duration_text(longest)}"
            section.findings.append(Finding("warning", text))
        if throttled:
            section.findings.append(Finding("warning", f"real-time tasks of CPU {cpu} had used up their share"))
    columns = [
        Column("cpu", "CPU"), Column("runnable", "Runnable"), Column("waiting", "Waiting"),
        Column("longest", "Longest", "seconds"), Column("switches", "Switches"), Column("throttled", "RT throttled"),
    ]  # fmt: skip
    section.blocks.append(Table("queues", "", columns, queues))
    columns = [
        Column("cpu", "CPU"), Column("pid", "PID"), Column("task", "Task"), Column("nice", "Priority"),
        Column("waited", "Waited", "seconds"),
    ]  # fmt: skip
    section.blocks.append(Table("ready", "Ready to run", columns, tasks[:_SHOWN], max(0, len(tasks) - _SHOWN)))


def _waited(context: Context, task: Task) -> float:
    if not context.objects.has(task.struct, "sched_info.last_queued"):
        return 0.0
    queued = int(task.struct.sched_info.last_queued)
    return max(context.now - queued, 0) / 1e9 if queued else 0.0
