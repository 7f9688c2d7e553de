"""dis: instructions by capstone, with symbols, and with source lines where debug information is available."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from drgn.commands import CommandError, argument

from kdump.bench.commands.base import Session, add
from kdump.errors import KdumpError

if TYPE_CHECKING:
    import argparse

_LONGEST: Final = 1 << 20  # bytes of a function
_MOST: Final = 100_000  # instructions
_ADDRESS: Final = re.compile(r"(?<![$\w(])(?:0x[0-9a-f]{9,16})\b(?!\()")
_LARGE: Final = re.compile(r"\$(\d{10,20})\b")  # capstone writes what is an address in decimal


@add(
    "dis",
    "disassemble",
    argument("-r", dest="reverse", action="store_true", help="from the function's start to the address"),
    argument("-f", dest="forward", action="store_true", help="from the address to the function's end"),
    argument("-l", dest="lines", action="store_true", help="with source lines, where debug information is loaded"),
    argument("-x", dest="base", action="store_const", const=16, help="offsets in hexadecimal"),
    argument("-d", dest="base", action="store_const", const=10, help="offsets in decimal"),
    argument("address", help="a symbol, symbol+offset, or a hexadecimal address"),
    argument("count", nargs="?", type=int, help="instructions; the whole function without it, one for an address"),
)
def _dis(session: Session, args: argparse.Namespace) -> None:
    address = session.address(args.address)
    found = session.kernel.symbolizer.at(address)
    named = found is not None and bool(found.name)
    start = found.address if found is not None and named else address
    end = start + found.size if found is not None and named else address
    exact = named and address == start
    count = args.count
    if count is None:
        count = _MOST if (exact or args.reverse or args.forward) else 1
    if not 0 < count <= _MOST:
        raise CommandError(f"{count}: 1 to {_MOST} instructions")
    if not named and (args.reverse or args.forward):
        raise CommandError(f"{address:x} is in no function that is known")
    first = start if args.reverse else address
    whole = args.reverse or args.forward or (exact and args.count is None)
    longest = session.kernel.arch.instruction_longest
    size = min(end - first, _LONGEST) if whole else min(count * longest, _LONGEST)
    code = _read(session, first, size)
    shown = ""
    for instruction in session.kernel.arch.disassembler().disasm(code, first, 0 if whole else count):
        if args.reverse and instruction.address > address:
            break
        if args.lines:
            shown = _source(session, instruction.address, shown)
        print(_line(session, instruction, args.base or session.base))


def _line(session: Session, instruction: object, base: int) -> str:
    address, mnemonic, operands = instruction.address, instruction.mnemonic, instruction.op_str  # type: ignore[attr-defined]

    def annotated(match: re.Match[str]) -> str:
        name = session.name(int(match[0], 16), base=base)
        return f"{match[0]} <{name}>" if name else match[0]

    operands = _ADDRESS.sub(annotated, _LARGE.sub(lambda match: f"${int(match[1]):#x}", operands))
    place = session.name(address, base=base)
    return f"{address:#x} <{place}>:\t{mnemonic:<6} {operands}".rstrip()


def _read(session: Session, address: int, size: int) -> bytes:
    """As many bytes as there are; an error if there is not even the first one."""
    found = b""
    while len(found) < size:
        piece = min(size - len(found), 4096 - (address + len(found)) % 4096)
        try:
            found += session.kernel.virtual.read(address + len(found), piece)
        except KdumpError:
            if not found:
                raise
            break
    return found


def _source(session: Session, address: int, shown: str) -> str:
    """Print the source line of an address if it is not the one that was shown last; returns it."""
    try:
        place = session.program.source_location(address)[-1]
    except LookupError:
        return shown
    line = f"{place.filename}: {place.line}"
    if line != shown:
        print(line)
    return line
