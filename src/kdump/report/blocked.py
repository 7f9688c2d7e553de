"""Tasks in uninterruptible sleep (D), what each waits for, and the chains behind that: found once for every section."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from kdump.kernel.task import Task
from kdump.report.chains import Chain, Chains, name_of
from kdump.report.context import Context
from kdump.report.damage import DAMAGE
from kdump.report.model import Frame
from kdump.report.waits import Wait

LONG = 10.0  # seconds in uninterruptible sleep that deserve to be mentioned first
_TOLD = 40  # things that are waited for whose chains are followed
_LOOKED = 160  # tasks of equal stacks whose waits are looked at one by one


class BlockedTask(NamedTuple):
    """A task, for how many seconds it has waited, its stack, a note on it, and what it waits for."""

    task: Task
    waited: float
    frames: list[Frame]
    note: str
    wait: Wait | None

    @property
    def name(self) -> str:
        """As sentences call it."""
        return name_of(self.task)


class Waiting(NamedTuple):
    """Tasks that wait for one thing; `chain` of the one that has waited longest, None if too many came before."""

    members: list[BlockedTask]
    first: BlockedTask
    wait: Wait
    owner: Task | None
    chain: Chain | None

    @property
    def sentence(self) -> str:
        """Who waits for what, and why; empty without a chain."""
        if self.chain is None:
            return ""
        others = len(self.members) - 1
        if not others:
            return f"{self.first.name} {self.chain.text}"
        return f"{self.first.name} and {others} more {self.chain.text.replace('has waited', 'have waited', 1)}"


class Blocked:
    """`tasks`: all that are blocked; `waiting`: what they wait for, as far as it is known, the longest wait first.

    `lost` says why nothing is known of what they wait for.
    """

    def __init__(self, context: Context) -> None:
        self.lost = ""
        self._context = context
        self._chains = self._follow()
        self.tasks = list(self._all())
        self.waiting: list[Waiting] = []
        try:
            self.waiting.extend(self._waiting())
        except DAMAGE as error:
            self.lost = f"what tasks wait for: {error}"

    def reason(self, pid: int) -> str:
        """Why the task with that PID is blocked, as a sentence without its subject; empty if that is not known."""
        found = (each for each in self.waiting if each.chain and any(member.task.pid == pid for member in each.members))
        return next((each.chain.text for each in found if each.chain), "")

    def _follow(self) -> Chains | None:
        if not (self._context.all_tasks.states == "D").any():
            return None
        try:
            return Chains(self._context)
        except DAMAGE as error:
            self.lost = f"what tasks wait for: {error}"
            return None

    def _all(self) -> Iterator[BlockedTask]:
        """The blocked tasks. Of many tasks with equal stacks, it unwinds one stack and looks at the first waits."""
        context, chains = self._context, self._chains
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
            looked = chains is not None and counts[print_] <= _LOOKED
            wait = chains.assume(task, found, note) if looked and chains is not None else None
            yield BlockedTask(task, context.waiting_seconds(task) or 0.0, found, note, wait)

    def _waiting(self) -> Iterator[Waiting]:
        waiters: dict[tuple[str, int], list[BlockedTask]] = defaultdict(list)
        for found in self.tasks:
            if found.wait:
                waiters[found.wait.key].append(found)
        told = 0
        for members in sorted(waiters.values(), key=lambda members: -max(member.waited for member in members)):
            first = max(members, key=lambda member: member.waited)
            wait, chains = first.wait, self._chains
            if wait is None or chains is None:
                continue
            owner = chains.task(wait.owner) if wait.owner else None
            chain = chains.behind(first.task, first.waited) if told < _TOLD else None
            told += chain is not None
            yield Waiting(members, first, wait, owner, chain)


def blocked(context: Context) -> Blocked:
    """The blocked tasks of a context: the same for everyone who asks."""
    found = context.shared.get(__name__)
    if not isinstance(found, Blocked):
        found = context.shared[__name__] = Blocked(context)
    return found
