"""CPUs: what each was running, and its stack."""

from __future__ import annotations

from kdump.report.context import Context
from kdump.report.logtext import clean
from kdump.report.model import Column, Finding, Section, Stack, Stacks, Table, Value
from kdump.units import duration_text

TITLE = "CPUs"
NEEDS_DUMP = True
_SHOWN = 64
_BEHIND = 5.0  # seconds without a tick on a busy CPU


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    rows: list[tuple[Value, ...]] = []
    stacks: list[Stack] = []
    running = context.tasks.running()
    panicked = context.panic_cpu
    columns = [
        Column("cpu", "CPU"), Column("pid", "PID"), Column("task", "Task"), Column("on_cpu", "On CPU for", "seconds"),
        Column("behind", "Clock behind", "seconds"), Column("runnable", "Runnable"), Column("state", "State"),
    ]  # fmt: skip
    section.blocks.append(Table("cpus", "", columns, rows))
    section.blocks.append(Stacks("stacks", stacks))
    for cpu in sorted(running, key=lambda cpu: (cpu != panicked, cpu)):
        task = context.tasks.describe(running[cpu])
        queue = context.objects.per_cpu("runqueues", cpu)
        name = clean(task.command)
        state = "panicked" if cpu == panicked else "idle" if task.pid == 0 else "running"
        # A CPU without ticks lets its clock stand still: an idle one may, a busy one does so with interrupts off.
        behind = max(context.now - int(queue.clock), 0) / 1e9
        rows.append((cpu, task.pid, name, context.waiting_seconds(task), behind, int(queue.nr_running), state))
        if state != "idle" and behind > _BEHIND:
            text = f"CPU {cpu} took no timer tick for {duration_text(behind)}, in {name} (pid {task.pid})"
            section.findings.append(Finding("critical", text))
        if len(stacks) < _SHOWN:
            title = f"CPU {cpu}: {name} (pid {task.pid})" + (", panicked" if cpu == panicked else "")
            stacks.append(context.stack(title, context.tasks.cpu_stack(cpu)))
    if len(running) > _SHOWN:
        section.notes.append(f"stacks of {len(running) - _SHOWN} more CPUs are not shown")
