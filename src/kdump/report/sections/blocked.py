"""Blocked tasks: those in uninterruptible sleep (D), grouped by equal stacks, the longest wait first; the locks they
wait for, who holds those, and whether the waiting goes round in a circle.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from kdump.kernel.locks import Locks, Wait
from kdump.kernel.tasks import Task
from kdump.report.context import DAMAGE, Context
from kdump.report.logtext import clean
from kdump.report.model import Column, Finding, Frame, Section, Stack, Stacks, Table, Value
from kdump.units import duration_text

TITLE = "Blocked tasks"
NEEDS_DUMP = True
_GROUPS = 40
_LONG = 10.0  # seconds in uninterruptible sleep that deserve to be mentioned first


class _Blocked(NamedTuple):
    task: Task
    waited: float
    frames: list[Frame]
    note: str
    wait: Wait | None

    @property
    def name(self) -> str:
        return f"{clean(self.task.command)} (pid {self.task.pid})"


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    blocked = _blocked(context, section)
    groups: dict[tuple[tuple[str, int], ...], list[_Blocked]] = defaultdict(list)
    for found in blocked:
        groups[tuple((frame.function, frame.offset) for frame in found.frames)].append(found)
    stacks = []
    for members in sorted(groups.values(), key=lambda members: -max(member.waited for member in members)):
        longest = max(member.waited for member in members)
        title = f"{len(members)} task{'s' if len(members) > 1 else ''}, blocked for {duration_text(longest)}"
        stacks.append(Stack(title, [member.name for member in members], members[0].frames, members[0].note))
        if longest >= _LONG and not any(member.wait for member in members):
            what = members[0].name if len(members) == 1 else f"{len(members)} tasks"
            section.findings.append(Finding("warning", f"{what} blocked for {duration_text(longest)}"))
    section.blocks.append(Stacks("blocked", stacks[:_GROUPS]))
    if len(stacks) > _GROUPS:
        section.notes.append(f"{len(stacks) - _GROUPS} more stacks are not shown")
    if blocked:
        _locks(context, section, blocked)


def _blocked(context: Context, section: Section) -> list[_Blocked]:
    threads = context.all_tasks
    sleeping = [task for task in threads.matching(threads.states == "D") if not task.running]
    locks: Locks | None = None
    try:
        locks = Locks(context.objects, context.tasks.all.columns["stack"].tolist()) if sleeping else None
    except DAMAGE as error:
        section.notes.append(f"locks: {error}")
    out = []
    for task in sleeping:
        unwound = context.tasks.stack(task)
        frames = context.frames(unwound)
        wait = locks.awaited(task, [frame.function for frame in frames]) if locks else None
        out.append(_Blocked(task, context.waiting_seconds(task) or 0.0, frames, unwound.note, wait))
    return out


def _locks(context: Context, section: Section, blocked: list[_Blocked]) -> None:
    """The locks that are waited for, and the findings about them."""
    rows = dict(zip(context.tasks.all.address.tolist(), range(len(context.all_tasks)), strict=True))
    waiters: dict[Wait, list[_Blocked]] = defaultdict(list)
    for found in blocked:
        if found.wait:
            waiters[found.wait].append(found)
    lines: list[tuple[Value, ...]] = []
    for wait, members in waiters.items():
        longest = max(member.waited for member in members)
        holder = context.all_tasks[rows[wait.owner]] if wait.owner in rows else None
        symbol = context.kernel.symbolizer.at(wait.address)
        name = symbol.name if symbol and symbol.name and symbol.address == wait.address else f"{wait.address:#x}"
        held = f"{clean(holder.command)} (pid {holder.pid})" if holder else ""
        held = f"readers, the last {held or 'unknown'}" if wait.readers else held
        lines.append((name, wait.kind, held, len(members), longest, ", ".join(member.name for member in members[:20])))
        if longest >= _LONG or len(members) > 1:
            what = members[0].name if len(members) == 1 else f"{len(members)} tasks"
            text = f"{what} blocked for {duration_text(longest)} on the {wait.kind} {name}"
            section.findings.append(Finding("warning", text + (f", held by {held}" if held else "")))
    if lines:
        columns = [
            Column("lock", "Lock"), Column("kind", "Kind"), Column("owner", "Held by"), Column("waiting", "Waiting"),
            Column("longest", "Longest", "seconds"), Column("waiters", "By"),
        ]  # fmt: skip
        section.blocks.append(Table("locks", "Locks", columns, lines))
    for circle in _circles({context.objects.address(found.task.struct): found for found in blocked}):
        names = [found.name for found in circle]
        text = f"{names[0]} waits for a lock of " + ", which waits for one of ".join([*names[1:], names[0]])
        section.findings.insert(0, Finding("critical", f"deadlock: {text}"))


def _circles(blocked: dict[int, _Blocked]) -> list[list[_Blocked]]:
    """Tasks that wait for each other, each circle once."""
    circles: list[list[_Blocked]] = []
    done: set[int] = set()
    for start in blocked:
        path: list[int] = []
        at = start
        while at in blocked and at not in done:
            done.add(at)
            path.append(at)
            wait = blocked[at].wait
            at = wait.owner if wait and not wait.readers else 0
        if at in path:
            circles.append([blocked[member] for member in path[path.index(at) :]])
    return circles
