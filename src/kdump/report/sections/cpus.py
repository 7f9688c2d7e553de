"""CPUs: what each was running, and its stack."""

from __future__ import annotations

from kdump.report.context import Context
from kdump.report.logtext import clean
from kdump.report.model import Column, Section, Stack, Stacks, Table, Value

TITLE = "CPUs"
NEEDS_DUMP = True
_SHOWN = 64


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    rows: list[tuple[Value, ...]] = []
    stacks: list[Stack] = []
    running = context.tasks.running()
    panicked = context.panic_cpu
    order = sorted(running, key=lambda cpu: (cpu != panicked, cpu))
    section.blocks.append(
        Table(
            "cpus",
            "",
            [Column("cpu", "CPU"), Column("pid", "PID"), Column("task", "Task"), Column("state", "State")],
            rows,
        )
    )
    section.blocks.append(Stacks("stacks", stacks))
    for cpu in order:
        task = context.tasks.describe(running[cpu])
        name = clean(task.command)
        rows.append((cpu, task.pid, name, "panicked" if cpu == panicked else "idle" if task.pid == 0 else "running"))
        if len(stacks) < _SHOWN:
            title = f"CPU {cpu}: {name} (pid {task.pid})" + (", panicked" if cpu == panicked else "")
            stacks.append(context.stack(title, context.tasks.cpu_stack(cpu)))
    if len(order) > _SHOWN:
        section.notes.append(f"stacks of {len(order) - _SHOWN} more CPUs are not shown")
