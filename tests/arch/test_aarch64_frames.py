"""Stacks of aarch64 on made-up memory: records, exceptions of both forms, signed addresses, and where stacks end."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.kernel.fakes import Pieces

from kdump.arch.aarch64.frames import Registers, Unwinder, from_prstatus
from kdump.errors import FormatError
from kdump.kernel.kallsyms import Symbol

TEXT = 0xFFFF_8000_8000_0000
STACK = 0xFFFF_8000_8100_0000
RECORD_AT = 0x130  # of the record in struct pt_regs
MASK = 0x7F_8000_0000_0000  # KERNELPACMASK with 47 bits below
MOV_X29_SP, NOP, RET = 0x910003FD, 0xD503201F, 0xD65F03C0
EL1, EL0 = 0x5, 0x0


def regs(pc: int, sp: int = STACK, x29: int = 0, x30: int = 0, pstate: int = EL1) -> Registers:
    values = dict.fromkeys(Registers.NAMES, 0) | {"pc": pc, "sp": sp, "x29": x29, "x30": x30, "pstate": pstate}
    return Registers(tuple(values.values()))


class Stack:
    """A page of stack, functions of 0x100 bytes at TEXT that make a record with their second instruction."""

    def __init__(self, *, described: bool) -> None:
        self.described = described
        self.data = bytearray(4096)
        self.code = bytearray(struct.pack("<II", NOP, MOV_X29_SP) + struct.pack("<I", NOP) * 62) * 16

    def put(self, at: int, *words: int) -> int:
        struct.pack_into(f"<{len(words)}Q", self.data, at, *words)
        return STACK + at

    def exception(self, at: int, saved: Registers) -> int:
        """struct pt_regs as an exception's entry leaves it; the address of its record."""
        self.put(at, *saved.values)
        if self.described:
            return self.put(at + RECORD_AT, 0, 0, 2 if not saved.user else 1)
        return self.put(at + RECORD_AT, *((0, 0) if saved.user else (saved["x29"], saved.pc)))

    def unwinder(self) -> Unwinder:
        def at(pc: int) -> Symbol | None:
            number = (pc - TEXT) >> 8
            return Symbol(f"f{number}", TEXT + number * 0x100, "t", 0x100) if 0 <= number < 16 else None

        memory = Pieces({STACK: bytes(self.data), TEXT: bytes(self.code)})
        member = SimpleNamespace(offset=RECORD_AT)
        types = SimpleNamespace(
            has_struct=lambda name: name == "frame_record_meta" and self.described,
            struct=lambda _: SimpleNamespace(members={"stackframe": member}),
        )
        kernel = SimpleNamespace(
            virtual=memory, types=types, symbolizer=SimpleNamespace(at=at),
            vmcoreinfo=SimpleNamespace(numbers={"KERNELPACMASK": MASK}),
        )  # fmt: skip
        return Unwinder(cast("Any", kernel))


@pytest.fixture(params=[False, True], ids=["6.12", "6.13"])
def stack(request: pytest.FixtureRequest) -> Stack:
    return Stack(described=request.param)


def numbers(unwound: Any) -> list[int]:
    return [frame.pc - TEXT for frame in unwound.frames]


def test_records_with_signed_addresses_lead_to_user_space(stack: Stack) -> None:
    user = stack.exception(0x800, regs(0x40_1234, pstate=EL0))
    second = stack.put(0x400, user, (TEXT + 0x310) & ~MASK | 0x11 << 48 & MASK)
    first = stack.put(0x300, second, (TEXT + 0x210) & ~MASK)
    found = stack.unwinder().from_registers(regs(TEXT + 0x110, x29=first))
    assert numbers(found) == [0x110, 0x210, 0x310]
    assert found.reliable and found.user is not None and found.user.pc == 0x40_1234
    assert found.frames[0].registers is not None and found.frames[1].lookup == TEXT + 0x20F


