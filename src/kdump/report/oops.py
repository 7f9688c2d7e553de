"""Finds the crash in a kernel log: which message is the cause, and what the kernel printed with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from kdump.report import kinds
from kdump.report.kinds import Kind
from kdump.report.logtext import Line
from kdump.report.model import Frame

_PANIC = re.compile(r"Kernel panic - not syncing: ?(?P<message>.*)")
_END = re.compile(r"---\[ end (?:trace|Kernel panic)|^={60,}$")
_CPU = re.compile(
    r"CPU: ?(?P<cpu>\d+) (?:UID: (?P<uid>\d+) )?PID: (?P<pid>\d+) (?:UID: (?P<uid2>\d+) )?Comm: (?P<comm>.*?)"
    r" +(?:Kdump: loaded +)?"
    r"(?P<taint>Not tainted|Tainted: (?P<flags>[A-Z ]+?)(?:, .*?)?|G\b.*?) +(?P<release>\d+\.\S+)"
)
# 6.12 and later spell the flags out: "Tainted: [O]=OOT_MODULE, [E]=UNSIGNED_MODULE".
_TAINTED = re.compile(r"Tainted: (?P<flags>(?:\[[A-Z]\]=[A-Z_]+(?:, )?)+)")
_TASK = re.compile(r"task:(?P<comm>.{1,15}?) +state:(?P<state>\S+) .*?pid:(?P<pid>\d+)")
_FRAME = re.compile(
    r"^ *(?:\[<[0-9a-f]+>\] )?(?P<unsure>\? )?(?P<function>[A-Za-z_$][\w.$]*)"
    r"\+0x(?P<offset>[0-9a-f]+)/0x(?P<size>[0-9a-f]+)"
    r"(?: \[(?P<module>[\w-]+)[^\]]*\])?(?: \([A-Z]+\))?$"
)
_RIP = re.compile(r"RIP: (?P<cs>[0-9a-f]{4}):(?:\[<[0-9a-f]+>\] )?(?P<where>\S.*)$")
_PC = re.compile(r"^pc : (?P<where>\S.*)$")  # arm64
_WHERE = re.compile(
    r"(?P<function>[A-Za-z_$][\w.$]*)\+0x(?P<offset>[0-9a-f]+)/0x(?P<size>[0-9a-f]+)(?: \[(?P<module>[\w-]+)[^\]]*\])?"
)
_REGISTER = re.compile(
    r"\b(R[A-DS][XIP]|R\d\d|R[DS]I|RBP|RSP|CR2|EFLAGS|ORIG_RAX): ?(?:[0-9a-f]{4}:)?([0-9a-f]{8,16})\b"
)
_CODE = re.compile(r"^ *Code: (?P<bytes>(?:<?[0-9a-f]{2}>? ?)+)$")
_ACCESS = re.compile(r"#PF: (?P<access>.*)|(?P<kasan>(?:Read|Write) of size \d+) at addr (?P<address>[0-9a-f]+)")
_OOPS_NUMBER = re.compile(r"\[#(\d+)\]")
_TRACE = re.compile(r"^ *(?:Call [Tt]race|Backtrace|.*Call Trace):")
_CUT = re.compile(r"-{8,}\[ cut here \]-{8,}")
# What may stand between two frames: stack and context marks, addresses without a name, registers of an interrupted
# context.
_INSIDE = re.compile(
    r"^ *(?:</?[A-Z#]+>|\? 0x[0-9a-f]+|0x[0-9a-f]+|RIP:|RSP:|R[A-Z0-9]{2}:|Code:|CR2:|[DEFS]S:|PKRU:|EFLAGS:|ORIG_RAX:"
    r"|\? |$)"
)
_WINDOW = 400  # lines that belong to one report at most


@dataclass
class Event:
    """One crash report in the log: the line that announces it, and what follows."""

    kind: Kind
    index: int
    headline: str
    groups: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    cpu: int | None = None
    pid: int | None = None
    uid: int | None = None
    comm: str = ""
    taint: str = ""
    release: str = ""
    rip: Frame | None = None
    frames: list[Frame] = field(default_factory=list)
    registers: dict[str, int] = field(default_factory=dict)
    code: str = ""
    access: str = ""
    address: int | None = None


@dataclass
class Crash:
    """What the log says about the crash. `panic` is empty when the kernel did not say "Kernel panic"."""

    event: Event
    panic: str
    seconds: float | None
    earlier: list[Event]


def find(lines: Sequence[Line]) -> Crash:
    """The crash in a log; its event's kind is `kinds.NONE` if there is none."""
    # A serial log goes on with the capture kernel or the next boot: the crash is in the last boot that tells of one.
    boots = _boots(lines)
    chosen = next((boot for boot in reversed(boots) if _panic(boot)[0] is not None), None)
    if chosen is None:
        fatal = (boot for boot in reversed(boots) if any(event.kind.oops for event in _events(boot)))
        chosen = next(fatal, boots[-1])
    return _find(chosen)


