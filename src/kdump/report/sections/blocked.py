"""Blocked tasks: those in uninterruptible sleep (D), grouped by equal stacks, the longest wait first; what they wait
for, who could end that, and so on, as sentences; and whether the waiting goes round in a circle.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from kdump.kernel.task import Task
from kdump.report.chains import Chain, Chains, name_of
from kdump.report.context import Context
from kdump.report.damage import DAMAGE
from kdump.report.model import Column, Finding, Frame, Section, Stack, Stacks, Table, Text, Value
from kdump.report.waits import Wait
from kdump.units import duration_text

TITLE = "Blocked tasks"
NEEDS_DUMP = True
_GROUPS = 40
_LONG = 10.0  # seconds in uninterruptible sleep that deserve to be mentioned first
_SENTENCES = 20  # chains that are told
_WAITERS = 20  # names of waiters for one lock
_ALIKE = 8  # tasks of equal stacks whose waits are looked at one by one


class _Blocked(NamedTuple):
    task: Task
    waited: float
    frames: list[Frame]
    note: str
    wait: Wait | None

    @property
    def name(self) -> str:
        return name_of(self.task)


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    chains = _chains(context, section)
    blocked = list(_blocked(context, chains))
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
    if blocked and chains is not None:
        _locks(context, section, chains, blocked)


def _chains(context: Context, section: Section) -> Chains | None:
    if not (context.all_tasks.states == "D").any():
        return None
    try:
        return Chains(context)
    except DAMAGE as error:
        section.notes.append(f"what tasks wait for: {error}")
        return None


def _blocked(context: Context, chains: Chains | None) -> Iterator[_Blocked]:
    """Every blocked task. Of very many that are alike one stack is unwound, and the first waits are looked at."""
    threads = context.all_tasks
    known: dict[bytes, tuple[list[Frame], str]] = {}
    counts: dict[bytes, int] = defaultdict(int)
    for task in threads.matching(threads.states == "D"):
        if task.running:
            continue
        print_ = chains.fingerprint(task) if chains is not None else b""
        counts[print_] += 1
        if print_ not in known or not print_:
            unwound = context.tasks.stack(task)
            known[print_] = context.frames(unwound), unwound.note
        found, note = known[print_]
        looked = chains is not None and counts[print_] <= _ALIKE * _SENTENCES
        wait = chains.assume(task, found, note) if looked and chains is not None else None
        yield _Blocked(task, context.waiting_seconds(task) or 0.0, found, note, wait)


def _locks(context: Context, section: Section, chains: Chains, blocked: list[_Blocked]) -> None:
    """What is waited for, by whom, and the chains behind it."""
    waiters: dict[tuple[str, int], list[_Blocked]] = defaultdict(list)
    for found in blocked:
        if found.wait:
            waiters[found.wait.key].append(found)
    ordered = sorted(waiters.values(), key=lambda members: -max(member.waited for member in members))
    lines: list[tuple[Value, ...]] = []
    sentences: list[str] = []
    circles: dict[frozenset[int], str] = {}
    for members in ordered:
        first = max(members, key=lambda member: member.waited)
        wait = first.wait
        if wait is None:
            continue
        holder = chains.task(wait.owner) if wait.owner else None
        held = name_of(holder) if holder else ""
        held = f"readers, the last {held or 'unknown'}" if wait.readers else held
        names = ", ".join(member.name for member in members[:_WAITERS])
        name = wait.what.removeprefix("the ").removeprefix(f"{_KINDS.get(wait.kind, wait.kind)} ")
        lines.append((name, wait.kind, held, len(members), first.waited, names))
        if len(sentences) < _SENTENCES and (chain := chains.behind(first.task, first.waited)):
            sentence = _sentence(first, members, chain)
            sentences.append(sentence)
            context.chains.update((member.task.pid, chain.text) for member in members)
            if chain.circle:
                own = context.objects.address(first.task.struct)
                if chain.tasks[-1] == own:
                    circles.setdefault(frozenset(chain.tasks), sentence)
            elif first.waited >= _LONG or len(members) > 1:
                section.findings.append(Finding("warning", sentence))
    if sentences:
        section.blocks.append(Text("chains", sentences, "What they wait for"))
    if lines:
        columns = [
            Column("lock", "Lock"), Column("kind", "Kind"), Column("owner", "Held by"), Column("waiting", "Waiting"),
            Column("longest", "Longest", "seconds"), Column("waiters", "By"),
        ]  # fmt: skip
        section.blocks.append(Table("locks", "Locks", columns, lines))
    for sentence in circles.values():
        section.findings.insert(0, Finding("critical", f"deadlock: {sentence}"))


def _sentence(first: _Blocked, members: list[_Blocked], chain: Chain) -> str:
    more = f" (and {len(members) - 1} more)" if len(members) > 1 else ""
    return f"{first.name}{more} {chain.text}"


_KINDS = {"percpu_rw_semaphore": "per-CPU rw_semaphore"}
