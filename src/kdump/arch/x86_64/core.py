"""Registers of a process as its core has them.

Sources: arch/x86/include/asm/user_64.h (struct user_regs_struct: pt_regs, then the segments), asm/fpu/types.h
(struct fpstate, since 5.16; its legacy part is what FXSAVE writes).
"""

from __future__ import annotations

import struct
from typing import Any, Final

from kdump.arch.architecture import CoreNote
from kdump.arch.stacks import KernelView, Registers

_SEGMENTS: Final = ("fsbase", "gsbase", "ds", "es", "fsindex", "gsindex")  # of struct thread_struct
_NT_FPREGSET, _FXSAVE = 2, 512


def general(registers: Registers, thread: Any) -> bytes:
    """pr_reg: 27 words."""
    segments = (int(getattr(thread, name)) for name in _SEGMENTS)
    return struct.pack("<27Q", *registers.values, *segments)


def floating_point(kernel: KernelView, thread: Any) -> list[CoreNote]:
    """A note with the legacy part of a task's saved FPU state; none where that lies elsewhere."""
    objects = kernel.objects
    if not objects.has(thread, "fpu.fpstate") or not thread.fpu.fpstate:
        return []
    return [("CORE", _NT_FPREGSET, bytes(objects.bytes(objects.address(thread.fpu.fpstate.regs), _FXSAVE)))]
