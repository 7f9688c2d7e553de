"""The instructions around the one that failed, disassembled."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kdump.errors import KdumpError
from kdump.report.context import Context

if TYPE_CHECKING:
    from capstone import CsInsn

# The capture kernel leaves the bytes as they are: a disassembler is too big for its image.
__capture_omits__ = ("capstone",)

_BEFORE, _AFTER = 8, 5
_LONGEST = 15  # bytes of an x86 instruction
_MAX_FUNCTION = 1 << 16
_MARKED = re.compile(r"<([0-9a-f]{2})>")


def around(context: Context) -> list[str]:
    """Lines of disassembly, the failing instruction marked with ">"; empty if the crash has no such instruction.

    From the dump's memory if the function can be found there, else from the bytes in the log.
    """
    event = context.crash.event
    if event.rip is None:
        return []
    try:
        import capstone
    except ImportError:
        context.problems.append("no disassembly: capstone is not installed (pip install 'linux-kdump[shell]')")
        return [event.code] if event.code else []
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.syntax = capstone.CS_OPT_SYNTAX_ATT
    name = event.rip.function
    found = _from_memory(context, name, event.rip.offset) if context.described else None
    if found is None:
        return _from_log(engine, event.code, name, event.rip.offset)
    start, code = found
    instructions = list(engine.disasm(code, start))
    return _lines(instructions, start, start + event.rip.offset, name)


def _from_memory(context: Context, name: str, offset: int) -> tuple[int, bytes] | None:
    """Address and bytes of a function, up to a little behind `offset`."""
    if offset > _MAX_FUNCTION:
        return None
    places = context.kernel.symbols.addresses(name)
    places += [
        symbol.address for module in context.kernel.modules for symbol in module.symbols() if symbol.name == name
    ]
    if len(places) != 1:  # several static functions of one name: which one is not known
        return None
    try:
        return places[0], context.kernel.virtual.read(places[0], offset + _AFTER * _LONGEST)
    except KdumpError:
        return None


def _from_log(engine: object, code: str, name: str, offset: int) -> list[str]:
    """From a "Code:" line, whose failing byte is in angle brackets."""
    marked = _MARKED.search(code)
    if not marked:
        return [code] if code else []
    raw = bytes.fromhex(_MARKED.sub(r"\1", code))
    at = len(bytes.fromhex(code[: marked.start()]))
    # Where an instruction begins is not known: take the first start from which one begins at the mark.
    for first in range(at + 1):
        instructions: list[CsInsn] = list(engine.disasm(raw[first:], offset - at + first))  # type: ignore[attr-defined]
        if any(instruction.address == offset for instruction in instructions):
            return _lines(instructions, 0, offset, name)
    return [code]


def _lines(instructions: list[CsInsn], start: int, fault: int, name: str) -> list[str]:
    place = next((number for number, found in enumerate(instructions) if found.address == fault), None)
    if place is None:
        return []
    lines = []
    for found in instructions[max(place - _BEFORE, 0) : place + _AFTER]:
        if found.address <= fault + _AFTER * _LONGEST:  # what a log shows may begin before the function, at 2**64 - n
            mark = ">" if found.address == fault else " "
            lines.append(f"{mark} {name}+{found.address - start:#x}:  {found.mnemonic} {found.op_str}".rstrip())
    return lines