def test_an_exception_in_the_kernel_has_exact_registers(stack: Stack) -> None:
    last = stack.put(0xE00, 0, 0, 0)
    outer = stack.put(0xD00, last, TEXT + 0x410)
    inner = stack.exception(0x600, regs(TEXT + 0x330, sp=STACK + 0xC00, x29=outer, x30=TEXT + 0x999))
    first = stack.put(0x200, inner, TEXT + 0x210)
    found = stack.unwinder().from_registers(regs(TEXT + 0x110, x29=first))
    assert numbers(found) == [0x110, 0x210, 0x330, 0x410]
    assert [bool(frame.registers) for frame in found.frames] == [True, False, True, False]
    assert found.frames[2].registers is not None and found.frames[2].registers["x30"] == TEXT + 0x999
    assert found.reliable and found.user is None


@pytest.mark.parametrize(("pc", "word"), [(0x500, NOP), (0x504, MOV_X29_SP), (0x520, RET)])
def test_a_caller_without_a_record_is_in_x30(stack: Stack, pc: int, word: int) -> None:
    """The function has made no record yet, or none any more: its caller is not in the chain."""
    struct.pack_into("<I", stack.code, pc, word)
    first = stack.put(0x200, 0, 0, 0)
    chain = stack.put(0x100, first, TEXT + 0x710)
    found = stack.unwinder().from_registers(regs(TEXT + pc, x29=chain, x30=(TEXT + 0x610) & ~MASK))
    assert numbers(found) == [pc, 0x610, 0x710]


def test_a_call_to_nowhere_keeps_its_caller(stack: Stack) -> None:
    chain = stack.put(0x100, stack.put(0x200, 0, 0, 0), TEXT + 0x710)
    found = stack.unwinder().from_registers(regs(0, x29=chain, x30=TEXT + 0x610))
    assert [frame.pc for frame in found.frames] == [0, TEXT + 0x610, TEXT + 0x710]


def test_what_is_no_stack_says_so(stack: Stack) -> None:
    unwinder = stack.unwinder
    ring = stack.put(0x100, STACK + 0x200, TEXT + 0x210)
    stack.put(0x200, ring, TEXT + 0x310)
    assert "circle" in unwinder().from_registers(regs(TEXT + 0x110, x29=ring)).note
    astray = stack.put(0x300, STACK + 0x400, 0x1234)
    assert "not kernel code" in unwinder().from_registers(regs(TEXT + 0x110, x29=astray)).note
    absent = unwinder().from_registers(regs(TEXT + 0x110, x29=0xFFFF_0000_0000_0000))
    assert not absent.reliable and numbers(absent) == [0x110]
    for number in range(300):
        stack.put(8 * number, STACK + 8 * number + 8, TEXT + 0x210)
    long = unwinder().from_registers(regs(TEXT + 0x110, x29=STACK))
    assert not long.reliable and len(long.frames) <= 256
    assert unwinder().from_registers(regs(0x40_0000, pstate=EL0)).frames == []


def test_a_task_that_does_not_run(stack: Stack) -> None:
    chain = stack.put(0x100, stack.put(0x200, 0, 0, 0), TEXT + 0x710)
    saved = {f"x{number}": number for number in range(19, 29)}
    context = SimpleNamespace(pc=TEXT + 0x110, sp=STACK, fp=chain, **saved)
    found = stack.unwinder().from_thread(SimpleNamespace(cpu_context=context))
    assert numbers(found) == [0x110, 0x710]
    assert dict(found.switched) == {**saved, "x29": chain}


def test_registers_of_a_note() -> None:
    note = bytes(112) + struct.pack("<34Q", *range(34)) + bytes(8)
    found = from_prstatus(note)
    assert (found["x30"], found.sp, found.pc, found["pstate"]) == (30, 31, 32, 33)
    with pytest.raises(FormatError, match="300 bytes"):
        from_prstatus(bytes(300))
