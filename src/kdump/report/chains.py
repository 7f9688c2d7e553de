"""The chain behind a hang as a sentence: a task, what it waits for, who holds that, what that one waits for …"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kdump.kernel.task import Task
from kdump.report import frames as names
from kdump.report import kinds
from kdump.report.context import Context
from kdump.report.damage import DAMAGE
from kdump.report.logtext import clean
from kdump.report.model import Frame
from kdump.report.storage import Request
from kdump.report.waits import Wait, Waits
from kdump.units import duration_text

_LONGEST = 12  # links


@dataclass
class Chain:
    """The end of a task's wait: the words after its name, and the tasks on the way, without the first.

    `block` is the super block of the file system that it comes down to, 0 if it comes down to none.
    """

    text: str
    tasks: list[int] = field(default_factory=list)
    circle: bool = False
    block: int = 0


class Chains:
    """Follows waits from task to task. Stacks and waits are read once a task."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waits = Waits(context)
        self._known: dict[int, tuple[list[Frame], str, Wait | None]] = {}

    def look(self, task: Task) -> tuple[list[Frame], str, Wait | None]:
        """A task's stack, a note on it, and what the task waits for."""
        key = self._context.objects.address(task.struct)
        if key not in self._known:
            unwound = self._context.tasks.stack(task)
            found = self._context.frames(unwound)
            asleep = not task.running and task.state not in "RXZ"
            wait = self._waits.awaited(task, [frame.function for frame in found]) if asleep else None
            self._known[key] = found, unwound.note, wait
        return self._known[key]

    def assume(self, task: Task, frames: list[Frame], note: str) -> Wait | None:
        """As `look` of a task whose stack is known already."""
        wait = self._waits.awaited(task, [frame.function for frame in frames])
        self._known[self._context.objects.address(task.struct)] = frames, note, wait
        return wait

    def fingerprint(self, task: Task) -> bytes:
        """Equal for tasks whose stacks hold the same code addresses at the same depths; empty where it is unknown."""
        return self._waits.fingerprint(task)

    def task(self, address: int) -> Task | None:
        """The task at an address, or None."""
        rows = np.flatnonzero(self._context.tasks.all.address == np.uint64(address))
        return self._context.all_tasks[int(rows[0])] if len(rows) else None

    def behind(self, task: Task, waited: float) -> Chain | None:
        """The chain behind a task's wait of so many seconds; None if it is not known what the task waits for."""
        wait = self.look(task)[2]
        if wait is None:
            return None
        start = self._context.objects.address(task.struct)
        chain = Chain("", [])
        parts = [_waits_for(wait, waited)]
        if wait.frozen and waited:
            parts[0] = parts[0].replace("which is frozen", f"frozen for {duration_text(waited)} or longer")
        seen = {start}
        while True:
            chain.block = wait.block or chain.block
            if wait.request is not None:
                parts.append(_with_disk(wait.request, own=wait.kind == "request"))
            if not wait.owner:
                break
            owner = self.task(wait.owner)
            if owner is None:
                break
            chain.tasks.append(wait.owner)
            verb = f"{wait.how} " if not wait.readers else "held by readers, the last of them "
            parts.append(f"{verb}{name_of(owner)}")
            if wait.owner in seen:
                chain.circle = True
                parts.append("which closes the circle" if wait.owner == start else "and so in a circle")
                break
            seen.add(wait.owner)
            following = self._safely(owner)
            if following is None or len(seen) > _LONGEST:
                parts.append(self._doing(owner))
                break
            wait = following
            parts.append(_waits_for(wait, self._context.waiting_seconds(owner), verb="which waits for"))
        chain.text = ", ".join(part for part in parts if part)
        return chain

    def _safely(self, task: Task) -> Wait | None:
        try:
            return self.look(task)[2]
        except DAMAGE:
            return None

    def _doing(self, task: Task) -> str:
        """The activity of a task that waits for nothing known."""
        if task.running:
            return f"which was running on CPU {task.cpu}"
        if task.state == "R":
            return f"which was ready to run on CPU {task.cpu}"
        try:
            found = self.look(task)[0]
        except DAMAGE:
            return ""
        place = names.guilty(found, kinds.BY_ID["hung-task"])
        if place is None or not found[place].function:
            return "which was asleep"
        frame = found[place]
        module = f" [{frame.module}]" if frame.module else ""
        return f"which was asleep in {clean(names.normalise(frame.function))}(){module}"


def name_of(task: Task) -> str:
    """A task as sentences name it."""
    return f"{clean(task.command)} (pid {task.pid})"


def _waits_for(wait: Wait, waited: float | None, verb: str = "waits for") -> str:
    since = f" for {duration_text(waited)}" if waited and verb == "waits for" else ""
    return f"{verb} {wait.what}" if not since else f"has waited{since} for {wait.what}"


def _with_disk(request: Request, *, own: bool) -> str:
    age = f" for {duration_text(request.age)}" if request.age is not None else ""
    if own:
        return f"in flight{age}"
    where = f"at sector {request.sector} of {request.name}"
    return f"for which a {request.operation} {where} has been in flight{age}"
