"""Finds the crash in a kernel log: which message is the cause, and what the kernel printed with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kdump.report import details, kinds
from kdump.report.details import Event
from kdump.report.logtext import Line

__all__ = ["Crash", "Event", "find"]

_PANIC = re.compile(r"Kernel panic - not syncing: ?(?P<message>.*)")
_END = re.compile(r"---\[ end (?:trace|Kernel panic)|^={60,}$")
_CHAIN = 10  # seconds within which one report brings about the next
_BANNER = re.compile(r"^Linux version (?P<release>\S+) ")  # init/version.c


@dataclass
class Crash:
    """The crash according to the log. `panic` is empty when the kernel did not say "Kernel panic".

    `fatal` says whether anything tells that the kernel died: a panic, an oops, or a crash that somebody asked for.
    `boot` has the lines of the boot that the crash is in, `release` the kernel that ran then, if the log says it.
    """

    event: Event
    panic: str
    seconds: float | None
    earlier: list[Event]
    boot: Sequence[Line]
    fatal: bool = False

    @property
    def release(self) -> str:
        """What the report of the crash says, else the banner of its boot."""
        if self.event.release:
            return self.event.release
        banner = next((found for line in self.boot if (found := _BANNER.search(line.text))), None)
        return banner["release"] if banner else ""


def find(lines: Sequence[Line]) -> Crash:
    """The crash in a log; its event's kind is `kinds.NONE` if there is none."""
    # A serial log goes on with the capture kernel or the next boot: the crash is in the last boot that has one.
    boots = _boots(lines)
    chosen = next((boot for boot in reversed(boots) if _panic(boot)[0] is not None), None)
    if chosen is not None:
        return _find(chosen, list(_events(chosen)))
    told = [(boot, list(_events(boot))) for boot in boots]
    fatal = [each for each in told if any(event.kind.oops for event in each[1])]
    any_kind = [each for each in told if each[1]]
    return _find(*(fatal or any_kind or told)[-1])


def _boots(lines: Sequence[Line]) -> list[Sequence[Line]]:
    starts = [index for index, line in enumerate(lines) if line.text.startswith("Linux version ")]
    edges = [0, *(start for start in starts if start), len(lines)]
    return [lines[start:end] for start, end in pairwise(edges)]


def _find(lines: Sequence[Line], events: Sequence[Event]) -> Crash:
    panic_at, panic = _panic(lines)
    if not events and panic_at is None:
        return Crash(Event(kinds.NONE, len(lines), ""), "", None, [], lines)
    end = len(lines) if panic_at is None else panic_at
    bursts = _bursts([event for event in events if event.index <= end], lines)
    cause = _cause(bursts, panic, panic_at, lines)
    details.read(cause, lines, _following(cause, events, lines), panic_at)
    seconds = lines[panic_at].seconds if panic_at is not None else cause.seconds
    earlier = [burst[0] for burst in bursts if burst[0].index < cause.index]
    own = next((burst for burst in bursts if any(event is cause for event in burst)), [])
    fatal = panic_at is not None or _dies(own)
    return Crash(cause, panic, seconds, earlier, lines, fatal)


def _panic(lines: Sequence[Line]) -> tuple[int | None, str]:
    """Index and message of the first panic."""
    for index, line in enumerate(lines):
        if "Kernel panic" in line.text and (match := _PANIC.search(line.text)):
            return index, match["message"].strip()
    return None, ""


def _events(lines: Sequence[Line]) -> Iterator[Event]:
    for index, line in enumerate(lines):
        found = kinds.headline(line.text) if line.text else None
        if found:
            yield Event(found[0], index, line.text.strip(), found[1], line.seconds, line.caller)


def _following(cause: Event, events: Sequence[Event], lines: Sequence[Line]) -> int:
    """Where the report of an event ends at the latest: the next report, or for hung tasks the next task."""
    last = cause
    for event in events:
        if event.index <= cause.index or event.caller != cause.caller:
            continue
        if _apart(last, event, lines) or (event.kind is cause.kind and event.kind.id == "hung-task"):
            return event.index
        last = event
    return len(lines)


