"""The effect of x86-64 instructions on the values of a call, for `kdump.arch.arguments`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from kdump.arch.arguments import ArgumentEngine, Held, Instruction, NotFollowedError, State, Value, put, write_slot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kdump.arch.stacks import KernelView, Unwound

__capture_omits__ = ("capstone",)

_NAMES = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
_CLOBBERED = ("ax", "cx", "dx", "si", "di", "r8", "r9", "r10", "r11")
_ARGUMENTS = ("di", "si", "dx", "cx", "r8", "r9")
_WHOLE = {("r" + name if not name.startswith("r") else name): name for name in _NAMES}
_HALF = {("e" + name if not name.startswith("r") else name + "d"): name for name in _NAMES}
_PARTS = {
    **{name: name for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")},
    **{f"{letter}{part}": f"{letter}x" for letter in "abcd" for part in "lh"},
    "sil": "si", "dil": "di", "bpl": "bp", "spl": "sp",
    **{f"r{number}{part}": f"r{number}" for number in range(8, 16) for part in "wb"},
}  # fmt: skip


class Engine(ArgumentEngine):
    """Runs over x86-64 functions of one kernel; an instruction's `code` is capstone's."""

    # System V ABI, AMD64 supplement, 3.2
    IN_ORDER: ClassVar[tuple[str, ...]] = ("di", "si", "dx", "cx", "r8", "r9")
    KEPT: ClassVar[tuple[str, ...]] = ("bx", "bp", "r12", "r13", "r14", "r15")
    OTHERS: ClassVar[tuple[str, ...]] = ("ax", "r10", "r11")
    DEPTH: ClassVar[int] = -8  # the return address

    def __init__(self, kernel: KernelView) -> None:
        """Raises `ImportError` if there is no disassembler."""
        import capstone

        super().__init__(kernel)
        self._capstone = capstone
        self._engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self._engine.detail = True

    def base(self, unwound: Unwound, number: int, state: State) -> int | None:
        """See `ArgumentEngine.base`."""
        del state
        frames = unwound.frames
        if number + 1 >= len(frames) or frames[number + 1].registers:
            return None  # the outermost, or one that an interrupt entered: no caller
        return frames[number + 1].sp

    def decode(self, code: bytes, start: int) -> Iterator[Instruction]:
        """See `ArgumentEngine.decode`."""
        return (Instruction(each.address, each.size, each) for each in self._engine.disasm(code, start))

    def is_call(self, each: Instruction) -> bool:
        """See `ArgumentEngine.is_call`."""
        return bool(each.code.mnemonic == "call")

    def branch(self, each: Instruction) -> int | None:
        """See `ArgumentEngine.branch`."""
        code = each.code
        if not code.mnemonic.startswith("j") or code.operands[0].type != self._capstone.x86.X86_OP_IMM:
            return None
        return int(code.operands[0].imm) & (1 << 64) - 1

    def goes_on(self, each: Instruction, held: Held) -> bool:
        """See `ArgumentEngine.goes_on`."""
        del held
        name = each.code.mnemonic
        if name.startswith("j") and each.code.operands[0].type != self._capstone.x86.X86_OP_IMM:
            raise NotFollowedError  # a jump to where only the running kernel knows: any instruction may come after it
        # WARN() goes on behind ud2.
        return name not in ("ret", "retf", "iretq", "ud1", "int3", "hlt", "jmp")

    def takes_stack(self, each: Instruction) -> bool:
        """See `ArgumentEngine.takes_stack`."""
        if each.code.mnemonic != "lea":
            return False
        return any(part in each.code.op_str.split(",", 1)[1] for part in ("rsp", "rbp"))

    def step(self, each: Instruction, held: Held, start: int, *, taken: bool) -> None:
        """See `ArgumentEngine.step`."""
        code = each.code
        name, operands = code.mnemonic, code.operands
        x86 = self._capstone.x86
        depth = held["sp"][1] if "sp" in held else None
        if name == "call":
            if each.address - start in (0, 4) and self._traces(code):  # ftrace keeps all registers
                return
            for register in _CLOBBERED:
                held.pop(register, None)
            if taken:
                self.forget_slots(held, saved=True)
        elif name in ("nop", "endbr64", "cmp", "test", "jmp") or name.startswith("j"):
            pass
        elif name == "push":
            if depth is not None:
                held["sp"] = ("sp", depth - 8)
                write_slot(held, depth - 8, 8, self._value(code, operands[0], held))
        elif name == "pop" and operands[0].type == x86.X86_OP_REG:
            target = _WHOLE.get(code.reg_name(operands[0].reg))
            value = held.get(depth) if depth is not None else None
            if target:
                put(held, target, value)
            if depth is not None and target != "sp":
                held["sp"] = ("sp", depth + 8)
        elif name == "leave":
            base = held.get("bp")
            held.pop("bp", None)
            held.pop("sp", None)
            if base and base[0] == "sp":
                put(held, "bp", held.get(base[1]))
                held["sp"] = ("sp", base[1] + 8)
        elif name in ("mov", "movabs", "lea") and len(operands) == 2:
            self._move(code, held)
        else:
            self._arithmetic(code, held)

    def _arithmetic(self, each: Any, held: Held) -> None:
        x86, operands = self._capstone.x86, each.operands
        name = each.mnemonic
        if name in ("add", "sub") and operands[0].type == x86.X86_OP_REG and operands[1].type == x86.X86_OP_IMM:
            target = _WHOLE.get(each.reg_name(operands[0].reg))
            value = held.get(target) if target else None
            if target and value and value[0] == "sp":
                amount = operands[1].imm if name == "add" else -operands[1].imm
                held[target] = ("sp", value[1] + amount)
                return
        self._other(each, held)

    def _traces(self, each: Any) -> bool:
        """Whether a call is ftrace's: to its entries, or to code that it has made."""
        operand = each.operands[0]
        if operand.type != self._capstone.x86.X86_OP_IMM:
            return False
        symbol = self.kernel.symbolizer.at(operand.imm & (1 << 64) - 1)
        return symbol is None or symbol.name.startswith(("ftrace_", "__fentry__"))

    def _move(self, each: Any, held: Held) -> None:
        x86 = self._capstone.x86
        target, source = each.operands
        if target.type == x86.X86_OP_MEM:
            slot = self._slot(each, target, held)
            if slot is not None:
                value = self._value(each, source, held) if target.size == 8 else None
                write_slot(held, slot, target.size, value)
            elif self._on_stack(each, target, held):
                self.forget_slots(held, saved=False)
            return
        if target.type != x86.X86_OP_REG:
            self._other(each, held)
            return
        name = each.reg_name(target.reg)
        whole, half = _WHOLE.get(name), _HALF.get(name)
        if whole:
            value = self._address(each, source, held) if each.mnemonic == "lea" else self._value(each, source, held)
            put(held, whole, value)
        elif half:
            value = None
            if each.mnemonic == "mov" and source.type == x86.X86_OP_REG:
                from_ = _HALF.get(each.reg_name(source.reg))
                value = held.get(from_) if from_ else None
                value = ("low", value[1]) if value and value[0] in ("in", "low") else None
            put(held, half, value)
        else:
            put(held, _PARTS.get(name, ""), None)

    def _on_stack(self, each: Any, operand: Any, held: Held) -> bool:
        """Whether a memory operand that is no slot we know is on this function's stack nevertheless."""
        name = each.reg_name(operand.mem.base) if operand.mem.base else ""
        if name != "rbp":
            return bool(name == "rsp")
        base = held.get("bp")
        return base is None or base[0] == "sp"

    def _other(self, each: Any, held: Held) -> None:
        """An instruction of which only matters what it writes."""
        x86 = self._capstone.x86
        _, written = each.regs_access()
        for register in written:
            name = each.reg_name(register)
            place = _WHOLE.get(name) or _HALF.get(name) or _PARTS.get(name)
            if place:
                held.pop(place, None)
        for operand in each.operands:
            if operand.type == x86.X86_OP_MEM and operand.access & self._capstone.CS_AC_WRITE:
                slot = self._slot(each, operand, held)
                if slot is not None:
                    write_slot(held, slot, operand.size, None)
                elif self._on_stack(each, operand, held):
                    self.forget_slots(held, saved=False)
        if each.mnemonic.startswith(("rep", "stos", "movs")):
            base = held.get("di")
            if base is None or base[0] == "sp":
                self.forget_slots(held, saved=True)

    def _value(self, each: Any, operand: Any, held: Held) -> Value | None:
        x86 = self._capstone.x86
        if operand.type == x86.X86_OP_REG:
            place = _WHOLE.get(each.reg_name(operand.reg))
            return held.get(place) if place else None
        if operand.type == x86.X86_OP_MEM and operand.size == 8:
            slot = self._slot(each, operand, held)
            return held.get(slot) if slot is not None else None
        return None

    def _slot(self, each: Any, operand: Any, held: Held) -> int | None:
        """The stack slot of a memory operand: n bytes from the stack pointer before the call."""
        memory = operand.mem
        if not memory.base or memory.index or memory.segment:
            return None
        place = _WHOLE.get(each.reg_name(memory.base))
        base = held.get(place) if place else None
        return base[1] + memory.disp if base and base[0] == "sp" else None

    def _address(self, each: Any, operand: Any, held: Held) -> Value | None:
        slot = self._slot(each, operand, held)
        return ("sp", slot) if slot is not None else None
