"""The parts of an oops that are specific to arm64.

Sources: arch/arm64/kernel/traps.c (dump_kernel_instr, dump_instr before 5.x), arch/arm64/mm/fault.c (mem_abort_decode,
die_kernel_fault), arch/arm64/kernel/traps.c (esr_class_str); Arm ARM, D19.2.40 (ESR_EL1: EC, ISS of data and
instruction aborts).
"""

from __future__ import annotations

import re

from kdump.arch.architecture import FailingCode, Fault

_CODE = re.compile(r"(?:(?:[0-9a-f]{8}|\?{8}|bad value) )*\((?P<last>[0-9a-f]{8})\) ?")
_DATA_ABORTS, _INSTRUCTION_ABORTS = (0x24, 0x25), (0x20, 0x21)
_CLASSES = {
    0x00: "an instruction that the processor does not know",
    0x0D: "a branch target that has no landing pad (BTI)",
    0x0E: "an illegal execution state",
    0x1C: "a failed pointer authentication",
    0x22: "an unaligned program counter",
    0x26: "an unaligned stack pointer",
    0x2F: "an asynchronous error (SError)",
    0x3C: "a BRK instruction",
}
_FAULTS = (
    (0x00, 0x03, "the address is too large"),
    (0x04, 0x07, "nothing is mapped there"),
    (0x08, 0x0B, "the mapping has no access flag"),
    (0x0C, 0x0F, "the mapping does not permit it"),
    (0x10, 0x10, "the memory answered with an error"),
    (0x11, 0x11, "the tag of the pointer is not that of the memory"),
    (0x13, 0x17, "a page table could not be read"),
    (0x18, 0x18, "the memory has a parity or ECC error"),
    (0x1B, 0x1F, "a page table has a parity or ECC error"),
    (0x21, 0x21, "the address is unaligned"),
    (0x30, 0x30, "entries of the TLB contradict each other"),
)
_CM, _WNR, _LEVELS = 1 << 8, 1 << 6, range(0x04, 0x10)

_REGISTER = re.compile(r"\b(x\d{1,2}|sp|lr|pc|pstate) ?: ?([0-9a-f]{8,16})\b")
_SYNDROME = re.compile(
    r"\bESR(?: =|:)? (?:0x)?(?P<number>[0-9a-f]{8,16})\b|Internal error: .*?: (?P<old>[0-9a-f]{8,16}) \[#"
)


def registers(line: str) -> list[tuple[str, int]]:
    """Registers as show_regs() names them, PSTATE among them."""
    return [(name, int(value, 16)) for name, value in _REGISTER.findall(line)]


def explain_fault(line: str) -> Fault | None:
    """The exception's syndrome in words, if the line has it."""
    found = _SYNDROME.search(line) if "ESR" in line or "Internal error" in line else None
    return explain_syndrome(int(found["number"] or found["old"], 16)) if found else None


def failing_code(line: str) -> FailingCode | None:
    """Instructions as numbers, the failing one last and in parentheses."""
    if not _CODE.fullmatch(line):
        return None
    readable = re.split(r"\?{8}|bad value", line)[-1]  # what could not be read leaves a gap: what follows it is shown
    words = re.findall(r"[0-9a-f]{8}", readable)
    return FailingCode(b"".join(bytes.fromhex(word)[::-1] for word in words), 4 * (len(words) - 1))


def explain_syndrome(number: int) -> Fault | None:
    """An exception in words, from ESR_EL1; None if its class is not known here."""
    kind, status = number >> 26 & 0x3F, number & 0x3F
    if kind not in _DATA_ABORTS + _INSTRUCTION_ABORTS:
        return Fault("", _CLASSES[kind]) if kind in _CLASSES else None
    if kind in _INSTRUCTION_ABORTS:
        access = "instruction fetch"
    elif number & _CM:  # cache maintenance
        access = ""
    else:
        access = "write" if number & _WNR else "read"
    why = next((text for first, last, text in _FAULTS if first <= status <= last), f"fault status {status:#04x}")
    level = f" (level {status & 3} of the page tables)" if status in _LEVELS else ""
    return Fault(access, why + level)
