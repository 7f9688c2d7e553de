"""The unwinder on made-up stacks: every way an entry finds the caller, and stacks that lead nowhere."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.kernel import fakes

from kdump.arch.x86_64 import orc
from kdump.arch.x86_64.orc import _END, _UNDEFINED, BP, CALL, PREV_SP, REGS, SP, Entry, Registers, Unwinder
from kdump.errors import FormatError, KdumpError
from kdump.kernel.kallsyms import Symbol

TEXT = 0xFFFFFFFF81000000
STACK = 0xFFFFC90000000000
USER = 0x47B7A0


def regs(ip: int, sp: int, bp: int = 0, cs: int = 0x10) -> Registers:
    values = dict.fromkeys(orc.REGISTERS, 0) | {"ip": ip, "sp": sp, "bp": bp, "cs": cs}
    return Registers(tuple(values.values()))


def unwinder(entries: dict[int, Entry], stack: bytes, code: dict[int, bytes] | None = None) -> Unwinder:
    """Functions of 0x100 bytes at TEXT + number * 0x100, with one entry each."""

    def find(pc: int) -> Entry | None:
        return entries.get((pc - TEXT) >> 8)

    def at(pc: int) -> Symbol | None:
        number = (pc - TEXT) >> 8
        return Symbol(f"f{number}", TEXT + number * 0x100, "t", 0x100) if 0 <= number < 256 else None

    text = bytearray(0x2000)
    for offset, piece in (code or {}).items():
        text[offset : offset + len(piece)] = piece
    memory = fakes.Pieces({STACK: stack.ljust(4096, b"\0"), TEXT: bytes(text)})
    kernel = SimpleNamespace(
        virtual=SimpleNamespace(view=memory.view),
        symbolizer=SimpleNamespace(at=at),
    )
    return Unwinder(cast("Any", kernel), cast("Any", SimpleNamespace(find=find)))


PLAIN = Entry(8, 0, SP, _UNDEFINED, CALL, False)
LAST = Entry(0, 0, SP, _UNDEFINED, _END, False)


def test_calls_frame_pointers_and_the_end() -> None:
    """f0 keeps 8 bytes, f1 finds its caller by bp, f2 ends the stack."""
    saved = STACK + 0x40
    stack = bytearray(0x100)
    stack[0:8] = struct.pack("<Q", TEXT + 0x110)  # return address into f1
    stack[0x40:0x50] = struct.pack("<QQ", 0x1234, TEXT + 0x210)  # bp and return address of f1's frame
    entries = {0: PLAIN, 1: Entry(16, -16, BP, PREV_SP, CALL, False), 2: LAST}
    found = unwinder(entries, bytes(stack)).from_registers(regs(TEXT + 0x10, STACK, saved))
    assert [frame.pc - TEXT for frame in found.frames] == [0x10, 0x110, 0x210]
    assert found.reliable and not found.note
    assert found.frames[0].lookup == TEXT + 0x10 and found.frames[1].lookup == TEXT + 0x10F


def test_an_interrupted_context_and_user_space() -> None:
    """f0 is an interrupt entry whose stack holds the registers of f1, which came from user space."""
    inner = regs(TEXT + 0x155, STACK + 0x200)
    user = regs(USER, 0x7FFF0000, cs=0x33)
    stack = bytearray(0x400)
    stack[0:168] = struct.pack("<21Q", *inner.values)
    stack[0x200:0x2A8] = struct.pack("<21Q", *user.values)
    entries = {0: Entry(0, 0, SP, _UNDEFINED, REGS, True), 1: Entry(0, 0, SP, _UNDEFINED, REGS, False)}
    found = unwinder(entries, bytes(stack)).from_registers(regs(TEXT + 0x10, STACK))
    assert [frame.pc - TEXT for frame in found.frames] == [0x10, 0x155]
    assert found.frames[1].registers is not None and found.frames[1].lookup == TEXT + 0x155
    assert found.user is not None and found.user["ip"] == USER


def test_a_sleeping_task() -> None:
    frame = struct.pack("<7Q", 15, 14, 13, 12, 3, 0x77, TEXT + 0x10)
    found = unwinder({0: PLAIN, 1: LAST}, frame + struct.pack("<Q", TEXT + 0x110)).from_switch(STACK)
    assert [frame.pc - TEXT for frame in found.frames] == [0x10, 0x110]
    assert not unwinder({}, b"").from_switch(STACK + 0x10000).reliable


def test_a_caller_without_entries_must_have_called_us() -> None:
    """f0 has no entries: of two return addresses on the stack only the second follows a call of f0."""
    other = b"\xe8" + struct.pack("<i", 0x500 - 0x110)  # in f1: calls f5
    ours = b"\xe8" + struct.pack("<i", 0x000 - 0x210)  # in f2: calls f0
    stack = struct.pack("<QQQQ", 1, TEXT + 0x110, TEXT + 0x210, 0)
    code = {0x10B: other, 0x20B: ours}
    found = unwinder({1: PLAIN, 2: LAST}, stack, code).from_registers(regs(TEXT + 0x10, STACK))
    assert [frame.pc - TEXT for frame in found.frames] == [0x10, 0x210]
    assert found.reliable


def test_a_call_through_a_null_pointer() -> None:
    indirect = b"\xff\xd0"  # call *%rax
    stack = struct.pack("<Q", TEXT + 0x110)
    found = unwinder({1: LAST}, stack, {0x10E: indirect}).from_registers(regs(0, STACK))
    assert [frame.pc for frame in found.frames] == [0, TEXT + 0x110]
    assert not found.reliable and "guessed" in found.note


def test_damage_ends_with_a_note() -> None:
    loop = struct.pack("<Q", TEXT + 0x10)
    still = Entry(8, 0, BP, _UNDEFINED, CALL, False)
    found = unwinder({0: still}, loop).from_registers(regs(TEXT + 0x10, STACK, STACK))
    assert "circle" in found.note and not found.reliable
    deep = struct.pack("<Q", TEXT + 0x10) * 512
    assert "cut off" in unwinder({0: PLAIN}, deep).from_registers(regs(TEXT + 0x10, STACK)).note
    assert "cannot be read" in unwinder({0: PLAIN}, b"").from_registers(regs(TEXT + 0x10, STACK + 0x9000)).note
    assert "not kernel code" in unwinder({0: PLAIN}, struct.pack("<Q", 5)).from_registers(regs(TEXT + 0x10, STACK)).note
    assert unwinder({}, b"").from_registers(regs(USER, 0x7FFF0000, cs=0x33)).frames == []


def test_prstatus() -> None:
    values = tuple(range(21))
    assert orc.from_prstatus(bytes(112) + struct.pack("<21Q", *values) + bytes(56)).values == values
    with pytest.raises(FormatError, match=r"100 bytes|prstatus|PRSTATUS"):
        orc.from_prstatus(bytes(100))


@pytest.mark.parametrize(("stack_pointer", "known"), [(5, True), (3, True), (6, False)])
def test_registers_are_numbered_as_functions_begin(stack_pointer: int, known: bool) -> None:
    """7.x gave the stack pointer of the tables another number; the first instruction of any function uses it."""
    table = orc.OrcTable.__new__(orc.OrcTable)
    table._registers = tuple(range(16))
    table._kernel = cast("Any", SimpleNamespace(symbols={"panic": 0x1000, "schedule": 0x2000}))
    table._parts = [cast("Any", None)]
    entries = cast("Any", lambda _part, _pc: Entry(8, 0, stack_pointer, 0, CALL, signal=False))
    table._entry = entries  # type: ignore[method-assign]
    if not known:
        with pytest.raises(KdumpError, match="register \\[6\\] as the stack pointer"):
            table._numbering()
        return
    numbers = table._numbering()
    assert numbers[stack_pointer] == SP
    assert {SP, BP, PREV_SP, _UNDEFINED} < set(numbers)
