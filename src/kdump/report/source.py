"""File and line of every frame, and the panicking stack's variables, from debug information where there is some."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import drgn
from drgn import Program
from drgn.helpers.linux.sched import cpu_curr

from kdump.kernel.kernel import Kernel
from kdump.report.context import Context
from kdump.report.logtext import clean
from kdump.report.model import Frame, Report, Section, Stack, Stacks, Text
from kdump.report.program import DRGN_ERRORS

_COLUMNS = 200
_BUILD = re.compile(r"^/.*/linux[^/]*/(?=\w+/)")  # where a distribution builds: not of the source tree


def annotate(report: Report, context: Context, program: Program) -> None:
    """Add `source` to every frame: "kernel/sched/core.c:5381 (context_switch)", inlined functions in brackets.

    And a section `locals`: the variables of each frame of the panicking stack that the compiler has kept.
    """
    kernel, verdict = context.kernel, report.verdict
    frames = _annotated(verdict.frames, kernel, program)
    guilty = next(
        (new for old, new in zip(verdict.frames, frames, strict=True) if old is verdict.guilty), verdict.guilty
    )
    report.verdict = replace(verdict, frames=frames, guilty=guilty)
    for section in report.sections:
        section.blocks = [
            Stacks(block.name, [_stack(stack, kernel, program) for stack in block.stacks])
            if isinstance(block, Stacks)
            else block
            for block in section.blocks
        ]

    report.sections.append(_locals(context, program))


def _locals(context: Context, program: Program) -> Section:
    section = Section("locals", "Local variables of the panicking stack")
    try:
        # The task that ran on the CPU that panicked; drgn takes its registers from the dump's notes.
        trace = program.stack_trace(cpu_curr(program, context.panic_cpu or 0))
        for frame in trace:
            shown = [f"{name} = {_value(frame[name])}" for name in frame.locals() if not frame[name].absent_]
            if shown:
                section.blocks.append(Text(f"frame{len(section.blocks)}", shown, frame.name or hex(frame.pc)))
    except DRGN_ERRORS as error:
        section.error = str(error)
    return section


def _value(value: drgn.Object) -> str:
    try:
        text = value.format_(
            dereference=False, type_name=False, member_type_names=False, element_type_names=False, symbolize=True
        )
    except DRGN_ERRORS as error:
        return f"<{error}>"
    text = clean(" ".join(text.split()))
    return text if len(text) <= _COLUMNS else text[: _COLUMNS - 1] + "…"


def _stack(stack: Stack, kernel: Kernel, program: Program) -> Stack:
    return replace(stack, frames=_annotated(stack.frames, kernel, program))


def _annotated(frames: Sequence[Frame], kernel: Kernel, program: Program) -> list[Frame]:
    out = []
    for place, frame in enumerate(frames):
        address = frame.address or _address(frame, kernel)
        # A return address belongs to the call before it; the first frame and interrupted ones are exact.
        exact = place == 0 or frame.context
        out.append(replace(frame, source=_location(program, address if exact else address - 1)) if address else frame)
    return out


def _address(frame: Frame, kernel: Kernel) -> int:
    """The address of a frame that the log named."""
    found = [] if frame.module else kernel.symbols.addresses(frame.function)
    return found[0] + frame.offset if len(found) == 1 else 0


def _location(program: Program, address: int) -> str:
    try:
        places = program.source_location(address)
    except DRGN_ERRORS:
        return ""
    inlined = [place.name() for place in places][:-1]
    return f"{_BUILD.sub('', places[0].filename)}:{places[0].line}" + (f" ({' < '.join(inlined)})" if inlined else "")
