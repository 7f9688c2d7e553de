"""The instructions around the one that failed, disassembled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdump import arch
from kdump.errors import KdumpError
from kdump.report.context import Context

if TYPE_CHECKING:
    from capstone import CsInsn

# The capture kernel leaves the bytes as they are: a disassembler is too big for its image.
__capture_omits__ = ("capstone",)

_BEFORE, _AFTER = 8, 5
_FAR = 128  # bytes; instructions behind the fault are nearer
_MAX_FUNCTION = 1 << 16


def around(context: Context) -> list[str]:
    """Lines of disassembly, the failing instruction marked with ">"; empty if the crash has no such instruction.

    From the dump's memory if the function can be found there, else from the bytes in the log.
    """
    event = context.crash.event
    if event.rip is None:
        return []
    try:
        import capstone  # noqa: F401 -- whether it is there
    except ImportError:
        context.problems.append("no disassembly: capstone is not installed (pip install 'linux-kdump[shell]')")
        return [event.code] if event.code else []
    name = event.rip.function
    found = _from_memory(context, name, event.rip.offset) if context.described else None
    if found is None:
        return _from_log(event.code, name, event.rip.offset)
    start, code = found
    instructions = list(context.kernel.arch.disassembler().disasm(code, start))
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
    size = offset + _AFTER * context.kernel.arch.instruction_longest
    try:
        return places[0], context.kernel.virtual.read(places[0], size)
    except KdumpError:
        return None


def _from_log(code: str, name: str, offset: int) -> list[str]:
    """From a "Code:" line, which says at which byte the failing instruction begins."""
    for machine in arch.known():
        found = machine.failing_code(code)
        if found is None:
            continue
        engine, step = machine.disassembler(), machine.instruction_step
        # Where the first instruction begins is not known: take the first start from which one begins at the fault.
        for first in range(0, found.fault + 1, step):
            instructions: list[CsInsn] = list(engine.disasm(found.raw[first:], offset - found.fault + first))
            if any(instruction.address == offset for instruction in instructions):
                return _lines(instructions, 0, offset, name)
    return [code] if code else []


def _lines(instructions: list[CsInsn], start: int, fault: int, name: str) -> list[str]:
    place = next((number for number, found in enumerate(instructions) if found.address == fault), None)
    if place is None:
        return []
    lines = []
    for found in instructions[max(place - _BEFORE, 0) : place + _AFTER]:
        if found.address <= fault + _FAR:  # what a log shows may begin before the function, at 2**64 - n
            mark = ">" if found.address == fault else " "
            lines.append(f"{mark} {name}+{found.address - start:#x}:  {found.mnemonic} {found.op_str}".rstrip())
    return lines
