"""Tasks: how many in which state, and every process."""

from __future__ import annotations

from collections import Counter

from kdump.report.context import Context
from kdump.report.logtext import clean
from kdump.report.model import Column, Fact, Facts, Section, Table, Value

TITLE = "Tasks"
NEEDS_DUMP = True
_SHOWN = 5000
_STATES = {
    "R": "runnable", "S": "sleeping", "D": "blocked", "T": "stopped", "t": "traced", "Z": "zombie", "X": "dead",
    "P": "parked", "I": "idle kernel threads",
}  # fmt: skip


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    tasks = context.all_tasks
    states = Counter(task.state for task in tasks)
    facts = [Fact("threads", "Threads", len(tasks))]
    facts += [Fact(f"state_{key}", f"{_STATES.get(key, '?')} ({key})", count) for key, count in states.most_common()]
    section.blocks.append(Facts("counts", facts))
    columns = [
        Column("pid", "PID"), Column("ppid", "PPID"), Column("cpu", "CPU"), Column("state", "State"),
        Column("rss", "RSS", "bytes"), Column("command", "Command"),
    ]  # fmt: skip
    rows: list[tuple[Value, ...]] = []
    for task in tasks[:_SHOWN]:
        parent = task.struct.real_parent
        name = clean(task.command)
        rss = None if task.kernel_thread or task.tgid != task.pid else context.resident(task.struct)
        rows.append(
            (
                task.pid,
                parent.tgid if parent else 0,
                task.cpu,
                task.state,
                rss,
                f"[{name}]" if task.kernel_thread else name,
            )
        )
    section.blocks.append(Table("tasks", "", columns, rows, max(0, len(tasks) - _SHOWN)))