def _boots(lines: Sequence[Line]) -> list[Sequence[Line]]:
    starts = [index for index, line in enumerate(lines) if line.text.startswith("Linux version ")]
    edges = [0, *(start for start in starts if start), len(lines)]
    return [lines[start:end] for start, end in pairwise(edges)]


def _find(lines: Sequence[Line]) -> Crash:
    events = list(_events(lines))
    panic_at, panic = _panic(lines)
    if not events and panic_at is None:
        return Crash(Event(kinds.NONE, len(lines), ""), "", None, [])
    end = len(lines) if panic_at is None else panic_at
    before = [event for event in events if event.index <= end]
    cause = _cause(before, panic, panic_at, lines)
    _details(cause, lines, panic_at)
    seconds = lines[panic_at].seconds if panic_at is not None else cause.seconds
    return Crash(cause, panic, seconds, [event for event in _distinct(before, lines) if event.index < cause.index])


def _panic(lines: Sequence[Line]) -> tuple[int | None, str]:
    """Index and message of the first panic."""
    for index, line in enumerate(lines):
        if "Kernel panic" in line.text and (match := _PANIC.search(line.text)):
            return index, match["message"].strip()
    return None, ""


def _events(lines: Sequence[Line]) -> Iterator[Event]:
    for index, line in enumerate(lines):
        if not kinds.HINT.search(line.text):
            continue
        for kind, pattern in kinds.HEADLINES:
            match = pattern.search(line.text)
            if match:
                groups = {name: value for name, value in match.groupdict().items() if value}
                yield Event(kind, index, line.text.strip(), groups, line.seconds)
                break


def _bursts(events: Sequence[Event], lines: Sequence[Line]) -> list[list[Event]]:
    """Events grouped by report: a report ends at its end mark, or where the log falls silent for a second."""
    bursts: list[list[Event]] = []
    for event in events:
        if bursts and not _apart(bursts[-1][-1], event, lines):
            bursts[-1].append(event)
        else:
            bursts.append([event])
    return bursts


def _apart(first: Event, second: Event, lines: Sequence[Line]) -> bool:
    if second.index - first.index > _WINDOW:
        return True
    if first.seconds is not None and second.seconds is not None and second.seconds - first.seconds > 1:
        return True
    return any(_END.search(line.text) for line in lines[first.index : second.index])


def _distinct(events: Sequence[Event], lines: Sequence[Line]) -> list[Event]:
    return [burst[0] for burst in _bursts(events, lines)]


def _cause(events: Sequence[Event], panic: str, panic_at: int | None, lines: Sequence[Line]) -> Event:
    """The event that made the kernel panic.

    What panic() says decides: it names the kind itself, or says that an oops was fatal, or is a caller's own text.
    Without a panic (an oops goes straight to the capture kernel) it is the last report. Of a report's headlines
    the first is the most telling: "list_del corruption" comes before "kernel BUG at", which comes before "invalid
    opcode".
    """
    bursts = _bursts(events, lines)
    if panic_at is None:
        fatal = [burst for burst in bursts if any(event.kind.oops for event in burst)]
        return (fatal or bursts)[-1][0]
    for kind, pattern in kinds.PANICS:
        match = pattern.match(panic)
        if not match:
            continue
        groups = {name: value for name, value in match.groupdict().items() if value}
        own = [event for event in events if event.kind is kind]
        if kind.id == "warning":
            # panic_on_warn: whatever warned last, be it WARN(), KASAN or UBSAN.
            own = [bursts[-1][0]] if bursts else []
        if own:
            # Lockups are announced until one panics: the last is it. Hung tasks are reported in one go: the first.
            last = [event for event in own if event in bursts[-1]] if kind.id == "hung-task" else own[-1:]
            return _with((last or own[-1:])[0], groups)
        return Event(kind, panic_at, panic, groups, lines[panic_at].seconds)
    if kinds.AFTER_OOPS.search(panic) and bursts:
        fatal = [burst for burst in bursts if any(event.kind.oops for event in burst)]
        return (fatal or bursts)[-1][0]
    return Event(kinds.GENERIC_PANIC, panic_at, panic, {"message": panic}, lines[panic_at].seconds)


