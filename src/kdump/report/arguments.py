"""Arguments of the functions on a stack, without debug information. An argument that is not certain is left out.

Names and types are those of the function's prototype in BTF; where a value is, the function's own instructions say. An
abstract run over every path of a function (`kdump.arch.arguments`) tracks where the values are that were in registers
when it was called: moved to other registers, pushed, spilled. What callees must keep is followed from frame to frame,
from the registers that the innermost one had.

A value is the one at the call. It is reported only if a copy of it is unchanged at the frame's instruction.

Kernel functions are called by the ABI of their architecture unless their name has a suffix such as .constprop, and
those have no prototype in BTF. Registers and instructions are the architecture's: `Architecture.arguments`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from kdump.kernel import btf
from kdump.report.damage import DAMAGE

if TYPE_CHECKING:
    from kdump.arch.arguments import ArgumentEngine, State
    from kdump.arch.stacks import Registers, Unwound
    from kdump.kernel.btf import Type
    from kdump.kernel.kallsyms import Symbol
    from kdump.report.context import Context

_MAX_FRAMES = 64


class Argument(NamedTuple):
    """One argument: `value` None where it is not known; `type` as C writes it; `size` in bytes."""

    name: str
    type: str
    value: int | None
    size: int
    signed: bool

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.name}=?"
        if self.type.endswith("*"):
            return f"{self.name}={self.value:#x}"
        value = self.value
        if self.signed and value >> (8 * self.size - 1):
            value -= 1 << 8 * self.size
        return f"{self.name}={value if abs(value) < 1 << 16 else hex(value)}"


def of_stack(context: Context, unwound: Unwound) -> list[list[Argument] | None]:
    """For each frame its function's arguments; None where the function's prototype is not known.

    Raises `ImportError` if there is no disassembler.
    """
    engine = context.kernel.arch.arguments(context.kernel)
    if engine is None:
        return [None] * len(unwound.frames)
    found: list[list[Argument] | None] = []
    known = _start(engine, unwound.frames[0].registers, unwound) if unwound.frames else {}
    for number, frame in enumerate(unwound.frames[:_MAX_FRAMES]):
        if number and frame.registers:  # interrupted: all of its registers are known again
            known = _start(engine, frame.registers, unwound)
        state: State | None = None
        symbol = _whole(context, context.kernel.symbolizer.at(frame.lookup))
        inner = frame.registers is None
        if symbol is not None and symbol.name:
            try:
                state = engine.at(symbol.address, symbol.size, frame.pc, called=inner)
            except DAMAGE:
                state = None
        base = engine.base(unwound, number, state) if state is not None else None
        values = _recovered(engine, state, known, base) if state is not None else {}
        if symbol is None or not symbol.name:
            found.append(None)
        else:
            found.append(_arguments(context, symbol.name, symbol.module, values, engine.IN_ORDER))
        # The caller's registers at its call are those that this function had to keep.
        known = {name: values[name] for name in engine.KEPT if name in values} if base is not None else {}
    found += [None] * (len(unwound.frames) - len(found))
    return found


def _whole(context: Context, symbol: Symbol | None) -> Symbol | None:
    """The function that a .cold part belongs to: the part itself is never called. None if that is not one."""
    if symbol is None or ".cold" not in symbol.name:
        return symbol
    name = symbol.name.partition(".cold")[0]
    if symbol.module:
        holder = next((each for each in context.kernel.modules if each.name == symbol.module), None)
        found = [each for each in holder.symbols() if each.name == name] if holder is not None else []
        return holder.at(found[0].address) if holder is not None and len(found) == 1 else None
    places = context.kernel.symbols.addresses(name)
    return context.kernel.symbolizer.at(places[0]) if len(places) == 1 else None


def _start(engine: ArgumentEngine, registers: Registers | None, unwound: Unwound) -> dict[str, int]:
    if registers is not None:
        return {name: registers[name] for name in (*engine.IN_ORDER, *engine.KEPT, *engine.OTHERS)}
    return dict(unwound.switched)


def _recovered(engine: ArgumentEngine, state: State, known: dict[str, int], base: int | None) -> dict[str, int]:
    """Values that registers had at the call, by name; `known` are those that registers have now."""
    values: dict[str, int] = {}
    for name in (*engine.IN_ORDER, *engine.KEPT):
        for place in state.places(name):
            if isinstance(place, str):
                if place in known:
                    values[name] = known[place]
                    break
            elif base is not None:
                word = engine.word(base + place)
                if word is not None:
                    values[name] = word
                    break
    for name in engine.IN_ORDER:  # of some only the lower half is left, which is all of an int
        for place in state.halves(name):
            if isinstance(place, str):
                half = known.get(place)
            else:
                half = engine.word(base + place, 4) if base is not None else None
            if half is not None:
                values[f"{name} low"] = half & 0xFFFFFFFF
                break
    return values


def _arguments(
    context: Context, function: str, module: str, values: dict[str, int], registers: Sequence[str]
) -> list[Argument] | None:
    prototype = _prototype(context, function, module)
    if prototype is None:
        return None
    found: list[Argument] = []
    free = list(registers)
    for name, kind in prototype.parameters():
        if not name and kind.id == 0:
            break  # "..." of a variadic function
        resolved = kind.resolve()
        size = resolved.sizeof()
        signed = resolved.types.int_encoding(resolved)[0] if resolved.kind == btf.INT else False
        value: int | None = None
        if resolved.kind in (btf.STRUCT, btf.UNION, btf.FLOAT, btf.ARRAY) or size > 8 or not size:
            # By value: in registers or on the stack, as its members want it. What follows is not counted either.
            free = []
        elif free:
            register = free.pop(0)
            whole = values.get(register)
            if whole is None and size <= 4:
                whole = values.get(f"{register} low")
            value = whole & (1 << 8 * size) - 1 if whole is not None else None
        found.append(Argument(name or f"arg{len(found)}", kind.describe(), value, size, signed))
    return found


def _prototype(context: Context, function: str, module: str) -> Type | None:
    """The function's type, None unless exactly one is known by that name."""
    if "." in function:  # a part, or a clone with other parameters
        return None
    types = context.objects.types
    if module:
        holder = next((each for each in context.kernel.modules if each.name == module), None)
        own = holder.types if holder is not None else None
        if own is None:
            return None
        types = own
    found = types.find(function, btf.FUNC)
    if found is None or len(context.kernel.symbols.addresses(function)) > 1:
        return None
    return types.by_id(found.target)


def text(function: str, arguments: Sequence[Argument]) -> str:
    """As a call: "kfree(object=0xffff…)"."""
    return f"{function}({', '.join(map(str, arguments))})"
