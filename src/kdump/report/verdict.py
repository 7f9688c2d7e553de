"""The verdict: what happened, where, and to whom; from the log, and from the dump what the log does not say."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from kdump.report import frames as names
from kdump.report import kinds, taints, who
from kdump.report.context import DAMAGE, Context
from kdump.report.model import Frame, Task, Verdict
from kdump.report.oops import Crash, Event
from kdump.report.signature import signature

T = TypeVar("T")
_FATAL = frozenset(("panic", "vpanic", "die", "oops_end", "crash_kexec", "__crash_kexec"))
_EXIT = re.compile(r"exitcode=0x([0-9a-f]+)")
_SIGNALS = {
    4: "SIGILL",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    15: "SIGTERM",
    31: "SIGSYS",
}


def judge(context: Context) -> Verdict:
    """The verdict. Parts that the dump cannot give are left empty and noted in the context's problems."""
    crash, trace = _evidence(context)
    event = crash.event
    detail = _detail(crash)
    place = names.guilty(trace) if event.kind.stack else None
    guilty = trace[place] if place is not None else None
    task = _task_of_log(event)
    if context.has_memory:
        task = _attempt(context, "the panicking task", lambda: _task_of_dump(context)) or task
    read = event.kind is not kinds.NONE or bool(context.lines) or not context.has_memory
    return Verdict(
        kind=event.kind.id,
        title=_title(crash, detail, guilty, read),
        explanation=_explanation(crash, guilty, read),
        signature=signature(event.kind, detail, trace),
        panic=crash.panic,
        headline=event.headline,
        guilty=guilty,
        module=guilty.module if guilty else "",
        task=task,
        uptime=crash.seconds,
        address=event.address,
        access=_access(event),
        taints=_attempt(context, "taints", lambda: _taints(context, event)) or [],
        frames=trace,
        registers=event.registers,
        code=[event.code] if event.code else [],
        earlier=[found.headline for found in crash.earlier],
    )


def signature_of(context: Context) -> str:
    """The signature alone: needs only the log if that holds a call trace."""
    crash, trace = _evidence(context)
    return signature(crash.event.kind, _detail(crash), trace)


def _evidence(context: Context) -> tuple[Crash, list[Frame]]:
    """The crash and its call trace: the log's, or if that has none the panicking stack.

    Where the log is lost or was overwritten, a stack that passes through panic() or die() still tells of a crash.
    """
    crash = context.crash
    event = crash.event
    trace = _log_frames(event)
    if not trace and context.has_memory and event.kind.stack:
        running = event.kind is kinds.NONE  # then no CPU has to be named as the one that panicked
        trace = _attempt(context, "the panicking stack", lambda: _dump_frames(context, unless_running=running)) or []
    if event.kind is kinds.NONE and any(names.normalise(frame.function) in _FATAL for frame in trace):
        crash = replace(crash, event=replace(event, kind=kinds.GENERIC_PANIC))
    return crash, trace


def _attempt(context: Context, what: str, call: Callable[[], T]) -> T | None:
    try:
        return call()
    except DAMAGE as error:
        context.problems.append(f"{what} cannot be read: {error}")
        return None


def _log_frames(event: Event) -> list[Frame]:
    return [*([event.rip] if event.rip else []), *event.frames]


def _dump_frames(context: Context, *, unless_running: bool) -> list[Frame]:
    return [] if unless_running and context.panic_cpu is None else context.frames(context.panic_stack)


def _task_of_log(event: Event) -> Task | None:
    if event.pid is None:
        return None
    return Task(event.comm, event.pid, event.cpu, event.uid)


def _task_of_dump(context: Context) -> Task | None:
    cpu = context.panic_cpu
    running = context.tasks.running().get(cpu) if cpu is not None else None
    if running is None or cpu is None:
        return None
    return who.describe(context, context.tasks.describe(running), cpu)


def _taints(context: Context, event: Event) -> list[str]:
    address = context.kernel.symbols.get("tainted_mask") if context.has_memory else None
    if address is None:
        return taints.explain_letters(event.taint)
    return taints.explain_mask(context.kernel.virtual.u64(address))


