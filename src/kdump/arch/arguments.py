"""Where the values are that registers had when a function was called: an abstract run over its instructions.

It follows every path of a function. Paths that meet keep what all of them agree on; a call, or an instruction that is
not understood, forgets whatever it may change. What an instruction does, each architecture says in an
`ArgumentEngine` of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from kdump.errors import KdumpError

if TYPE_CHECKING:
    from kdump.arch.stacks import KernelView, Symbol, Unwound

_MAX_SIZE = 1 << 15  # bytes of a function that is looked at
_MAX_STEPS = 60_000
_MASK = (1 << 64) - 1

# What a place holds: ("in", register): that register's value at the call; ("low", register): its lower half in the
# place's own lower half; ("sp", n): the stack pointer before the call plus n. Places are registers by name, and stack
# slots by n.
Value = tuple[str, Any]
Place = str | int
Held = dict[Place, Value]


class NotFollowedError(Exception):
    """Where the function goes, or what an instruction does, cannot be told."""


class Instruction(NamedTuple):
    """An instruction: its address and size in bytes; `code` is what the architecture's engine makes of it."""

    address: int
    size: int
    code: Any


class State:
    """The contents of registers and stack slots at one instruction of the called function."""

    __slots__ = ("held",)

    def __init__(self, held: Held) -> None:
        self.held = held

    def places(self, register: str) -> list[Place]:
        """Where the value is that `register` had at the call: other registers first, then offsets from the stack."""
        return self._holding(("in", register))

    def halves(self, register: str) -> list[Place]:
        """Where its lower half is."""
        return self._holding(("low", register))

    def depth(self, register: str) -> int | None:
        """How far `register` is from what the stack pointer was before the call; None if that is not known."""
        value = self.held.get(register)
        return value[1] if value and value[0] == "sp" else None

    def _holding(self, wanted: Value) -> list[Place]:
        return sorted(
            (place for place, value in self.held.items() if value == wanted), key=lambda each: isinstance(each, int)
        )


