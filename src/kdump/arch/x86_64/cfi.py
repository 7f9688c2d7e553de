"""The kernel's ORC unwind tables as DWARF's call frame information, for debuggers that know only that.

Source: DWARF 4, section 6.4 and figure 40; the System V ABI for x86-64, figure 3.36 (numbers of registers). Code that
was interrupted left struct pt_regs or the processor's own five words on the stack, so a row of such code recovers
registers from there; each kind of row has a common entry of its own, and rows of one kind in sequence share a
description of at most `_ROWS` rows, all by array operations.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kdump.arch.stacks import Unwound
from kdump.arch.x86_64 import orc

_ROWS = 32
_MAX_FRAME = 1 << 14  # bytes; a kernel's stack has 16 KiB
# DWARF's numbers of registers, in the order of struct pt_regs; the return address is 16.
_NUMBERS = {
    "r15": 15, "r14": 14, "r13": 13, "r12": 12, "bp": 6, "bx": 3, "r11": 11, "r10": 10, "r9": 9, "r8": 8, "ax": 0,
    "cx": 2, "dx": 1, "si": 4, "di": 5, "ip": 16, "sp": 7,
}  # fmt: skip
_BP, _SP = 6, 7
_ADVANCE, _OFFSET = 0x40, 0x80
_NOP, _ADVANCE1, _ADVANCE2, _ADVANCE4, _UNDEFINED, _SAME = 0x00, 0x02, 0x03, 0x04, 0x07, 0x08
_DEF_CFA, _DEF_CFA_EXPRESSION, _EXPRESSION, _OFFSET_SF, _DEF_CFA_SF = 0x0C, 0x0F, 0x10, 0x11, 0x12
_OP_DEREF, _OP_PLUS, _OP_BREG = 0x06, 0x23, 0x70
_ALIGN = -8  # factor of the data offsets
_STOP, _CALL, _REGS, _IRET = range(4)  # the common entries


class Rows(NamedTuple):
    """Rows of one unwind table: addresses (rising), and each one's entry as its number in `kinds`."""

    addresses: npt.NDArray[np.uint64]
    entries: npt.NDArray[np.int64]
    kinds: list[orc.Entry]
    end: int


def rows(table: orc.OrcTable) -> list[Rows]:
    """The tables of the image and of every module that can be read."""
    found = []
    seen: set[int] = set()
    for offsets, entries, place, end in table.rows():
        if place in seen:
            continue
        seen.add(place)
        relative = np.frombuffer(offsets, "<i4").astype(np.int64)
        addresses = (relative + 4 * np.arange(len(relative)) + np.uint64(place).astype(np.int64)).view(np.uint64)
        distinct, numbers = np.unique(
            np.frombuffer(entries, np.dtype(("V", table.size))).view(np.uint8).reshape(-1, table.size),
            axis=0, return_inverse=True,
        )  # fmt: skip
        order = np.argsort(addresses, kind="stable")
        last = np.concatenate(
            (addresses[order][1:] > addresses[order][:-1], [True])
        )  # of several rows for one address the last counts
        chosen = order[last]
        kinds = [table.decode(each.tobytes()) for each in distinct]
        found.append(
            Rows(addresses[chosen], numbers.reshape(-1)[chosen], kinds, max(end, int(addresses[chosen][-1]) + 1))
        )
    return found


def completed(tables: list[Rows], table: orc.OrcTable, stacks: Iterable[Unwound]) -> list[Rows]:
    """The tables with rows for instructions that they leave out and `stacks` pass without a guess.

    One such is in every dump of a panic: the place in __crash_kexec that the saved registers point to.
    """
    known: dict[int, int] = {}
    for stack in stacks:
        for frame, caller in pairwise(stack.frames):
            if stack.reliable and caller.registers is None and not table.unwinds(frame.lookup):
                known[frame.lookup] = caller.sp - frame.sp
    for address, size in known.items():
        tables = [_with_call(each, address, size) for each in tables]
    return tables


