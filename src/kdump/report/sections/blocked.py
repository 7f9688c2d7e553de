"""Blocked tasks: those in uninterruptible sleep (D), grouped by equal stacks, the longest wait first; what they wait
for, who could end that, and so on, as sentences; and whether the waiting goes round in a circle.
"""

from __future__ import annotations

from collections import defaultdict

from kdump.report.blocked import LONG, BlockedTask, Waiting, blocked
from kdump.report.chains import name_of
from kdump.report.context import Context
from kdump.report.model import Column, Finding, Section, Stack, Stacks, Table, Text, Value
from kdump.units import duration_text

TITLE = "Blocked tasks"
NEEDS_DUMP = True
_GROUPS = 40
_WAITERS = 20  # names of waiters for one lock


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    known = blocked(context)
    if known.lost:
        section.notes.append(known.lost)
    groups: dict[tuple[tuple[str, int], ...], list[BlockedTask]] = defaultdict(list)
    for found in known.tasks:
        groups[tuple((frame.function, frame.offset) for frame in found.frames)].append(found)
    stacks = []
    for members in sorted(groups.values(), key=lambda members: -max(member.waited for member in members)):
        longest = max(member.waited for member in members)
        more = f" and {len(members) - 1} more" if len(members) > 1 else ""
        title = f"{members[0].name}{more}, blocked for {duration_text(longest)}"
        stacks.append(Stack(title, [member.name for member in members], members[0].frames, members[0].note))
        if longest >= LONG and not any(member.wait for member in members):
            what = members[0].name if len(members) == 1 else f"{len(members)} tasks"
            section.findings.append(Finding("warning", f"{what} blocked for {duration_text(longest)}"))
    _chains(context, section, known.waiting)
    _locks(section, known.waiting)
    section.blocks.append(Stacks("blocked", stacks[:_GROUPS]))
    if len(stacks) > _GROUPS:
        section.notes.append(f"{len(stacks) - _GROUPS} more stacks are not shown")


def _chains(context: Context, section: Section, waiting: list[Waiting]) -> None:
    """The chains as sentences; those that are long, of many or a circle are findings."""
    circles: dict[frozenset[int], str] = {}
    sentences = []
    inner = {task for each in waiting if each.chain for task in each.chain.tasks}  # whose reason others' chains tell
    for each in waiting:
        if each.chain is None:
            continue
        sentences.append(each.sentence)
        if each.chain.circle:
            if each.chain.tasks[-1] == context.objects.address(each.first.task.struct):
                circles.setdefault(frozenset(each.chain.tasks), each.sentence)
        elif {context.objects.address(member.task.struct) for member in each.members} <= inner:
            continue
        elif each.first.waited >= LONG or len(each.members) > 1:
            section.findings.append(Finding("warning", each.sentence))
    if sentences:
        section.blocks.append(Text("chains", sentences, "What they wait for", prose=True))
    for sentence in circles.values():
        section.findings.insert(0, Finding("critical", f"deadlock: {sentence}"))


def _locks(section: Section, waiting: list[Waiting]) -> None:
    """The locks that tasks wait for, and the waiters."""
    lines: list[tuple[Value, ...]] = []
    for each in waiting:
        held = name_of(each.owner) if each.owner else ""
        held = f"readers, the last {held or 'unknown'}" if each.wait.readers else held
        names = ", ".join(member.name for member in each.members[:_WAITERS])
        lines.append((each.wait.name, each.wait.kind, held, len(each.members), each.first.waited, names))
    columns = [
        Column("lock", "Waiting for"), Column("kind", "Kind"), Column("owner", "Held by"), Column("waiting", "Tasks"),
        Column("longest", "Longest", "seconds"), Column("waiters", "By"),
    ]  # fmt: skip
    if lines:
        section.blocks.append(Table("locks", "What holds them up", columns, lines))
