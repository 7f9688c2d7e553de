"""Stack unwinding on x86-64 with the kernel's own unwind tables (ORC), read from its memory.

Source: Documentation/arch/x86/orc-unwinder.rst, arch/x86/include/asm/orc_types.h and arch/x86/kernel/unwind_orc.c.
An entry says, for every instruction from an address on, where the caller's stack pointer, frame pointer and return
address are. Its bits were moved twice (6.3 added `signal`, 6.4 replaced `end` by a type): BTF's struct orc_entry tells
which layout a kernel has. 7.x numbers the registers anew: the entries of functions' first instructions tell.
"""

from __future__ import annotations

import bisect
import contextlib
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from kdump.arch import stacks
from kdump.arch.stacks import Frame, KernelView, Unwound
from kdump.errors import FormatError, KdumpError, NotPresentError


def call(size: int) -> Entry:
    """The row of an instruction whose caller's stack pointer is `size` bytes above its own."""
    return Entry(size, 0, SP, _UNDEFINED, CALL, False)


class OrcPlace(NamedTuple):
    """Where unwind tables are (of addresses and of entries), and how many entries they have."""

    addresses: int
    entries: int
    length: int


# Order of struct pt_regs (arch/x86/include/asm/ptrace.h), which is also that of NT_PRSTATUS' registers.
REGISTERS = (
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di", "orig_ax",
    "ip", "cs", "flags", "sp", "ss",
)  # fmt: skip
_PT_REGS = struct.Struct("<21Q")
_IRET = struct.Struct("<5Q")  # ip, cs, flags, sp, ss: the tail of pt_regs, all that the processor itself pushes
_LIMIT = 256  # frames of one stack
_MAX_ENTRIES = 1 << 24
_SCAN = 256  # words searched for a return address where there are no unwind entries

# Where the caller's stack pointer comes from (ORC_REG_*), and what is there (ORC_TYPE_*).
_UNDEFINED, PREV_SP, _DX, _DI, BP, SP, _R10, _R13, BP_INDIRECT, SP_INDIRECT, _AX = range(11)
NAMED = {_DX: "dx", _DI: "di", _R10: "r10", _R13: "r13", _AX: "ax"}
# 7.x numbers the registers anew. Types do not tell; a function's first instruction does: its caller's stack pointer is
# SP + 8, whatever the number of SP.
_NUMBERINGS = {
    5: tuple(range(10)),
    3: (_UNDEFINED, _AX, _DX, SP, BP, _DI, _R10, _R13, PREV_SP, SP_INDIRECT, BP_INDIRECT),
}
_ENTRANCES = ("panic", "schedule", "do_exit", "vfs_read", "kthread")
_END, CALL, REGS, REGS_PARTIAL = 1, 2, 3, 4


class Registers(stacks.Registers):
    """Processor registers by the kernel's names."""

    __slots__ = ()
    NAMES, PC, SP = REGISTERS, "ip", "sp"

    @property
    def user(self) -> bool:
        """Whether the processor was in user mode."""
        return self["cs"] & 3 == 3


class Entry(NamedTuple):
    """One row of the tables, with our numbers of registers."""

    sp_offset: int
    bp_offset: int
    sp_reg: int
    bp_reg: int
    type: int
    signal: bool


class _Part:
    """Unwind entries of vmlinux or one module: `count` start addresses, sorted, and as many entries.

    An address is stored relative to its own place. Tables are several MB of which a stack needs little, so they are
    read where the search looks.
    """

    def __init__(self, kernel: KernelView, start: int, end: int, place: OrcPlace) -> None:
        if not 0 < place.length <= _MAX_ENTRIES:
            raise FormatError(f"{place.length} entries", field="ORC")
        self.start, self.end, self.place = start, end, place
        self._objects = kernel.objects

    def __len__(self) -> int:
        return self.place.length

    def __getitem__(self, index: int) -> int:
        at = self.place.addresses + 4 * index
        relative: int = self._objects.signed(at)
        return at + relative

    def covers(self, pc: int, size: int) -> memoryview | None:
        """The entry of `size` bytes for an instruction."""
        index = bisect.bisect_right(self, pc) - 1
        return self._objects.bytes(self.place.entries + size * index, size) if index >= 0 else None