def _with_call(rows: Rows, address: int, size: int) -> Rows:
    """A row for one instruction whose caller's stack pointer is `size` bytes above its own."""
    start, end = int(rows.addresses[0]) if len(rows.addresses) else 0, rows.end
    if not start <= address < end or not 0 < size < _MAX_FRAME:
        return rows
    place = int(np.searchsorted(rows.addresses, np.uint64(address), side="right"))
    before = place - (int(rows.addresses[place - 1]) == address)
    follows = place < len(rows.addresses) and int(rows.addresses[place]) == address + 1
    addresses, entries = [address], [len(rows.kinds)]
    if not follows:
        addresses.append(address + 1)
        entries.append(int(rows.entries[place - 1]))
    return rows._replace(
        addresses=np.concatenate((rows.addresses[:before], np.array(addresses, np.uint64), rows.addresses[place:])),
        entries=np.concatenate((rows.entries[:before], entries, rows.entries[place:])),
        kinds=[*rows.kinds, orc.call(size)],
    )


def debug_frame(tables: list[Rows], shift: Callable[[int], int]) -> bytes:
    """.debug_frame of some tables. `shift` turns an address of the dump into one of the file."""
    out = bytearray()
    places = []
    for instructions, signal in _COMMON:
        places.append(len(out))
        body = struct.pack("<IB", 0xFFFFFFFF, 3) + (b"S\0" if signal else b"\0") + b"\x01" + _sleb(_ALIGN) + b"\x10"
        out += _entry(body + instructions)
    for table in tables:
        out += _descriptions(table, places, shift)
    return bytes(out)


def _entry(body: bytes) -> bytes:
    padded = body + bytes(-(len(body) + 4) % 8)
    return struct.pack("<I", len(padded)) + padded