def _detail(crash: Crash) -> str:
    """What tells crashes of one kind apart besides their stack."""
    groups = crash.event.groups
    detail = groups.get("what") or groups.get("other") or groups.get("message") or groups.get("panic") or ""
    if crash.event.kind is kinds.BY_ID["init-killed"] and (found := _EXIT.search(detail)):
        code = int(found[1], 16)
        return f"{'by' if code & 0x7F else 'with'} {_exit_text(code)}"
    return detail.strip()


def _exit_text(code: int) -> str:
    """What an exit code as do_exit() has it means: a signal in its low bits, else a status."""
    number = code & 0x7F
    return _SIGNALS.get(number, f"signal {number}") if number else f"exit status {code >> 8 & 0xFF}"


def _title(crash: Crash, detail: str, guilty: Frame | None, read: bool) -> str:
    kind, groups = crash.event.kind, crash.event.groups
    values = {"what": detail, "message": detail, "where": groups.get("where", ""), "cache": groups.get("cache", "")}
    if not detail and "{what}" in kind.title:
        values["what"] = {"list-corruption": "list", "ubsan": "error"}.get(kind.id, crash.panic or "fatal")
    function = names.normalise(guilty.function) if guilty else ""
    if kind is kinds.NONE and not read:
        return "the kernel's log cannot be read"
    if kind is kinds.GENERIC_PANIC and not detail:
        return "kernel panic" + (f" in {function}" if function else "")
    title = kind.title if function else kind.title.replace(" in {function}", "")
    return title.format(function=function, **values).strip()


def _explanation(crash: Crash, guilty: Frame | None, read: bool) -> str:
    event = crash.event
    if event.kind is kinds.NONE and not read:
        return "Without the log nothing can be said about the cause; what else could be read follows."
    kind, groups = event.kind, event.groups
    text = kind.meaning[0].upper() + kind.meaning[1:]
    if kind.id == "soft-lockup" and "duration" in groups:
        text = f"CPU {groups['cpu']} stayed in the kernel for {groups['duration']} s,"
        text += f" in task {groups['comm']} (pid {groups['pid']})"
    elif kind.id == "hung-task" and "duration" in groups:
        text = (
            f"Task {groups['comm']} (pid {groups['pid']}) waited uninterruptibly for more than {groups['duration']} s"
        )
    elif kind.id == "hard-lockup" and "cpu" in groups:
        text = f"CPU {groups['cpu']} ran with interrupts off for too long"
    elif kind.id == "init-killed" and (found := _EXIT.search(crash.panic)):
        code = int(found[1], 16)
        text += f", killed by {_exit_text(code)}" if code & 0x7F else f" with {_exit_text(code)}"
    elif kind.id == "out-of-memory" and "invoker" in groups:
        text += f" when {groups['invoker']} asked for some"
    elif kind.id == "panic":
        text = f"The kernel called panic(): {crash.panic or 'the log that would say why is lost'}"
    elif event.address is not None:
        access = _access(event)
        text += f": {access + ' of ' if access else ''}address {event.address:#x}{_hint(event.address)}"
    if guilty:
        text += f", in {names.normalise(guilty.function)}()"
        text += f" of module {guilty.module}" if guilty.module else ""
    return text + "."


# include/linux/poison.h; LIST_POISON1 and 2 are followed by small offsets into the entry that was deleted.
_POISON = (
    (0xDEAD000000000100, 0xDEAD000000000120, "the poison of a deleted list entry (LIST_POISON1)"),
    (0xDEAD000000000122, 0xDEAD000000000140, "the poison of a deleted list entry (LIST_POISON2)"),
    (0x6B6B6B6B6B6B6000, 0x6B6B6B6B6B6B7000, "memory that was freed (slab poison 0x6b)"),
    (0x5A5A5A5A5A5A5000, 0x5A5A5A5A5A5A6000, "memory that was never written (slab poison 0x5a)"),
    (1, 0x1000, "a member of a structure whose pointer is null"),
    (0xFFFFFFFFFFFFF001, 1 << 64, "an error number used as a pointer"),
)


def _hint(address: int) -> str:
    """What kind of address it is, if its value tells."""
    return next((f", {meaning}" for start, end, meaning in _POISON if start <= address < end), "")


def _access(event: Event) -> str:
    found = re.search(r"(?i)\b(read|write|instruction fetch|execute)\b", event.access)
    return found[1].lower() if found else ""
