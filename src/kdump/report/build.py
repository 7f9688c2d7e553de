"""Makes a report: the verdict, then every section. A section that fails says so and affects no other."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable
from dataclasses import replace
from types import ModuleType

import numpy as np

from kdump.arch.stacks import Unwound
from kdump.errors import KdumpError
from kdump.report import code, kinds, sections
from kdump.report.context import Context
from kdump.report.damage import DAMAGE, fault
from kdump.report.model import Report, Section, Verdict
from kdump.report.pointers import describe
from kdump.report.verdict import judge

_HANGS = frozenset(("hung-task",))  # kinds whose cause may be what a blocked task waits for


def build(context: Context, source: str, *, short: bool = False, only: Iterable[str] = ()) -> Report:
    """The report of a context. `short`: the sections that the capture kernel has room for; `only`: these sections."""
    started = time.monotonic()
    verdict = judge(context)
    if not short:
        try:
            verdict = replace(verdict, code=code.around(context))
        except DAMAGE as error:
            context.problems.append(f"the instructions cannot be read: {error}")
        except Exception as error:  # noqa: BLE001 -- the report goes on, and says whose fault it was
            context.problems.append(f"the instructions: {fault(error)}")
        if context.described:
            verdict = _with_values(verdict, context)
    report = Report(source, "text", context.crash.release, "", 0, verdict)
    if context.has_memory:
        info = context.kernel.vmcoreinfo
        report.format, report.incomplete = context.kernel.dump.format, context.kernel.dump.incomplete
        report.kernel, report.build_id, report.crash_time = info.release, info.build_id, info.crash_time
        # On its way into the capture kernel a kernel notes the time (crash_save_vmcoreinfo() in kernel/vmcore_info.c).
        panicked = verdict.panic or verdict.kind == kinds.GENERIC_PANIC.id
        report.live = bool(info.release) and not info.crash_time and not panicked
        if report.live and verdict.kind == kinds.NONE.id:
            report.verdict = replace(verdict, title="a running kernel", explanation="It had not crashed.")
    wanted = list(only) or (sections.SHORT if short else sections.ALL)
    report.sections = [make(name, context) for name in wanted]
    report.verdict = _with_chain(report.verdict, context)
    report.problems = context.problems
    report.seconds = time.monotonic() - started
    return report


def _with_values(verdict: Verdict, context: Context) -> Verdict:
    """The verdict with what its stack's functions were called with, and what its registers point to."""
    frames = verdict.frames
    try:
        unwound = _stack_of(verdict, context)
        context.find_arguments(unwound)
        told = {(frame.function, frame.offset): frame.arguments for frame in context.frames(unwound)}
        known = [(frame, told.get((frame.function, frame.offset), "")) for frame in frames]
        frames = [replace(frame, arguments=text) if text else frame for frame, text in known]
    except ImportError:
        pass  # no disassembler: `code` has said so
    except DAMAGE as error:
        context.problems.append(f"arguments of the stack's functions: {error}")
    except Exception as error:  # noqa: BLE001 -- as above
        context.problems.append(f"arguments of the stack's functions: {fault(error)}")
    found = describe(context, verdict.registers)
    free = [f"{name} points to {target.words}" for name, target in found.items() if target.free]
    explanation = f"{verdict.explanation} {'; '.join(free)}." if free else verdict.explanation
    pointers = {name: target.words for name, target in found.items()}
    return replace(verdict, frames=frames, pointers=pointers, explanation=explanation)


def _stack_of(verdict: Verdict, context: Context) -> Unwound:
    """The stack that the verdict is about: of the task that hung, else of the CPU that panicked."""
    pid = context.crash.event.pid
    if verdict.kind in _HANGS and pid is not None:
        rows = np.flatnonzero(context.tasks.all.columns["pid"] == pid)
        if len(rows):
            return context.tasks.stack(context.all_tasks[int(rows[0])])
    return context.panic_stack


def _with_chain(verdict: Verdict, context: Context) -> Verdict:
    """The verdict on a task that hung, with the reason why."""
    pid = context.crash.event.pid
    if verdict.kind not in _HANGS or pid is None or not context.described:
        return verdict
    from kdump.report.blocked import blocked

    try:
        reason = blocked(context).reason(pid)
    except DAMAGE as error:
        context.problems.append(f"what the task waits for: {error}")
        return verdict
    return replace(verdict, explanation=f"{verdict.explanation} It {reason}.") if reason else verdict


def make(name: str, context: Context) -> Section:
    """Make one section; an error in it becomes its text."""
    module = importlib.import_module(f"{sections.__name__}.{name}")
    section = Section(name, module.TITLE)
    started = time.monotonic()
    if module.NEEDS_DUMP and not context.has_memory:
        section.error = "needs a dump; there is only the kernel's log"
        return section
    if module.NEEDS_DUMP and not context.described:
        section.error = "needs the kernel's symbols and types, which cannot be read"
        return section
    _run(module, context, section)
    section.seconds = time.monotonic() - started
    return section


def _run(module: ModuleType, context: Context, section: Section) -> None:
    known = len(context.objects.problems) if context.described else 0
    try:
        module.collect(context, section)
    except DAMAGE as error:
        section.error = _sentence(error)
    except Exception as error:  # noqa: BLE001 -- the other sections are made, and this one says whose fault it was
        section.error = fault(error)
    if context.described:
        section.notes += context.objects.problems[known:]


def _sentence(error: BaseException) -> str:
    if isinstance(error, KdumpError):
        return str(error)
    if isinstance(error, KeyError) and error.args:
        name = str(error.args[0])
        return name if " " in name else f"this kernel has no {name}"
    return f"{type(error).__name__}: {error}"