def _with(event: Event, groups: dict[str, str]) -> Event:
    event.groups = groups | event.groups
    return event


def _details(event: Event, lines: Sequence[Line], panic_at: int | None) -> None:
    """Read what the kernel printed with an event: task, registers, code and the call trace."""
    start = event.index
    # Blocks in the order they were printed; what panic() prints afterwards fills only what is still missing.
    _read_block(event, lines[start : min(start + _WINDOW, panic_at if panic_at and panic_at > start else len(lines))])
    if panic_at is not None:
        _read_block(event, lines[panic_at : panic_at + _WINDOW])


def _read_block(event: Event, block: Sequence[Line]) -> None:
    """Fill what is still missing of an event from the lines of one report, which ends where another begins."""
    wants_trace, wants_registers = not event.frames, not event.registers
    tracing = in_registers = False
    for number, (_, text) in enumerate(block):
        if number and (_END.search(text) or (event.frames and _CUT.search(text))):
            break
        _read_line(event, text)
        if match := _RIP.search(text) or _PC.search(text):
            kernel = match.re is _PC or int(match["cs"], 16) & 3 == 0
            # One after the trace has begun belongs to an outer context: an interrupted one, or user space.
            if kernel and event.rip is None and not event.frames:
                event.rip = _frame(_WHERE.search(match["where"]))
                in_registers = wants_registers
            else:
                in_registers = False
                outer = _frame(_WHERE.search(match["where"])) if kernel and tracing else None
                if outer:
                    event.frames.append(replace(outer, context="exception"))
        if in_registers:
            for name, value in _REGISTER.findall(text):
                event.registers.setdefault(name.lower(), int(value, 16))
        if _TRACE.match(text):
            tracing, in_registers = wants_trace and not event.frames, False
        elif tracing and (match := _FRAME.match(text)):
            found = None if match["unsure"] else _frame(match)
            if found:
                event.frames.append(found)
        elif tracing and event.frames and not _INSIDE.match(text):
            tracing = False
    if event.address is None and "address" in event.groups:
        event.address = int(event.groups["address"], 16)
    if event.address is not None and event.registers and event.kind.id in ("null-dereference", "page-fault"):
        event.registers["cr2"] = event.address  # what is printed may already be of a later fault


def _read_line(event: Event, text: str) -> None:
    """What stands on one line wherever it is: the task, the access, the code."""
    if event.pid is None and (match := _CPU.search(text)):
        _task(event, match, text)
    elif event.pid is None and (match := _TASK.search(text)):
        event.comm, event.pid = match["comm"].strip(), int(match["pid"])
    if not event.access and (match := _ACCESS.search(text)):
        event.access = match["access"] or match["kasan"]
        if match["address"]:
            event.address = int(match["address"], 16)
    if not event.code and not event.frames and event.rip is not None and (match := _CODE.match(text)):
        event.code = match["bytes"].strip()


def _task(event: Event, match: re.Match[str], text: str) -> None:
    event.cpu, event.pid, event.comm = int(match["cpu"]), int(match["pid"]), match["comm"]
    user = match["uid"] or match["uid2"]
    event.uid = int(user) if user else None
    spelled = _TAINTED.search(text)
    event.taint = "" if match["taint"].startswith("Not") else (match["flags"] or "").replace(" ", "")
    if spelled:
        event.taint = "".join(re.findall(r"\[([A-Z])\]=", spelled["flags"]))
    event.release = match["release"]


def _frame(match: re.Match[str] | None) -> Frame | None:
    if match is None:
        return None
    return Frame(match["function"], int(match["offset"], 16), int(match["size"], 16), match["module"] or "")
