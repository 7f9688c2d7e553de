"""Stack unwinding on aarch64: frame records linked by x29, and the registers of exceptions between them.

Sources: Arm's procedure call standard (AAPCS64, 6.4.6: a frame record is the caller's x29 and the return address);
Linux arch/arm64/kernel/stacktrace.c, arch/arm64/kernel/entry.S (an exception's struct pt_regs ends in a frame record),
arch/arm64/include/asm/stacktrace/frame.h (since 6.13 that record is zero, and a number behind it says what it is),
arch/arm64/include/asm/pointer_auth.h (signed return addresses).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

from kdump.arch import stacks
from kdump.arch.stacks import Frame, KernelView, LostError, Unwound, gathered
from kdump.errors import FormatError, KdumpError, NotPresentError

_NAMES: Final = (*(f"x{number}" for number in range(31)), "sp", "pc", "pstate")
_USER_REGS = struct.Struct("<34Q")  # struct user_pt_regs, with which struct pt_regs begins
_RECORD = struct.Struct("<QQ")
_PR_REG = 112  # offset of pr_reg in struct elf_prstatus (include/linux/elfcore.h)
_PROLOGUE = 64  # instructions in which a function sets x29 up, if it does
_MODE = 0xF  # PSR_MODE_MASK: 0 is EL0t, user space
_META_REGS = (2).to_bytes(8, "little")  # FRAME_META_TYPE_PT_REGS
_RETURNS: Final = frozenset((0xD65F03C0, 0xD65F0BFF, 0xD50323BF))  # ret, retaa, autiasp: x29 is the caller's again


class Registers(stacks.Registers):
    """Processor registers: x0 to x30, sp, pc, pstate."""

    __slots__ = ()
    NAMES, PC, SP = _NAMES, "pc", "sp"

    @property
    def user(self) -> bool:
        """Whether the processor was in user mode."""
        return self["pstate"] & _MODE == 0


def from_prstatus(note: bytes) -> Registers:
    """Registers of an NT_PRSTATUS note. Raises `FormatError` if it is too short."""
    if len(note) < _PR_REG + _USER_REGS.size:
        raise FormatError(f"NT_PRSTATUS of {len(note)} bytes", field="note")
    return Registers(_USER_REGS.unpack_from(note, _PR_REG))


_Step = tuple[Frame, Registers | None]


class Unwinder:
    """Walks stacks of one kernel."""

    def __init__(self, kernel: KernelView) -> None:
        """Raises `KdumpError` if the kernel's types do not tell where pt_regs has its frame record."""
        self._read = kernel.virtual.view
        self._symbolizer = kernel.symbolizer
        self._signature = int(kernel.vmcoreinfo.numbers.get("KERNELPACMASK", 0)) & (1 << 64) - 1
        self._described_records = bool(kernel.types.has_struct("frame_record_meta"))
        self._record_at: int = kernel.types.struct("pt_regs").members["stackframe"].offset

    def from_registers(self, regs: Registers) -> Unwound:
        """The stack of an interrupted context."""
        if regs.user:
            return Unwound([], user=regs)
        return self._unwind(regs.pc, regs.sp, regs["x29"], regs)

    def from_thread(self, thread: Any) -> Unwound:
        """The stack of a task that does not run: its thread.cpu_context is what cpu_switch_to() kept."""
        context = thread.cpu_context
        found = self._unwind(self._plain(int(context.pc)), int(context.sp), int(context.fp), None)
        kept = [(f"x{number}", int(getattr(context, f"x{number}"))) for number in range(19, 29)]
        return found._replace(switched=(*kept, ("x29", int(context.fp))))

    def _plain(self, pc: int) -> int:
        """A return address without its signature."""
        return pc | self._signature if pc >> 55 & 1 else pc

    def _unwind(self, pc: int, sp: int, fp: int, regs: Registers | None) -> Unwound:
        return gathered(self._walk(pc, sp, fp, regs, set()))

    def _walk(self, pc: int, sp: int, fp: int, regs: Registers | None, seen: set[int]) -> Iterator[_Step]:
        """Every frame, with its registers where an exception left them."""
        yield from self._frame(pc, sp, regs)
        while fp:
            if fp in seen:
                raise LostError("the stack runs in a circle")
            seen.add(fp)
            following, back = _RECORD.unpack(self._read(fp, _RECORD.size))
            if not following and not back:
                here = self._described(fp)
                if here is None:
                    return
                pc, sp, following = here.pc, here.sp, here["x29"]
            else:
                pc, sp = self._plain(back), fp + _RECORD.size
                if not pc >> 55 & 1:
                    raise LostError(f"the stack leads to {pc:#x}, which is not kernel code")
                here = self._interrupted(fp, following, pc)
            yield from self._frame(pc, here.sp if here else sp, here)
            fp = following

    def _frame(self, pc: int, sp: int, regs: Registers | None) -> Iterator[_Step]:
        """A frame, and behind an interrupted one the caller that has no record, if there is such."""
        yield Frame(pc, sp, regs), regs
        if regs is None or regs.user or self._has_record(pc):
            return
        caller = self._plain(regs["x30"])
        if caller >> 55 & 1 and self._symbolizer.at(caller - 1) is not None:
            yield Frame(caller, sp), None

    def _described(self, record: int) -> Registers | None:
        """Registers around a zero record: of an exception (since 6.13), or of user space; None if it only ends."""
        found = self._registers_at(record)
        if found.user:  # a thread that has not been to user space has no address there
            return found if found.pc else None
        if not self._described_records:
            return None
        return found if self._read(record + _RECORD.size, 8) == _META_REGS else None

    def _interrupted(self, record: int, following: int, pc: int) -> Registers | None:
        """Registers around a record of a kernel before 6.13, None if it is a function's: they repeat what it says."""
        try:
            found = self._registers_at(record)
        except NotPresentError:
            return None
        return found if found.pc == pc and found["x29"] == following and not found.user else None

    def _registers_at(self, record: int) -> Registers:
        return Registers(_USER_REGS.unpack(self._read(record - self._record_at, _USER_REGS.size)))

    def _has_record(self, pc: int) -> bool:
        """Whether the function that is at `pc` has x29 point to its own frame record. A bad address has none.

        Without one, x30 is the return address: the function has not saved it yet, never does, or has restored it.
        """
        symbol = self._symbolizer.at(pc)
        if symbol is None:
            return False
        try:
            if int.from_bytes(self._read(pc, 4), "little") in _RETURNS:
                return False
            size = min((pc - symbol.address) // 4, _PROLOGUE) * 4
            code = struct.unpack(f"<{size // 4}I", self._read(symbol.address, size))
        except KdumpError:
            return True  # nothing is added that is not certain
        return pc - symbol.address > 4 * _PROLOGUE or any(word & 0xFFC003FF == 0x910003FD for word in code)
