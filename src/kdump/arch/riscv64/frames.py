"""Stack unwinding on riscv64: frame records below s0, and the registers of exceptions between them.

Sources: the RISC-V ELF psABI (frame pointer convention: the caller's s0 and ra are right below s0); Linux
arch/riscv/kernel/stacktrace.c, arch/riscv/include/asm/ptrace.h (struct pt_regs begins as user_regs_struct),
arch/riscv/kernel/entry.S (handle_exception has pt_regs at its stack pointer).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

from kdump.arch import stacks
from kdump.arch.stacks import Frame, KernelView, LostError, Unwound, gathered
from kdump.errors import FormatError

_NAMES: Final = (
    "epc", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7",
    "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6", "status",
)  # fmt: skip
_USER_REGS = struct.Struct("<32Q")
_PT_REGS = struct.Struct("<33Q")
_RECORD = struct.Struct("<QQ")
_PR_REG = 112  # offset of pr_reg in struct elf_prstatus (include/linux/elfcore.h)
_SUPERVISOR = 1 << 8  # SR_SPP: the exception came from the kernel
_EXCEPTIONS: Final = frozenset(("handle_exception", "ret_from_exception"))


class Registers(stacks.Registers):
    """Processor registers by their ABI names, and the status register."""

    __slots__ = ()
    NAMES, PC, SP = _NAMES, "epc", "sp"

    @property
    def user(self) -> bool:
        """Whether the processor was in user mode."""
        return not self["status"] & _SUPERVISOR and not self.pc >> 63


def from_prstatus(note: bytes) -> Registers:
    """Registers of an NT_PRSTATUS note, which has no status. Raises `FormatError` if it is too short."""
    if len(note) < _PR_REG + _USER_REGS.size:
        raise FormatError(f"NT_PRSTATUS of {len(note)} bytes", field="note")
    return Registers((*_USER_REGS.unpack_from(note, _PR_REG), 0))


class Unwinder:
    """Walks stacks of one kernel."""

    def __init__(self, kernel: KernelView) -> None:
        self._read = kernel.virtual.view
        self._symbolizer = kernel.symbolizer

    def from_registers(self, regs: Registers) -> Unwound:
        """The stack of an interrupted context."""
        if regs.user:
            return Unwound([], user=regs)
        return self._unwind(regs.pc, regs.sp, regs["s0"], regs)

    def from_thread(self, thread: Any) -> Unwound:
        """The stack of a task that does not run, from what __switch_to() kept."""
        return self._unwind(int(thread.ra), int(thread.sp), int(thread.s[0]), None)

    def _unwind(self, pc: int, sp: int, fp: int, regs: Registers | None) -> Unwound:
        return gathered(self._walk(pc, sp, fp, regs))

    def _walk(self, pc: int, sp: int, fp: int, regs: Registers | None) -> Iterator[tuple[Frame, Registers | None]]:
        yield Frame(pc, sp, regs), regs
        seen: set[int] = set()
        while True:
            if self._in_exception(pc):
                regs = Registers(_PT_REGS.unpack(self._read(sp, _PT_REGS.size)))
                pc, sp, fp = regs.pc, regs.sp, regs["s0"]
                yield Frame(pc, sp, regs), regs
                continue
            if not fp or self._is_first(pc):
                return
            if fp in seen:
                raise LostError("the stack runs in a circle")
            seen.add(fp)
            following, pc = _RECORD.unpack(self._read(fp - _RECORD.size, _RECORD.size))
            sp, fp = fp, following
            if not pc:
                return
            if not pc >> 63:
                raise LostError(f"the stack leads to {pc:#x}, which is not kernel code")
            yield Frame(pc, sp), None

    def _in_exception(self, pc: int) -> bool:
        symbol = self._symbolizer.at(pc - 1)
        return symbol is not None and symbol.name in _EXCEPTIONS

    def _is_first(self, pc: int) -> bool:
        """Whether this is where a kernel thread begins."""
        symbol = self._symbolizer.at(pc - 1)
        return symbol is not None and symbol.name.startswith("ret_from_fork")
