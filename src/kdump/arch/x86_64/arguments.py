"""Where the values are that registers had when a function was called: an abstract run over x86-64 instructions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from kdump.errors import KdumpError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kdump.arch.stacks import KernelView, Symbol

__capture_omits__ = ("capstone",)

_MAX_SIZE = 1 << 15  # bytes of a function that is looked at
_MAX_STEPS = 60_000
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

# What a place holds: ("in", register): that register's value at the call; ("low", register): its lower half, zeros
# above; ("sp", n): the stack pointer before the call plus n. Places are registers by name, and stack slots by n.
Value = tuple[str, Any]
Place = str | int


class State:
    """What places hold at one instruction."""

    __slots__ = ("held",)

    def __init__(self, held: dict[Place, Value]) -> None:
        self.held = held

    def places(self, register: str) -> list[Place]:
        """Where the value is that `register` had at the call: registers first."""
        wanted = ("in", register)
        return sorted(
            (place for place, value in self.held.items() if value == wanted), key=lambda each: isinstance(each, int)
        )

    def halves(self, register: str) -> list[str]:
        """Registers that hold its lower half."""
        return [place for place, value in self.held.items() if value == ("low", register) and isinstance(place, str)]


class Engine:
    """Runs over functions of one kernel; each is disassembled once."""

    # System V ABI, AMD64 supplement, 3.2
    IN_ORDER: ClassVar[tuple[str, ...]] = _ARGUMENTS
    KEPT: ClassVar[tuple[str, ...]] = ("bx", "bp", "r12", "r13", "r14", "r15")
    OTHERS: ClassVar[tuple[str, ...]] = ("ax", "r10", "r11")

    def __init__(self, kernel: KernelView) -> None:
        """Raises `ImportError` if there is no disassembler."""
        import capstone

        self._capstone = capstone
        self._engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self._engine.detail = True
        self._kernel = kernel
        self._functions: dict[int, dict[int, State] | None] = {}
        self._calls: dict[int, dict[int, int]] = {}

    def word(self, address: int) -> int | None:
        """A word of memory, None if the dump has it not."""
        try:
            return self._kernel.virtual.u64(address & (1 << 64) - 1)
        except KdumpError:
            return None

    def at(self, start: int, size: int, pc: int, *, called: bool) -> State | None:
        """What places hold before the instruction at `pc`; if `called`, before the call that returns to it."""
        if start not in self._functions:
            self._functions[start] = self._run(start, size)
        states = self._functions[start]
        if states is None:
            return None
        if not called:
            return states.get(pc)
        call = self._calls[start].get(pc)
        return states.get(call) if call is not None else None

    def _run(self, start: int, size: int) -> dict[int, State] | None:
        if not 0 < size <= _MAX_SIZE:
            return None
        code = self._kernel.virtual.read(start, size)
        instructions = {each.address: each for each in self._engine.disasm(code, start)}
        for part in self._cold_parts(instructions.values(), start, size):
            code = self._kernel.virtual.read(part.address, part.size)
            instructions.update((each.address, each) for each in self._engine.disasm(code, part.address))
        self._calls[start] = {
            each.address + each.size: each.address for each in instructions.values() if each.mnemonic == "call"
        }
        taken = self._taken(instructions)
        first: dict[Place, Value] = {name: ("in", name) for name in _NAMES if name != "sp"}
        first["sp"] = ("sp", -8)
        states: dict[int, dict[Place, Value]] = {start: first}
        pending = [start]
        for _ in range(_MAX_STEPS):
            if not pending:
                break
            address = pending.pop()
            each = instructions.get(address)
            if each is None:
                continue
            after = self._step(each, dict(states[address]), start, taken)
            if taken:  # what others may write to is no argument any more
                for place in [
                    place for place, value in after.items() if isinstance(place, int) and value[1] in _ARGUMENTS
                ]:
                    del after[place]
            following = self._following(each, instructions)
            if following is None:
                return None  # a jump to where only the running kernel knows: any instruction may come after it
            for target in following:
                before = states.get(target)
                if before is None:
                    states[target] = after
                    pending.append(target)
                    continue
                merged = {place: value for place, value in before.items() if after.get(place) == value}
                if len(merged) < len(before):
                    states[target] = merged
                    pending.append(target)
        else:
            return None
        return {address: State(held) for address, held in states.items()}

    def _taken(self, instructions: dict[int, Any]) -> bool:
        """Whether the function takes the address of something on its stack, which others may then write to."""
        return any(
            each.mnemonic == "lea" and any(part in each.op_str.split(",", 1)[1] for part in ("rsp", "rbp"))
            for each in instructions.values()
        )

    def _cold_parts(self, instructions: Iterable[Any], start: int, size: int) -> list[Symbol]:
        """Parts of the function that the compiler has put elsewhere."""
        found: dict[int, Symbol] = {}
        for each in instructions:
            if not each.mnemonic.startswith("j") or each.operands[0].type != self._capstone.x86.X86_OP_IMM:
                continue
            target = each.operands[0].imm & (1 << 64) - 1
            if not start <= target < start + size:
                symbol = self._kernel.symbolizer.at(target)
                if symbol is not None and ".cold" in symbol.name and 0 < symbol.size <= _MAX_SIZE:
                    found[symbol.address] = symbol
        return list(found.values())

    def _following(self, each: Any, instructions: dict[int, Any]) -> list[int] | None:
        """Addresses that may be run after an instruction; None if they cannot be told."""
        name = each.mnemonic
        after = each.address + each.size
        if name in ("ret", "retf", "iretq", "ud2", "ud1", "int3", "hlt", "jmp") or name.startswith("j"):
            if name == "ud2":
                return [after]  # WARN() goes on behind it
            if not name.startswith("j"):
                return []
            operand = each.operands[0]
            if operand.type != self._capstone.x86.X86_OP_IMM:
                return None
            target = operand.imm & (1 << 64) - 1
            inside = [target] if target in instructions else []
            if not inside:
                symbol = self._kernel.symbolizer.at(target)
                if symbol is None or symbol.address != target:
                    return None  # into the middle of something; else it is a tail call
            return inside if name == "jmp" else [*inside, after]
        return [after]

    def _step(self, each: Any, held: dict[Place, Value], start: int, taken: bool) -> dict[Place, Value]:
        """What places hold after an instruction."""
        name, operands = each.mnemonic, each.operands
        x86 = self._capstone.x86
        depth = held["sp"][1] if "sp" in held else None
        if name == "call":
            if each.address - start in (0, 4) and self._traces(each):  # ftrace keeps all registers
                return held
            for register in _CLOBBERED:
                held.pop(register, None)
            if taken:
                _forget_slots(held, saved=True)
            return held
        if name in ("nop", "endbr64", "cmp", "test", "jmp") or name.startswith("j"):
            return held
        if name == "push":
            if depth is None:
                return held
            held["sp"] = ("sp", depth - 8)
            _write_slot(held, depth - 8, 8, self._value(each, operands[0], held))
            return held
        if name == "pop" and operands[0].type == x86.X86_OP_REG:
            target = _WHOLE.get(each.reg_name(operands[0].reg))
            value = held.get(depth) if depth is not None else None
            if target:
                _set(held, target, value)
            if depth is not None and target != "sp":
                held["sp"] = ("sp", depth + 8)
            return held
        if name == "leave":
            base = held.get("bp")
            held.pop("bp", None)
            held.pop("sp", None)
            if base and base[0] == "sp":
                _set(held, "bp", held.get(base[1]))
                held["sp"] = ("sp", base[1] + 8)
            return held
        if name in ("mov", "movabs", "lea") and len(operands) == 2:
            return self._move(each, held)
        if name in ("add", "sub") and operands[0].type == x86.X86_OP_REG and operands[1].type == x86.X86_OP_IMM:
            target = _WHOLE.get(each.reg_name(operands[0].reg))
            value = held.get(target) if target else None
            if target and value and value[0] == "sp":
                amount = operands[1].imm if name == "add" else -operands[1].imm
                held[target] = ("sp", value[1] + amount)
                return held
        return self._other(each, held)

    def _traces(self, each: Any) -> bool:
        """Whether a call is ftrace's: to its entries, or to code that it has made."""
        operand = each.operands[0]
        if operand.type != self._capstone.x86.X86_OP_IMM:
            return False
        symbol = self._kernel.symbolizer.at(operand.imm & (1 << 64) - 1)
        return symbol is None or symbol.name.startswith(("ftrace_", "__fentry__"))

    def _move(self, each: Any, held: dict[Place, Value]) -> dict[Place, Value]:
        x86 = self._capstone.x86
        target, source = each.operands
        if target.type == x86.X86_OP_MEM:
            slot = self._slot(each, target, held)
            if slot is not None:
                value = self._value(each, source, held) if target.size == 8 else None
                _write_slot(held, slot, target.size, value)
            elif self._on_stack(each, target, held):
                _forget_slots(held, saved=False)
            return held
        if target.type != x86.X86_OP_REG:
            return self._other(each, held)
        name = each.reg_name(target.reg)
        whole, half = _WHOLE.get(name), _HALF.get(name)
        if whole:
            value = self._address(each, source, held) if each.mnemonic == "lea" else self._value(each, source, held)
            _set(held, whole, value)
        elif half:
            value = None
            if each.mnemonic == "mov" and source.type == x86.X86_OP_REG:
                from_ = _HALF.get(each.reg_name(source.reg))
                value = held.get(from_) if from_ else None
                value = ("low", value[1]) if value and value[0] in ("in", "low") else None
            _set(held, half, value)
        else:
            _set(held, _PARTS.get(name, ""), None)
        return held

    def _on_stack(self, each: Any, operand: Any, held: dict[Place, Value]) -> bool:
        """Whether a memory operand that is no slot we know is on this function's stack nevertheless."""
        name = each.reg_name(operand.mem.base) if operand.mem.base else ""
        if name != "rbp":
            return bool(name == "rsp")
        base = held.get("bp")
        return base is None or base[0] == "sp"

    def _other(self, each: Any, held: dict[Place, Value]) -> dict[Place, Value]:
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
                    _write_slot(held, slot, operand.size, None)
                elif self._on_stack(each, operand, held):
                    _forget_slots(held, saved=False)
        if each.mnemonic.startswith(("rep", "stos", "movs")):
            base = held.get("di")
            if base is None or base[0] == "sp":
                _forget_slots(held, saved=True)
        return held

    def _value(self, each: Any, operand: Any, held: dict[Place, Value]) -> Value | None:
        x86 = self._capstone.x86
        if operand.type == x86.X86_OP_REG:
            place = _WHOLE.get(each.reg_name(operand.reg))
            return held.get(place) if place else None
        if operand.type == x86.X86_OP_MEM and operand.size == 8:
            slot = self._slot(each, operand, held)
            return held.get(slot) if slot is not None else None
        return None

    def _slot(self, each: Any, operand: Any, held: dict[Place, Value]) -> int | None:
        """The stack slot of a memory operand: n bytes from the stack pointer before the call."""
        memory = operand.mem
        if not memory.base or memory.index or memory.segment:
            return None
        place = _WHOLE.get(each.reg_name(memory.base))
        base = held.get(place) if place else None
        return base[1] + memory.disp if base and base[0] == "sp" else None

    def _address(self, each: Any, operand: Any, held: dict[Place, Value]) -> Value | None:
        slot = self._slot(each, operand, held)
        return ("sp", slot) if slot is not None else None


def _set(held: dict[Place, Value], place: str, value: Value | None) -> None:
    if value is None:
        held.pop(place, None)
    else:
        held[place] = value


def _write_slot(held: dict[Place, Value], slot: int, size: int, value: Value | None) -> None:
    for place in [each for each in held if isinstance(each, int) and each < slot + max(size, 1) and slot < each + 8]:
        del held[place]
    if value is not None and size == 8 and value[0] == "in":
        held[slot] = value


def _forget_slots(held: dict[Place, Value], *, saved: bool) -> None:
    """Forget what is on the stack; `saved` leaves registers that the function pushed to restore them."""
    for place in [each for each in held if isinstance(each, int)]:
        kind, name = held[place]
        if not (saved and kind == "in" and name in ("bx", "bp", "r12", "r13", "r14", "r15")):
            del held[place]
