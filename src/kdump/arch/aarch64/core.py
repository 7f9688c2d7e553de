"""Registers of a process as its core has them.

Sources: arch/arm64/include/uapi/asm/ptrace.h (struct user_pt_regs, user_fpsimd_state), asm/processor.h (thread_struct's
`uw`), include/uapi/linux/elf.h (numbers of notes).
"""

from __future__ import annotations

import struct
from typing import Any, Final

from kdump.arch.architecture import CoreNote
from kdump.arch.stacks import KernelView, Registers

_NT_FPREGSET, _NT_ARM_TLS = 2, 0x401
_FPSIMD: Final = 32 * 16 + 16  # v0 to v31, FPSR, FPCR, padding


def general(registers: Registers) -> bytes:
    """pr_reg: 34 words."""
    return struct.pack("<34Q", *registers.values)


def saved(kernel: KernelView, thread: Any) -> list[CoreNote]:
    """Notes of what the kernel saved of a task that did not run: floating point, and the thread's pointer."""
    objects = kernel.objects
    if not objects.has(thread, "uw.fpsimd_state") or not objects.has(thread, "uw.tp_value"):
        return []
    uw = thread.uw
    floating = bytes(objects.bytes(objects.address(uw.fpsimd_state), _FPSIMD))
    pointer = int(uw.tp_value).to_bytes(8, "little")
    return [("CORE", _NT_FPREGSET, floating), ("LINUX", _NT_ARM_TLS, pointer)]