def _bursts(events: Sequence[Event], lines: Sequence[Line]) -> list[list[Event]]:
    """Events grouped by report: a report ends at its end mark, or where the log falls silent for a second.

    Where the log says who printed, reports of different printers are apart although they interleave.
    """
    bursts: list[list[Event]] = []
    latest: dict[str, list[Event]] = {}
    for event in events:
        burst = latest.get(event.caller)
        if burst is not None and not _apart(burst[-1], event, lines):
            burst.append(event)
        else:
            burst = [event]
            bursts.append(burst)
        latest[event.caller] = burst
    return bursts


def _apart(first: Event, second: Event, lines: Sequence[Line]) -> bool:
    if second.index - first.index > details.WINDOW:
        return True
    if first.seconds is not None and second.seconds is not None and second.seconds - first.seconds > 1:
        return True
    between = lines[first.index : second.index]
    return any(_END.search(line.text) for line in between if line.caller == second.caller)


def _dies(burst: Sequence[Event]) -> bool:
    """Whether a report is of what die() reports."""
    return any(event.kind.oops for event in burst)


def _cause(bursts: Sequence[list[Event]], panic: str, panic_at: int | None, lines: Sequence[Line]) -> Event:
    """The event that made the kernel panic.

    What panic() says decides: it names the kind itself, or says that an oops was fatal, or is a caller's own text.
    Without a panic (an oops goes straight to the capture kernel) it is the first of the last chain of reports: what
    follows within seconds is mostly a consequence. Of a report's headlines the first is the most telling: "list_del
    corruption" comes before "kernel BUG at", which comes before "invalid opcode".
    """
    if panic_at is None:
        fatal = [burst for burst in bursts if _dies(burst)]
        return _chain(fatal or bursts)[0]
    for kind, pattern in kinds.PANICS:
        match = pattern.match(panic)
        if not match:
            continue
        groups = {name: value for name, value in match.groupdict().items() if value}
        own = [event for burst in bursts for event in burst if event.kind is kind]
        if kind.id == "warning":
            # panic_on_warn: whatever warned last: WARN(), KASAN or UBSAN.
            own = [_by(lines[panic_at].caller, bursts)[0]] if bursts else []
        if kind.id == "double-fault":
            # It may happen while a page fault is handled, which is then the cause.
            own = [burst[0] for burst in bursts if any(event.kind is kind for event in burst)]
        if own:
            # Lockups are announced until one panics: the last is it. Hung tasks are reported in one go: the first.
            last = [event for event in bursts[-1] if event.kind is kind] if kind.id == "hung-task" else own[-1:]
            return _with((last or own[-1:])[0], groups)
        return Event(kind, panic_at, panic, groups, lines[panic_at].seconds, lines[panic_at].caller)
    if kinds.AFTER_OOPS.search(panic) and bursts:
        fatal = [burst for burst in bursts if _dies(burst)]
        return _by(lines[panic_at].caller, fatal or bursts)[0]
    return Event(
        kinds.GENERIC_PANIC, panic_at, panic, {"message": panic}, lines[panic_at].seconds, lines[panic_at].caller
    )


def _by(caller: str, bursts: Sequence[list[Event]]) -> list[Event]:
    """The last report by who panicked, else the last of all."""
    own = [burst for burst in bursts if burst[0].caller == caller]
    return (own or bursts)[-1]


def _chain(bursts: Sequence[list[Event]]) -> list[Event]:
    """The first report of the last chain: reports that follow each other within seconds."""
    place = len(bursts) - 1
    while place:
        before, after = bursts[place - 1][-1].seconds, bursts[place][0].seconds
        if before is not None and after is not None and after - before > _CHAIN:
            break
        place -= 1
    return bursts[place]


def _with(event: Event, groups: dict[str, str]) -> Event:
    event.groups = groups | event.groups
    return event