class ArgumentEngine:
    """Runs over functions of one kernel; each is disassembled once.

    `IN_ORDER` are the registers of arguments in their order, `KEPT` those that callees keep, `OTHERS` the rest; `DEPTH`
    is what a call adds to the stack pointer.
    """

    IN_ORDER: ClassVar[tuple[str, ...]]
    KEPT: ClassVar[tuple[str, ...]]
    OTHERS: ClassVar[tuple[str, ...]]
    DEPTH: ClassVar[int]

    def __init__(self, kernel: KernelView) -> None:
        self.kernel = kernel
        self._functions: dict[int, dict[int, State] | None] = {}
        self._calls: dict[int, dict[int, int]] = {}

    def word(self, address: int, size: int = 8) -> int | None:
        """A little-endian number in memory, None if the dump lacks it."""
        try:
            return int.from_bytes(self.kernel.virtual.read(address & _MASK, size), "little")
        except KdumpError:
            return None

    def at(self, start: int, size: int, pc: int, *, called: bool) -> State | None:
        """The contents of registers and stack slots before the instruction at `pc` of the function at `start`; None if
        it cannot be told.

        If `called`, before the call that returns to `pc`.
        """
        if start not in self._functions:
            try:
                self._functions[start] = self._run(start, size)
            except NotFollowedError:
                self._functions[start] = None
        states = self._functions[start]
        if states is None:
            return None
        if not called:
            return states.get(pc)
        call = self._calls[start].get(pc)
        return states.get(call) if call is not None else None

    def base(self, unwound: Unwound, number: int, state: State) -> int | None:
        """The stack pointer before the call of a frame's function; None unless the next frame called it."""
        raise NotImplementedError

    def decode(self, code: bytes, start: int) -> Iterator[Instruction]:
        """The instructions of `code`, which is at `start`."""
        raise NotImplementedError

    def is_call(self, each: Instruction) -> bool:
        """Whether the instruction calls a function."""
        raise NotImplementedError

    def branch(self, each: Instruction) -> int | None:
        """The address that a direct branch leads to; None for other instructions."""
        raise NotImplementedError

    def goes_on(self, each: Instruction, held: Held) -> bool:
        """Whether the instruction behind this one may come next. Raises `NotFollowedError`."""
        raise NotImplementedError

    def jump_targets(self, each: Instruction, instructions: Mapping[int, Instruction], held: Held) -> list[int]:
        """Where a jump through a table leads. Raises `NotFollowedError` if that cannot be told."""
        del each, instructions, held
        return []

    def takes_stack(self, each: Instruction) -> bool:
        """Whether the instruction makes an address of something on the stack, which others may then write to."""
        raise NotImplementedError

    def step(self, each: Instruction, held: Held, start: int, *, taken: bool) -> None:
        """Change what places hold to what they hold after the instruction. Raises `NotFollowedError`.

        `start` is where the function begins; `taken` says that others know addresses on its stack.
        """
        raise NotImplementedError

    def forget_slots(self, held: Held, *, saved: bool) -> None:
        """Forget what is on the stack; `saved` leaves registers that the function pushed to restore them."""
        for place in [each for each in held if isinstance(each, int)]:
            kind, name = held[place]
            if not (saved and kind == "in" and name in self.KEPT):
                del held[place]

    def _run(self, start: int, size: int) -> dict[int, State] | None:
        if not 0 < size <= _MAX_SIZE:
            return None
        instructions = self._decoded(start, size)
        for part in self._cold_parts(instructions.values(), start, size):
            instructions.update(self._decoded(part.address, part.size))
        self._calls[start] = {
            each.address + each.size: each.address for each in instructions.values() if self.is_call(each)
        }
        taken = any(map(self.takes_stack, instructions.values()))
        first: Held = {name: ("in", name) for name in (*self.IN_ORDER, *self.KEPT, *self.OTHERS)}
        first["sp"] = ("sp", self.DEPTH)
        states: dict[int, Held] = {start: first}
        pending = [start]
        for _ in range(_MAX_STEPS):
            if not pending:
                return {address: State(held) for address, held in states.items()}
            address = pending.pop()
            each = instructions.get(address)
            if each is None:
                continue
            after = dict(states[address])
            following = self._following(each, instructions, after)
            self.step(each, after, start, taken=taken)
            if taken:  # others may have written to it: it is not an argument any more
                for place in [at for at, value in after.items() if isinstance(at, int) and value[1] in self.IN_ORDER]:
                    del after[place]
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
        return None

    def _decoded(self, start: int, size: int) -> dict[int, Instruction]:
        return {each.address: each for each in self.decode(self.kernel.virtual.read(start, size), start)}

    def _cold_parts(self, instructions: Iterable[Instruction], start: int, size: int) -> Sequence[Symbol]:
        """Parts of the function that the compiler has put elsewhere."""
        found: dict[int, Symbol] = {}
        for target in filter(None, map(self.branch, instructions)):
            if not start <= target < start + size:
                symbol = self.kernel.symbolizer.at(target)
                if symbol is not None and ".cold" in symbol.name and 0 < symbol.size <= _MAX_SIZE:
                    found[symbol.address] = symbol
        return list(found.values())

    def _following(self, each: Instruction, instructions: dict[int, Instruction], held: Held) -> list[int]:
        """Addresses that may be run after an instruction. Raises `NotFollowedError` if they cannot be told."""
        following = [each.address + each.size] if self.goes_on(each, held) else []
        following += self.jump_targets(each, instructions, held)
        target = self.branch(each)
        if target in instructions:
            following.append(target)
        elif target is not None:
            symbol = self.kernel.symbolizer.at(target)
            if symbol is None or symbol.address != target:
                raise NotFollowedError  # into the middle of something; else it is a tail call
        return following


def put(held: Held, place: str, value: Value | None) -> None:
    """A register holds `value`, None if that is not known."""
    if value is None:
        held.pop(place, None)
    else:
        held[place] = value


def write_slot(held: Held, slot: int, size: int, value: Value | None) -> None:
    """`size` bytes on the stack were written."""
    for place in [each for each in held if isinstance(each, int) and each < slot + max(size, 1) and slot < each + 8]:
        del held[place]
    if value is not None and (value[0], size) in (("in", 8), ("low", 4)):
        held[slot] = value
