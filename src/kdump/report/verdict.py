"""The verdict: what happened, where, and to whom; from the log, and from the dump what the log does not say."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from kdump.report import frames as names
from kdump.report import kinds, taints, who
from kdump.report.context import Context
from kdump.report.damage import DAMAGE
from kdump.report.model import Frame, Task, Verdict
from kdump.report.oops import Crash, Event
from kdump.report.signature import Parts, coarse, parts, signature

T = TypeVar("T")
_FATAL = frozenset(("panic", "vpanic", "die", "oops_end", "crash_kexec", "__crash_kexec"))
# Kinds whose report is about another task or CPU than the one that panicked: its stack would be somebody else's.
_ELSEWHERE = frozenset(
    ("hung-task", "rcu-stall", "workqueue-lockup", "workqueue-leak", "memory-leak", "device-references")
)
_EXIT = re.compile(r"exitcode=0x([0-9a-f]{1,16})")
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
    guilty = _guilty(event, trace)
    task = _task_of_log(event)
    if context.has_memory and not _of_another(event):
        task = _attempt(context, "the panicking task", lambda: _task_of_dump(context)) or task
    read = event.kind is not kinds.NONE or bool(context.lines) or not context.has_memory
    fatal = crash.fatal or (event.kind is not kinds.NONE and context.crashed)
    made = parts(event.kind, detail, trace, event.symbol)
    return Verdict(
        kind=event.kind.id,
        title=_title(crash, detail, guilty, read),
        explanation=_explanation(crash, guilty, read, fatal, is_log=_is_log(context, crash, trace)),
        signature=signature(made),
        coarse=coarse(made),
        fatal=fatal,
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
        stack_of=_stack_of(context, event, trace, task),
        registers=event.registers,
        code=[event.code] if event.code else [],
        earlier=[found.headline for found in crash.earlier],
    )


def parts_of(context: Context) -> tuple[Crash, list[Frame], Parts]:
    """The crash, its stack and what its signature is made of: needs only the log if that holds a call trace."""
    crash, trace = _evidence(context)
    return crash, trace, parts(crash.event.kind, _detail(crash), trace, crash.event.symbol)


def signature_of(context: Context) -> str:
    """The signature alone, empty if nothing tells the crash apart."""
    return signature(parts_of(context)[2])


def explain(context: Context) -> list[str]:
    """The signature, the coarser key, and in words what they are made of."""
    crash, trace, made = parts_of(context)
    kind = crash.event.kind
    found = signature(made)
    lines = [found or "no signature", f"coarse: {coarse(made) or 'none'}", f"kind: {kind.id} ({kind.meaning})"]
    if made.detail:
        lines.append(f"detail: {made.detail}")
    if not kind.stack:
        return [*lines, "stack: left out, it is chance for this kind"]
    if not made.functions:
        lines.append("functions: none; no frame of the stack can be guilty, so nothing tells this crash from others")
    lines += [f"function {number}: {name}" for number, name in enumerate(made.functions, 1)]
    for frame in trace:
        if names.normalise(frame.function) in made.functions:
            break
        belongs = names.family(frame.function, kind)
        why = f"{belongs.id}: they {belongs.meaning}" if belongs else "before the code that was interrupted"
        lines.append(f"left out: {frame.function} ({why})")
    return lines


def is_fatal(context: Context) -> bool:
    """Whether anything tells that the kernel died of what its log tells, or the dump that it died."""
    crash, _ = _evidence(context)
    return crash.fatal or (crash.event.kind is not kinds.NONE and context.crashed)


def _guilty(event: Event, trace: list[Frame]) -> Frame | None:
    """The guilty frame; where all are machinery the function that the headline names, else the nearest frame."""
    if not event.kind.stack:
        return None
    symbol = event.symbol
    if event.kind.named and symbol is not None and not names.is_reporting(symbol.function):
        return symbol
    place = names.guilty(trace, event.kind)
    if place is not None:
        return trace[place]
    if symbol is not None and names.family(symbol.function, event.kind) is None:
        return symbol
    if event.kind.stuck or event.kind.shared:
        return None  # what was interrupted, or who waits, is not known: what merely waits says nothing
    place = names.nearest(trace, event.kind)
    return trace[place] if place is not None else symbol


def _of_another(event: Event) -> bool:
    """Whether the report is about another task than the one that panicked."""
    return event.kind.id in _ELSEWHERE and event.pid is not None


def _stack_of(context: Context, event: Event, trace: list[Frame], task: Task | None) -> str:
    """Whose stack the verdict shows."""
    if not trace:
        return ""
    if event.frames:
        return event.owner
    cpu = f"CPU {task.cpu}" if task is not None and task.cpu is not None else "the CPU that panicked"
    return f"{cpu}, from memory"


def _evidence(context: Context) -> tuple[Crash, list[Frame]]:
    """The crash and its call trace: the log's, or if that has none the panicking stack.

    Where the log is lost or was overwritten, a stack that passes through panic() or die() still shows a crash.
    """
    crash = context.crash
    event = crash.event
    trace = list(event.frames)
    if not trace and context.has_memory and event.kind.stack and event.kind.id not in _ELSEWHERE:
        running = event.kind is kinds.NONE  # then no CPU has to be named as the one that panicked
        trace = _attempt(context, "the panicking stack", lambda: _dump_frames(context, unless_running=running)) or []
    if event.kind is kinds.NONE and any(names.normalise(frame.function) in _FATAL for frame in trace):
        crash = replace(crash, event=replace(event, kind=kinds.GENERIC_PANIC), fatal=True)
    return crash, trace


def _attempt(context: Context, what: str, call: Callable[[], T]) -> T | None:
    try:
        return call()
    except DAMAGE as error:
        context.problems.append(f"{what} cannot be read: {error}")
        return None


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
    """The detail that distinguishes crashes of one kind, besides their stack."""
    groups = crash.event.groups
    if crash.event.kind.id == "warning":
        where = groups.get("where") or groups.get("place") or ""
        return next((word for path, word in kinds.WARNING_SUBJECTS if where.removeprefix("./").startswith(path)), "")
    detail = next((groups[name] for name in ("what", "other", "limit", "message", "panic") if name in groups), "")
    if crash.event.kind.id == "hung-task" and "dying" in groups:
        return "can't die"
    if crash.event.kind is kinds.BY_ID["init-killed"] and (found := _EXIT.search(detail)):
        code = int(found[1], 16)
        return f"{'by' if code & 0x7F else 'with'} {_exit_text(code)}"
    return detail.strip()


def _exit_text(code: int) -> str:
    """The meaning of an exit code of do_exit(): a signal in its low bits, or else a status."""
    number = code & 0x7F
    return _SIGNALS.get(number, f"signal {number}") if number else f"exit status {code >> 8 & 0xFF}"


def _title(crash: Crash, detail: str, guilty: Frame | None, read: bool) -> str:
    kind, groups = crash.event.kind, crash.event.groups
    values = {"what": detail, "message": detail, "value": groups.get("value", "bad value"), "subject": ""}
    values["cache"] = next((groups[name] for name in ("cache", "slab", "doubly") if name in groups), "slab")
    if kind.id == "warning":
        values["subject"] = f": {detail}" if detail else ""
    elif kind.id in ("kasan", "kmsan") and (access := _access(crash.event)) and " " not in detail:
        values["what"] = f"{detail} {access.capitalize()}" if kind.id == "kasan" else detail
    if not detail and "{what}" in kind.title:
        values["what"] = _STAND_INS.get(kind.id, "") or crash.panic or kind.id.replace("-", " ")
    function = names.normalise(guilty.function) if guilty else ""
    if kind is kinds.NONE and not read:
        return "the kernel's log cannot be read"
    if kind is kinds.GENERIC_PANIC and not detail:
        return "kernel panic" + (f" in {function}" if function else "")
    title = kind.title if function else kind.title.replace(" in {function}", "")
    return title.format(function=function, **values).strip()


# What a title says where the message has no word of its own.
_STAND_INS = {
    "list-corruption": "list",
    "ubsan": "error",
    "machine-check": "logged",
    "out-of-memory": "a process was killed",
}
_NO_LOG = "No line of this text looks like one of a kernel's log."
_QUOTED = " The text has no time stamps and no stack: it may not be a kernel's log."
_NOT_FATAL = " Nothing says that the kernel died of it."


def _is_log(context: Context, crash: Crash, trace: list[Frame]) -> bool:
    """Whether what was read can be a kernel's log: it has stamps, the banner, a panic or a stack.

    A text that only quotes a line of a log has none of them.
    """
    if context.has_memory or crash.panic or trace or crash.event.registers:
        return True
    return any(line.seconds is not None or "Linux version " in line.text for line in context.lines)


def _explanation(crash: Crash, guilty: Frame | None, read: bool, fatal: bool, *, is_log: bool) -> str:
    event = crash.event
    if event.kind is kinds.NONE and not is_log:
        return _NO_LOG
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
    elif kind.id == "warning" and crash.panic.endswith("panic_on_warn set ..."):
        text += ", and was told to panic on a warning"
    elif event.address is not None:
        access = _access(event)
        text += f": {access + ' of ' if access else ''}address {event.address:#x}{_hint(event.address)}"
        text += f"; {event.fault.reason}" if event.fault else ""
    if guilty:
        text += f", in {names.normalise(guilty.function)}()"
        text += f" of module {guilty.module}" if guilty.module else ""
    return text + "." + ("" if is_log else _QUOTED) + ("" if fatal or kind is kinds.NONE else _NOT_FATAL)


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
    """The kind of address, if its value shows it."""
    return next((f", {meaning}" for start, end, meaning in _POISON if start <= address < end), "")


def _access(event: Event) -> str:
    found = re.search(
        r"(?i)\b(read|write|instruction fetch|execute)\b", event.access or (event.fault.access if event.fault else "")
    )
    return found[1].lower() if found else ""