class OrcTable:
    """Unwind entries of the kernel image and its modules; a module's are read when first needed."""

    def __init__(self, kernel: KernelView) -> None:
        """Raises `KdumpError` if the kernel has no such tables or no types to read them by."""
        self._kernel = kernel
        symbols = kernel.symbols
        names = ("__start_orc_unwind_ip", "__stop_orc_unwind_ip", "__start_orc_unwind")
        start, stop, entries = (symbols.get(name) for name in names)
        if start is None or stop is None or entries is None:
            raise KdumpError(
                "the kernel has no ORC unwind tables",
                why="it was built without CONFIG_UNWINDER_ORC or for another processor",
            )
        layout = kernel.types.struct("orc_entry")
        self.size = layout.size
        bits = {name: (member.offset * 8 + member.shift, member.bits) for name, member in layout.members.items()}
        self._fields: dict[str, tuple[int, int]] = {
            name: (place - 32, (1 << width) - 1) for name, (place, width) in bits.items() if place >= 32
        }
        self._old_types = "end" in bits
        self._registers: tuple[int, ...] = tuple(range(16))
        place = OrcPlace(start, entries, (stop - start) // 4)
        text, end = symbols.get("_stext") or symbols.address("_text"), symbols.get("_etext") or stop
        self._parts = [_Part(kernel, text, max(end, symbols.get("_einittext") or 0), place)]
        self._modules: list[_Part] | None = None
        self._found: dict[int, Entry | None] = {}
        self._registers = self._numbering()

    def _numbering(self) -> tuple[int, ...]:
        """Our numbers of the registers, by the kernel's."""
        seen = set()
        for name in _ENTRANCES:
            address = self._kernel.symbols.get(name)
            entry = self._entry(self._parts[0], address) if address is not None else None
            if entry is not None and entry.sp_offset == 8 and entry.type == CALL:
                seen.add(entry.sp_reg)
        names = sorted(seen)
        found = _NUMBERINGS.get(seen.pop()) if len(seen) == 1 else None
        if found is None:
            raise KdumpError(
                "the kernel's ORC unwind tables cannot be read",
                why=f"at the start of functions they name register {names} as the stack pointer",
            )
        return found + (_UNDEFINED,) * (16 - len(found))

    def find(self, pc: int) -> Entry | None:
        """The entry for an instruction, None for code that has none."""
        if pc not in self._found:
            self._found[pc] = self._find(pc)
        return self._found[pc]

    def unwinds(self, pc: int) -> bool:
        """Whether the tables tell an instruction's caller."""
        entry = self.find(pc)
        return entry is not None and entry.type != _UNDEFINED

    def _find(self, pc: int) -> Entry | None:
        for part in self._parts:
            if part.start <= pc < part.end:
                return self._entry(part, pc)
        if self._modules is None:
            self._modules = self._module_parts()
        for part in self._modules:
            if part.start <= pc < part.end:
                try:
                    return self._entry(part, pc)
                except KdumpError:
                    return None  # its pages are not in the dump: callers are guessed, and marked so
        return None

    def _module_parts(self) -> list[_Part]:
        parts = []
        for module in self._kernel.modules:
            unwind = _place(module)
            if unwind is not None and unwind.length:
                parts += [_Part(self._kernel, start, end, unwind) for start, end in module.text]
        return parts

    def rows(self) -> Iterator[tuple[bytes, bytes, int, int]]:
        """Whole tables: relative addresses, entries, where the addresses lie, the end of the code. Unreadable: none."""
        if self._modules is None:
            self._modules = self._module_parts()
        for part in (*self._parts, *self._modules):
            place = part.place
            with contextlib.suppress(NotPresentError):
                addresses = bytes(self._kernel.virtual.view(place.addresses, 4 * place.length))
                entries = bytes(self._kernel.virtual.view(place.entries, self.size * place.length))
                yield addresses, entries, place.addresses, part.end

    def _entry(self, part: _Part, pc: int) -> Entry | None:
        raw = part.covers(pc, self.size)
        return None if raw is None else self.decode(raw)

    def decode(self, raw: bytes | memoryview) -> Entry:
        """One entry (`size` bytes)."""
        sp_offset, bp_offset = struct.unpack_from("<hh", raw)
        word = int.from_bytes(raw[4:], "little")

        def bits(name: str) -> int:
            shift, mask = self._fields[name]
            return word >> shift & mask

        kind = bits("type")
        if self._old_types:
            # CALL, REGS and REGS_PARTIAL were 0, 1, 2; `end` or an undefined stack pointer ended a stack.
            kind = _END if bits("end") else _UNDEFINED if not bits("sp_reg") else kind + CALL
        signal = bool(bits("signal")) if "signal" in self._fields else kind in (REGS, REGS_PARTIAL)
        names = self._registers
        return Entry(sp_offset, bp_offset, names[bits("sp_reg")], names[bits("bp_reg")], kind, signal)


def _place(module: Any) -> OrcPlace | None:
    """Where a module's unwind tables are, None if the kernel has none for modules."""
    if not module.objects.has(module.struct, "arch.num_orcs"):
        return None
    arch = module.struct.arch
    return OrcPlace(int(arch.orc_unwind_ip), int(arch.orc_unwind), int(arch.num_orcs))


def registers(raw: bytes | memoryview) -> Registers:
    """Registers out of 168 bytes in the order of struct pt_regs."""
    return Registers(_PT_REGS.unpack_from(raw))


def from_prstatus(note: bytes) -> Registers:
    """Registers of an NT_PRSTATUS note; pr_reg is at byte 112 (include/linux/elfcore.h)."""
    if len(note) < 112 + _PT_REGS.size:
        raise FormatError(f"NT_PRSTATUS of {len(note)} bytes", field="note")
    return registers(note[112:])


class Unwinder:
    """Walks stacks of one kernel."""

    def __init__(self, kernel: KernelView, table: OrcTable | None = None) -> None:
        """Raises `KdumpError` if the kernel has no unwind tables."""
        self._read = kernel.virtual.view
        self._table = table or OrcTable(kernel)
        self._symbolizer = kernel.symbolizer

    def _word(self, address: int) -> int:
        return int.from_bytes(self._read(address & 0xFFFFFFFFFFFFFFFF, 8), "little")

    def from_registers(self, regs: Registers) -> Unwound:
        """The stack of an interrupted context."""
        if regs.user:
            return Unwound([], user=regs)
        return self._walk(regs["ip"], regs["sp"], regs["bp"], regs)

    def from_thread(self, thread: Any) -> Unwound:
        """The stack of a task that does not run, from its struct thread_struct."""
        return self.from_switch(int(thread.sp))

    def from_switch(self, sp: int) -> Unwound:
        """The same: `sp` is its thread.sp, at a struct inactive_task_frame.

        Source: arch/x86/include/asm/switch_to.h: r15, r14, r13, r12, bx, bp, return address.
        """
        try:
            frame = self._read(sp, 56)
        except NotPresentError as error:
            return Unwound([], False, str(error))
        *kept, pc = struct.unpack("<7Q", frame)
        found = self._walk(pc, sp + 56, kept[-1], None)
        return found._replace(switched=tuple(zip(("r15", "r14", "r13", "r12", "bx", "bp"), kept, strict=True)))

    def _walk(self, pc: int, sp: int, bp: int, regs: Registers | None) -> Unwound:
        frames = [Frame(pc, sp, regs)]
        exact, full = regs is not None, regs
        note = ""
        seen = {(pc, sp)}
        try:
            while len(frames) < _LIMIT:
                entry = self._table.find(pc if exact else pc - 1)
                if entry is None or entry.type == _UNDEFINED:
                    found = self._recover(pc, sp, bp)
                    if found is None:
                        return Unwound(frames, False, f"no unwind information at {pc:#x}")
                    pc, sp, bp, proven = found
                    exact, full = False, None
                    note = note if proven else "a caller was guessed from the stack"
                    frames.append(Frame(pc, sp))
                    continue
                if entry.type == _END:
                    return Unwound(frames, not note, note)
                exact = entry.signal
                base = self._previous_sp(entry, sp, bp, full)
                here: Registers | None = None
                if entry.type == CALL:
                    pc, sp, before = self._word(base - 8), base, None
                elif entry.type == REGS:
                    here = before = registers(self._read(base, _PT_REGS.size))
                else:
                    # Only what the processor pushed; the other registers are as before, if they are known.
                    kept = full.values[:16] if full else (0,) * 16
                    here, before = Registers(kept + _IRET.unpack(self._read(base, _IRET.size))), full
                if here is not None:
                    pc, sp = here["ip"], here["sp"]
                    if here.user:
                        return Unwound(frames, not note, note, here)
                bp = self._previous_bp(entry, base, bp, before)
                full = before
                if (pc, sp) in seen:
                    return Unwound(frames, False, "the stack runs in a circle")
                seen.add((pc, sp))
                if not pc >> 47:
                    return Unwound(frames, False, f"the stack leads to {pc:#x}, which is not kernel code")
                frames.append(Frame(pc, sp, here))
        except NotPresentError as error:
            return Unwound(frames, False, str(error))
        return Unwound(frames, False, f"cut off after {_LIMIT} frames")

    def _recover(self, pc: int, sp: int, bp: int) -> tuple[int, int, int, bool] | None:
        """The caller where there are no unwind entries: (pc, sp, bp, proven), None if the stack shows none.

        Such code is hand-made (__crash_kexec, which saves the registers we start from), generated (BPF), or no code at
        all (a call through a bad pointer). A return address follows a call instruction; it is proven if that calls the
        very function we are in.
        """
        symbol = self._symbolizer.at(pc)
        candidates: list[tuple[int, int]] = []  # (place of a return address, bp of its frame)
        if symbol is None:
            candidates.append((sp, bp))
        if sp <= bp < sp + _SCAN * 32 and bp % 8 == 0:
            candidates.append((bp + 8, self._try_word(bp) or 0))
        guess = None
        for place, saved in [*candidates, *((place, bp) for place in range(sp, sp + 8 * _SCAN, 8))]:
            caller = self._try_word(place)
            if caller is None:
                break
            target = self._call_before(caller)
            if target is None:
                continue
            if symbol and target == symbol.address:
                return caller, place + 8, saved, True
            if guess is None and (place, saved) in candidates:
                guess = (caller, place + 8, saved, False)
        return guess

    def _try_word(self, address: int) -> int | None:
        try:
            return self._word(address)
        except NotPresentError:
            return None

    def _call_before(self, address: int) -> int | None:
        """Target of the call instruction that ends at `address`, 0 if it is indirect, or None."""
        if not address >> 47 or self._table.find(address - 1) is None:
            return None
        try:
            code = self._read(address - 7, 7)
        except NotPresentError:
            return None
        if code[2] == 0xE8:  # call rel32
            return (address + int.from_bytes(code[3:7], "little", signed=True)) & 0xFFFFFFFFFFFFFFFF
        # call r/m64: opcode FF with /2 in the ModRM byte; its length depends on the addressing mode.
        forms = ((5, 0xC0), (4, 0x40), (3, 0x40), (1, 0x80), (0, 0x80), (5, 0x00), (1, 0x00))
        return 0 if any(code[at] == 0xFF and code[at + 1] & 0xF8 == mode | 0x10 for at, mode in forms) else None

    def _previous_sp(self, entry: Entry, sp: int, bp: int, full: Registers | None) -> int:
        if entry.sp_reg == SP:
            return sp + entry.sp_offset
        if entry.sp_reg == BP:
            return bp + entry.sp_offset
        if entry.sp_reg == SP_INDIRECT:
            return self._word(sp) + entry.sp_offset
        if entry.sp_reg == BP_INDIRECT:
            return self._word(bp + entry.sp_offset)
        if entry.sp_reg in NAMED and full:
            return full[NAMED[entry.sp_reg]]
        raise NotPresentError(sp, 8, virtual=True, why=f"the caller's stack pointer is in register {entry.sp_reg}")

    def _previous_bp(self, entry: Entry, base: int, bp: int, full: Registers | None) -> int:
        if entry.bp_reg == PREV_SP:
            return self._word(base + entry.bp_offset)
        if entry.bp_reg == BP:
            return self._word(bp + entry.bp_offset)
        return full["bp"] if full else bp
