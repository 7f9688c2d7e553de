"""Blocked tasks: those in uninterruptible sleep (D), grouped by equal stacks, the longest wait first."""

from __future__ import annotations

from kdump.report.context import Context
from kdump.report.logtext import clean
from kdump.report.model import Finding, Frame, Section, Stack, Stacks
from kdump.units import duration_text

TITLE = "Blocked tasks"
NEEDS_DUMP = True
_GROUPS = 40
_LONG = 10.0  # seconds in uninterruptible sleep that deserve to be mentioned first


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    groups: dict[tuple[tuple[str, int], ...], list[tuple[float, str, list[Frame], str]]] = {}
    for task in context.all_tasks:
        if not task.blocked or task.running:
            continue
        unwound = context.tasks.stack(task)
        frames = context.frames(unwound)
        key = tuple((frame.function, frame.offset) for frame in frames)
        waited = context.waiting_seconds(task) or 0.0
        groups.setdefault(key, []).append((waited, f"{clean(task.command)} (pid {task.pid})", frames, unwound.note))
    stacks = []
    for members in sorted(groups.values(), key=lambda found: -max(member[0] for member in found)):
        longest = max(member[0] for member in members)
        title = f"{len(members)} task{'s' if len(members) > 1 else ''}, blocked for {duration_text(longest)}"
        stacks.append(Stack(title, [member[1] for member in members], members[0][2], members[0][3]))
        if longest >= _LONG:
            what = members[0][1] if len(members) == 1 else f"{len(members)} tasks"
            section.findings.append(Finding("warning", f"{what} blocked for {duration_text(longest)}"))
    section.blocks.append(Stacks("blocked", stacks[:_GROUPS]))
    if len(stacks) > _GROUPS:
        section.notes.append(f"{len(stacks) - _GROUPS} more stacks are not shown")