def _descriptions(table: Rows, places: list[int], shift: Callable[[int], int]) -> bytes:
    if not len(table.addresses):
        return b""
    moved = shift(int(table.addresses[0])) - int(table.addresses[0])
    programs = [_program(entry) for entry in table.kinds]
    common = np.array([kind for kind, _ in programs], np.int64)[table.entries]
    lengths = np.array([len(text) for _, text in programs], np.int64)
    texts = np.zeros((len(programs), int(lengths.max())), np.uint8)
    for index, (_, text) in enumerate(programs):
        texts[index, : len(text)] = np.frombuffer(text, np.uint8)
    count = len(common)
    addresses = table.addresses.astype(np.int64)  # the kernel's half: negative, and in the same order
    changes = np.ones(count, np.bool_)
    changes[1:] = common[1:] != common[:-1]
    runs = np.flatnonzero(changes)
    nth = np.arange(count) - runs[np.cumsum(changes) - 1]
    firsts = nth % _ROWS == 0
    heads = np.flatnonzero(firsts)
    steps = np.zeros(count, np.int64)
    steps[1:] = addresses[1:] - addresses[:-1]
    steps[firsts] = 0
    advance = np.where(firsts, 0, np.where(steps < 64, 1, np.where(steps < 256, 2, np.where(steps < 65536, 3, 5))))
    own = lengths[table.entries]
    inner = np.cumsum(advance + own)
    ends = inner[np.concatenate((heads[1:], [count])) - 1]
    begins = np.concatenate(([0], ends[:-1]))
    whole = -(-(24 + ends - begins) // 8) * 8
    starts = np.cumsum(whole) - whole
    out = np.zeros(int(whole.sum()), np.uint8)
    description = np.cumsum(firsts) - 1
    at = starts[description] + 24 + (inner - advance - own - begins[description])

    def put(where: npt.NDArray[np.int64], values: npt.NDArray[np.int64], width: int) -> None:
        for index in range(width):
            out[where + index] = (values >> 8 * index & 0xFF).astype(np.uint8)

    limit = np.concatenate((addresses[heads[1:]], np.array([table.end], np.uint64).astype(np.int64)))
    put(starts, whole - 4, 4)
    put(starts + 4, np.array(places)[common[heads]], 4)
    put(starts + 8, addresses[heads] + moved, 8)
    put(starts + 16, limit - addresses[heads], 8)
    for size, code, width in ((1, 0, 0), (2, _ADVANCE1, 1), (3, _ADVANCE2, 2), (5, _ADVANCE4, 4)):
        chosen = advance == size
        first = steps[chosen] | _ADVANCE if size == 1 else np.full(int(chosen.sum()), code)
        put(at[chosen], first, 1)
        put(at[chosen] + 1, steps[chosen], width)
    behind = at + advance
    for index in range(texts.shape[1]):
        chosen = own > index
        out[behind[chosen] + index] = texts[table.entries[chosen], index]
    return out.tobytes()


def _program(entry: orc.Entry) -> tuple[int, bytes]:
    """Which common entry a row builds on, and what it adds."""
    if entry.type not in (orc.CALL, orc.REGS, orc.REGS_PARTIAL):
        return _STOP, b""
    base = _base(entry)
    if base is None:
        return _STOP, b""
    if entry.type == orc.REGS:
        return _REGS, base
    before = bytes((_SAME, _BP))
    if entry.bp_reg == orc.PREV_SP:
        before = bytes((_OFFSET_SF, _BP)) + _sleb(entry.bp_offset // _ALIGN)
    elif entry.bp_reg == orc.BP:
        before = bytes((_EXPRESSION, _BP)) + _block(bytes((_OP_BREG + _BP,)) + _sleb(entry.bp_offset))
    return _CALL if entry.type == orc.CALL else _IRET, base + before


def _base(entry: orc.Entry) -> bytes | None:
    """The rule for the caller's stack pointer, which ORC calls the previous SP, or None."""
    if entry.sp_reg in (orc.SP, orc.BP):
        register = _SP if entry.sp_reg == orc.SP else _BP
        if entry.sp_offset >= 0:
            return bytes((_DEF_CFA, register)) + _uleb(entry.sp_offset)
        return bytes((_DEF_CFA_EXPRESSION,)) + _block(bytes((_OP_BREG + register,)) + _sleb(entry.sp_offset))
    if entry.sp_reg == orc.SP_INDIRECT:
        text = bytes((_OP_BREG + _SP, 0, _OP_DEREF, _OP_PLUS)) + _uleb(max(entry.sp_offset, 0))
        return bytes((_DEF_CFA_EXPRESSION,)) + _block(text)
    if entry.sp_reg == orc.BP_INDIRECT:
        text = bytes((_OP_BREG + _BP,)) + _sleb(entry.sp_offset) + bytes((_OP_DEREF,))
        return bytes((_DEF_CFA_EXPRESSION,)) + _block(text)
    if entry.sp_reg in orc.NAMED:
        return bytes((_DEF_CFA, _NUMBERS[orc.NAMED[entry.sp_reg]], 0))
    return None


def _block(text: bytes) -> bytes:
    return _uleb(len(text)) + text


def _uleb(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _sleb(value: int) -> bytes:
    out = bytearray()
    while not -0x40 <= value < 0x40:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value & 0x7F))


def _saved(offsets: dict[str, int]) -> bytes:
    """Registers that lie so many bytes above the stack pointer that the row gives."""
    return b"".join(bytes((_OFFSET_SF, _NUMBERS[name])) + _sleb(offset // _ALIGN) for name, offset in offsets.items())


# ORC says nothing of the registers that a function keeps for its caller, save BP.
_UNKNOWN = b"".join(bytes((_UNDEFINED, _NUMBERS[name])) for name in ("bx", "r12", "r13", "r14", "r15"))
_PT_REGS = {name: 8 * index for index, name in enumerate(orc.REGISTERS) if name in _NUMBERS}
_COMMON = (
    (bytes((_DEF_CFA, _SP, 8, _UNDEFINED, 16)) + _UNKNOWN, False),
    (bytes((_DEF_CFA, _SP, 8, _OFFSET | 16, 1)) + _UNKNOWN, False),
    (bytes((_DEF_CFA, _SP, 0)) + _saved(_PT_REGS), True),
    (bytes((_DEF_CFA, _SP, 0)) + _saved({"ip": 0, "sp": 24}), True),
)
