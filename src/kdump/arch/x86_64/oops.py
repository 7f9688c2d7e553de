"""The parts of an oops that are specific to x86. Sources: arch/x86/kernel/dumpstack.c (show_opcodes), process_64.c."""

from __future__ import annotations

import re

from kdump.arch.architecture import FailingCode

_CODE = re.compile(r"(?:[0-9a-f]{2} )*<[0-9a-f]{2}>(?: [0-9a-f]{2})*")

_REGISTER = re.compile(
    r"\b(R[A-DS][XIP]|R\d\d|R[DS]I|RBP|RSP|CR2|EFLAGS|ORIG_RAX): ?(?:[0-9a-f]{4}:)?([0-9a-f]{8,16})\b"
)


def registers(line: str) -> list[tuple[str, int]]:
    """Registers and CR2, by their names in lower case."""
    return [(name.lower(), int(value, 16)) for name, value in _REGISTER.findall(line)]


def failing_code(line: str) -> FailingCode | None:
    """Bytes, of which the first of the failing instruction is in angle brackets."""
    if not _CODE.fullmatch(line):
        return None
    before, _, _ = line.partition("<")
    return FailingCode(bytes.fromhex(re.sub(r"[<>]", "", line)), len(bytes.fromhex(before)))
