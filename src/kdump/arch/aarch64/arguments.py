"""The effect of A64 instructions on the values of a call, for `kdump.arch.arguments`.

An instruction's group (bits 28 to 25) says which of its fields name registers that it may write, so one that is not
known by name forgets the right ones. A function with an instruction of any other group is given up.

Sources: Arm ARM (DDI 0487), C4.1 (encodings by group); AAPCS64, 6.1.1 (registers), 6.4.6 (frame records); Linux
arch/arm64/kernel/entry-ftrace.S (ftrace_caller keeps arguments; what it changes are x9 and the registers of veneers).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from kdump.arch.arguments import ArgumentEngine, Held, Instruction, NotFollowedError, State, Value, put, write_slot

if TYPE_CHECKING:
    from kdump.arch.stacks import Unwound

_STACK: Final = 31  # number of the stack pointer, where it is not the zero register's
_FRAME: Final = 29
_LONGEST_TABLE = 1 << 10  # entries
_RECORD = 16  # bytes of a frame record
_CLOBBERED = range(18)  # by a call; x18 is the platform's
_LINK_FIRST = 0xAA1E03E9  # mov x9, x30: what follows in a function's first instructions is ftrace's call
_BL, _BLR, _BR, _RET, _ERET = "bl", "blr", "br", "ret", "eret"


class Table(NamedTuple):
    """A table of jumps: where it is, the bytes of an entry, and the address from which entries count instructions."""

    address: int
    size: int
    base: int


class Engine(ArgumentEngine):
    """Runs over A64 functions of one kernel; an instruction's `code` is the word that it is."""

    IN_ORDER: ClassVar[tuple[str, ...]] = tuple(f"x{number}" for number in range(8))
    KEPT: ClassVar[tuple[str, ...]] = tuple(f"x{number}" for number in range(19, 30))
    OTHERS: ClassVar[tuple[str, ...]] = (*(f"x{number}" for number in range(8, 19)), "x30")
    DEPTH: ClassVar[int] = 0

    def base(self, unwound: Unwound, number: int, state: State) -> int | None:
        """By the frame record, which x29 points to; an interrupted function's stack pointer is known."""
        frames = unwound.frames
        if number + 1 >= len(frames) or frames[number + 1].registers:
            return None  # the outermost, or one that an exception entered
        following, record = frames[number + 1], state.depth("x29")
        registers = frames[number].registers
        if registers is None:  # without a record of its own the next frame is not its caller
            return following.sp - _RECORD - record if record is not None else None
        depth = state.depth("sp")
        if depth is None:
            return None
        base = registers.sp - depth
        if record is None:  # the caller is from x30, if there is one
            called = all(name in state.places(name) for name in ("x29", "x30")) and following.sp == registers.sp
        else:
            called = base + record == registers["x29"] == following.sp - _RECORD
        return base if called else None

    def decode(self, code: bytes, start: int) -> Iterator[Instruction]:
        """See `ArgumentEngine.decode`."""
        words = struct.unpack(f"<{len(code) // 4}I", code[: len(code) // 4 * 4])
        for number, word in enumerate(words):
            address = start + 4 * number
            # Before each function ftrace may have a pointer; no instruction begins with sixteen ones.
            upper = words[number + 1 : number + 2] if address % 8 == 0 else (word,)
            if not upper or upper[0] >> 16 != 0xFFFF:
                yield Instruction(address, 4, word)

    def is_call(self, each: Instruction) -> bool:
        """See `ArgumentEngine.is_call`."""
        return _jump(each.code) in (_BL, _BLR)

    def branch(self, each: Instruction) -> int | None:
        """See `ArgumentEngine.branch`."""
        word: int = each.code
        if word >> 26 == 0b000101:  # b
            distance = _signed(word, 0, 26)
        elif word >> 24 == 0x54 or word >> 25 & 0x3F == 0b011010:  # b.cond, cbz, cbnz
            distance = _signed(word, 5, 19)
        elif word >> 25 & 0x3F == 0b011011:  # tbz, tbnz
            distance = _signed(word, 5, 14)
        else:
            return None
        return each.address + 4 * distance & (1 << 64) - 1

    def goes_on(self, each: Instruction, held: Held) -> bool:
        """See `ArgumentEngine.goes_on`."""
        word: int = each.code
        kind = _jump(word)
        # WARN() goes on behind brk.
        return kind not in (_BR, _RET, _ERET) and word >> 26 != 0b000101 and word >> 16 != 0

    def jump_targets(self, each: Instruction, instructions: Mapping[int, Instruction], held: Held) -> list[int]:
        """See `ArgumentEngine.jump_targets`."""
        if _jump(each.code) != _BR or self._is_tail_call(each, held):
            return []
        places = range(each.address - 28, each.address, 4)
        words = [before.code if (before := instructions.get(place)) else 0 for place in places]
        ways_in = set(map(self.branch, instructions.values()))
        # A jump into the middle would come with another table.
        if ways_in.intersection((*places[3:], each.address)) or not (table := _table(words, places[2], each.code)):
            raise NotFollowedError
        length = _length(words) if places[2] not in ways_in and places[1] not in ways_in else None
        found = dict.fromkeys(self._entries(table, length, instructions))
        if not found:
            raise NotFollowedError
        return list(found)

    def _entries(self, table: Table, length: int | None, instructions: Mapping[int, Instruction]) -> Iterator[int]:
        """Where a table leads. If its length is not known, what follows it may add ways: then less can be told.

        All its own entries lead to instructions of the function, so the first that does not is not its own.
        """
        for number in range(_LONGEST_TABLE if length is None else length):
            entry = self.word(table.address + number * table.size, table.size)
            if entry is None:
                raise NotFollowedError
            target = table.base + 4 * _signed(entry, 0, 8 * table.size) & (1 << 64) - 1
            if target not in instructions:
                if length is not None:
                    raise NotFollowedError
                return
            yield target

    def takes_stack(self, each: Instruction) -> bool:
        """See `ArgumentEngine.takes_stack`."""
        word: int = each.code
        target, source = word & 31, word >> 5 & 31
        if target in (_STACK, _FRAME):
            return False
        if word & 0x1F000000 == 0x11000000:  # add and sub of a constant, and of tags; mov from the stack pointer
            return source in (_STACK, _FRAME)
        if word & 0x1F800000 == 0x12000000:  # logic with a constant
            return source == _FRAME
        if word & 0x1F200000 == 0x0B200000:  # add and sub of an extended register
            return source in (_STACK, _FRAME) or word >> 16 & 31 == _FRAME
        # Other arithmetic with registers can only have the frame pointer.
        return word >> 25 & 7 == 5 and _FRAME in (source, word >> 16 & 31)

    def step(self, each: Instruction, held: Held, start: int, *, taken: bool) -> None:
        """See `ArgumentEngine.step`."""
        word: int = each.code
        group = word >> 25 & 15
        if group in (8, 9):
            self._constant(word, held)
        elif group in (10, 11):
            self._branch_or_system(each, held, start, taken=taken)
        elif group & 7 == 5:
            self._of_registers(word, held)
        elif group & 5 == 4:
            self._load_or_store(word, held)
        elif group & 7 == 7:  # floating point and vectors
            _forget(held, word & 31)
        elif word >> 16:  # not udf, from which nothing goes on
            raise NotFollowedError

    def _is_tail_call(self, each: Instruction, held: Held) -> bool:
        """Whether `br` leaves the function: its stack is gone, and the target was not worked out by adding."""
        if held.get("sp") != ("sp", 0):
            return False
        register, at = each.code >> 5 & 31, each.address
        while (word := self.word(at := at - 4, 4)) is not None:
            if word >> 26 == 0b000101 or _jump(word):
                return False
            if word & 31 == register:
                plain = word & 0xFFE0FFE0 == 0xAA0003E0  # mov
                return plain or word & 0xFFC00000 == 0xF9400000 or word & 0xFFE00000 == 0xF8400000  # ldr, ldur
        return False

    def _constant(self, word: int, held: Held) -> None:
        """Data processing with a constant."""
        target, source = word & 31, word >> 5 & 31
        if word & 0x1F800000 == 0x11000000 and not word >> 29 & 1:  # add, sub: both registers may be the stack pointer
            value = held.get(_name(source))
            amount = (word >> 10 & 0xFFF) << (12 if word >> 22 & 1 else 0)
            if word >> 31 and value and value[0] == "sp":
                put(held, _name(target), ("sp", value[1] + (-amount if word >> 30 & 1 else amount)))
            else:
                _forget(held, target)
            return
        sets_stack = word & 0x1F800000 in (0x11800000, 0x12000000) and word >> 29 & 3 != 3  # tags; all but ands
        if word & 0xFFFFFC00 == 0x93407C00:  # sxtw
            put(held, _name(target), _low(held.get(_name(source))))
        elif target != _STACK or sets_stack:
            _forget(held, target)

    def _branch_or_system(self, each: Instruction, held: Held, start: int, *, taken: bool) -> None:
        word: int = each.code
        if _jump(word) in (_BL, _BLR):
            # ftrace's own call keeps what the function has been given.
            traced = each.address - start <= 16 and self.word(each.address - 4, 4) == _LINK_FIRST
            for number in range(9, 18) if traced else _CLOBBERED:
                _forget(held, number)
            _forget(held, 30)
            if taken:
                self.forget_slots(held, saved=True)
        elif word >> 24 == 0xD4:  # svc, hvc and smc are calls of another kind
            if word >> 21 & 7 == 0:
                for number in _CLOBBERED:
                    _forget(held, number)
        elif word >> 22 == 0b1101010100:
            if word >> 21 & 1:  # mrs, sysl
                _forget(held, word & 31)
            elif word & 0xFFFFF01F == 0xD503201F:  # hints: some sign and check addresses
                _forget(held, 17)
                _forget(held, 30)
        elif self.branch(each) is None and not _jump(word):  # of 128 bits, and what is newer
            raise NotFollowedError

    def _of_registers(self, word: int, held: Held) -> None:
        """Data processing with registers."""
        target = word & 31
        moved = held.get(_name(word >> 16 & 31)) if word >> 16 & 31 != _STACK else None
        if word & 0x1FE00000 == 0x1A400000:  # ccmp, ccmn
            return
        if word & 0xFFE0FFE0 == 0xAA0003E0 and target != _STACK:  # mov
            put(held, _name(target), moved)
        elif word & 0xFFE0FFE0 == 0x2A0003E0 and target != _STACK:
            put(held, _name(target), _low(moved))
        elif target != _STACK or word & 0x3F200000 == 0x0B200000:  # an extended register may be added to it
            _forget(held, target)

    def _load_or_store(self, word: int, held: Held) -> None:
        kind = word >> 28 & 3
        if kind == 3:
            self._single(word, held)
        elif kind == 2:
            self._pair(word, held)
        elif kind == 1 and not word >> 24 & 1:  # ldr of a constant beside the code
            _forget(held, word & 31)
        elif kind == 0 and not word >> 26 & 1 and not word >> 24 & 1:
            self._exclusive(word, held)
        elif kind == 1 and word & 0x3F200C00 == 0x19000000:  # stlur, ldapur
            self._changes(word, held, word & 31)
        else:
            raise NotFollowedError

    def _single(self, word: int, held: Held) -> None:
        """One register, in memory at a base and a constant, or another register."""
        size, vector, way, register = word >> 30, word >> 26 & 1, word >> 22 & 3, word & 31
        scale = size | way >> 1 << 2 if vector else size
        load = bool(way & 1 if vector else way)
        prefetch = not vector and (size, way) == (3, 2)
        mode = word >> 10 & 3
        if word >> 24 & 1:
            offset, mode = (word >> 10 & 0xFFF) << scale, 0
        elif not word >> 21 & 1:
            offset = _signed(word, 12, 9)
        elif mode == 2:  # the offset is in a register
            if load and not prefetch and not vector:
                _forget(held, register)
            elif not load:
                self._lost(word, held)
            return
        elif mode == 0 and not vector:
            self._atomic(word, held)
            return
        else:
            self._changes(word, held, register, word >> 5 & 31)
            return
        slot = self._access(word, held, offset, mode)
        if prefetch:
            return
        if load:
            self._loaded(held, register, slot, 1 << scale, vector=bool(vector), extends=way == 2)
        else:
            self._stored(word, held, register, slot, 1 << scale, vector=bool(vector))

    def _pair(self, word: int, held: Held) -> None:
        vector, way, load = bool(word >> 26 & 1), word >> 30, word >> 22 & 1
        if (way == 3) or (not vector and way == 1 and not load):  # others than ldp, stp, ldpsw
            raise NotFollowedError
        size = 4 << way if vector else (8 if way == 2 else 4)
        slot = self._access(word, held, _signed(word, 15, 7) * size, word >> 23 & 3)
        for number, register in enumerate((word & 31, word >> 10 & 31)):
            place = slot + number * size if slot is not None else None
            if load:
                self._loaded(held, register, place, size, vector=vector, extends=way == 1)
            else:
                self._stored(word, held, register, place, size, vector=vector)

    def _access(self, word: int, held: Held, offset: int, mode: int) -> int | None:
        """The stack slot at which memory is accessed, None if that is not known; the base may move (modes 1 and 3)."""
        base = _name(word >> 5 & 31)
        value = held.get(base)
        depth: int | None = value[1] if value and value[0] == "sp" else None
        if mode in (1, 3):
            put(held, base, ("sp", depth + offset) if depth is not None else None)
        if depth is None:
            return None
        return depth if mode == 1 else depth + offset

    def _loaded(self, held: Held, register: int, slot: int | None, size: int, *, vector: bool, extends: bool) -> None:
        if vector or register == _STACK:
            return
        value = held.get(slot) if slot is not None else None
        if size == 4:
            value = _low(value)
        elif size != 8 or extends:
            value = None
        put(held, _name(register), value)

    def _stored(self, word: int, held: Held, register: int, slot: int | None, size: int, *, vector: bool) -> None:
        if slot is None:
            self._lost(word, held)
            return
        value = held.get(_name(register)) if not vector and register != _STACK else None
        write_slot(held, slot, size, _low(value) if size == 4 else value)

    def _exclusive(self, word: int, held: Held) -> None:
        """Exclusive and ordered accesses, and compare and swap."""
        status, second = word >> 16 & 31, word >> 10 & 31
        if word >> 21 & 7 == 4:  # stlr: ordered, a store, of one register
            self._lost(word, held)
        else:
            self._changes(word, held, word & 31, second, status, status | 1)

    def _atomic(self, word: int, held: Held) -> None:
        operation = word >> 12 & 15
        if operation > 8 and operation != 12:  # of 64 bytes, and what is newer
            raise NotFollowedError
        self._changes(word, held, word & 31)

    def _changes(self, word: int, held: Held, *registers: int) -> None:
        """An access of which only matters what it may write."""
        for number in registers:
            if number != _STACK:
                _forget(held, number)
        self._lost(word, held)

    def _lost(self, word: int, held: Held) -> None:
        """Memory was written; if that may be this function's stack, nothing is known of its slots."""
        base = word >> 5 & 31
        value = held.get(_name(base))
        if base == _STACK or (value and value[0] == "sp") or (base == _FRAME and value is None):
            self.forget_slots(held, saved=False)


def _table(words: Sequence[int], start: int, jump: int) -> Table | None:
    """The table of a jump, from the five instructions before it: the last of `words`, which begin at `start`.

    A compiler writes them for a `switch`: adrp and add (the table), ldr (an entry of one, two or four bytes), adr (what
    entries count from), add (of the entry, times 4).
    """
    page, low, load, base, total = words[-5:]
    table, counted, entry, size, register = page & 31, base & 31, load & 31, load >> 30, jump >> 5 & 31
    written = (
        page & 0x9F000000 == 0x90000000
        and low & 0xFFC003FF == 0x91000000 | table << 5 | table
        and load & 0x3FE0CC00 == 0x38604800
        and load >> 5 & 31 == table
        and size < 3
        and load >> 12 & 1 == (size > 0)
        and base & 0x9F000000 == 0x10000000
        and total == 0x8B200800 | 4 + size << 13 | entry << 16 | counted << 5 | register
        and _STACK not in (table, counted, entry)
        and entry != counted
    )
    if not written:
        return None
    address = (start & ~0xFFF) + (_signed(page >> 5, 0, 19) << 14 | (page >> 29 & 3) << 12) + (low >> 10 & 0xFFF)
    return Table(address & (1 << 64) - 1, 1 << size, start + 12 + (_signed(base >> 5, 0, 19) << 2 | base >> 29 & 3))


def _length(words: Sequence[int]) -> int | None:
    """How many entries the table has, from the comparison before (cmp, b.hi); None if they are not there."""
    compare, higher, _, _, load, *_ = words
    index = load >> 16 & 31
    if compare & 0xFFC003FF == 0x7100001F | index << 5 and higher & 0xFF00001F == 0x54000008:
        return (compare >> 10 & 0xFFF) + 1
    return None


def _jump(word: int) -> str:
    """The kind of jump of an instruction that does not name its target or returns; empty for others."""
    if word >> 26 == 0b100101:
        return _BL
    if word >> 25 == 0b1101011:
        return {0: _BR, 1: _BLR, 2: _RET, 4: _ERET, 8: _BR, 9: _BLR}.get(word >> 21 & 15, _ERET)
    return ""


def _name(number: int) -> str:
    return "sp" if number == _STACK else f"x{number}"


def _forget(held: Held, number: int) -> None:
    held.pop(_name(number), None)


def _low(value: Value | None) -> Value | None:
    return ("low", value[1]) if value and value[0] in ("in", "low") else None


def _signed(word: int, at: int, bits: int) -> int:
    value = word >> at & (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value
