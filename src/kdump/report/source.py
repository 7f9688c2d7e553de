"""File and line of every frame, from debug information where there is some."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from drgn import Program

from kdump.kernel.kernel import Kernel
from kdump.report.model import Frame, Report, Stack, Stacks

_BUILD = re.compile(r"^/.*/linux[^/]*/(?=\w+/)")  # where a distribution builds: not of the source tree


def annotate(report: Report, kernel: Kernel, program: Program) -> None:
    """Add `source` to every frame: "kernel/sched/core.c:5381 (context_switch)", inlined functions in brackets."""
    verdict = report.verdict
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
    except LookupError:
        return ""
    inlined = [place.name() for place in places][:-1]
    return f"{_BUILD.sub('', places[0].filename)}:{places[0].line}" + (f" ({' < '.join(inlined)})" if inlined else "")
