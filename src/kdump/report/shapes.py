"""Shapes of the lines that show a stack or a program counter, of every architecture and every age, as data.

Sources: lib/vsprintf.c (%pS), arch/*/kernel/{dumpstack,traps,process}.c, arch/arm/kernel/traps.c
(dump_backtrace_entry()), arch/powerpc/kernel/process.c (show_stack()), scripts/decode_stacktrace.sh.
"""

# ruff: noqa: E501 - tables of regular expressions read better unbroken

from __future__ import annotations

import re

from kdump.report.model import Frame

# A function as %pS prints it. Rust's names hold "::", "<" and, within brackets, spaces.
_NAME = r"(?P<function>(?:<(?:[^<>+()]|<[^<>+()]*>)*>|[A-Za-z_$.])[\w.$:<>{}#*&,-]*)"
_PLACE = r"\+0x(?P<offset>[0-9a-f]{1,32})/0x(?P<size>[0-9a-f]{1,32})"
_SYMBOL = _NAME + _PLACE
# " [ext4]", " [ext4 5d2e…]" (build ID), " [ext4(O)]"
_MODULE = r"(?: \[(?P<module>[A-Za-z_][\w-]*)[^\]]*\])?"
# decode_stacktrace.sh: " fs/read_write.c:389", also "(discriminator 3)"; "?:?" where it does not know
_SOURCE = r"(?: (?:[\w./+-]+\.[chSs]|[\w./+-]+\.rs|\?\?):(?:\d+|\?)(?: \(discriminator \d+\))?)*"
# Words around addresses and marks that may stand before a frame: "[<ffffffff81001234>]", "([<00000000>])",
# "[c000000012345678] [c000000000012345]", "<IRQ>", "<<EOE>>".
_ADDRESS = r"\(?\[(?:<)?(?:0x)?[0-9a-f]{6,16}(?:>)?\]\)? *"
_MARK = r"(?:</?<?[A-Z#][A-Z0-9_#]*>?> *)"
_BEFORE = rf"^ *{_MARK}*(?:{_ADDRESS}){{0,2}} *(?P<unsure>\? +)?"
_AFTER = r"(?P<unreliable>\)? \(unreliable\))?(?: \([A-Z, ]{1,12}\))?\)? *$"

_PLAIN = re.compile(_BEFORE + _SYMBOL + _MODULE + _SOURCE + _MODULE.replace("module", "late") + _AFTER)
# decode_stacktrace.sh since 3.16: "vfs_read (fs/read_write.c:389 (discriminator 1) fs/read_write.c:480) ext4"
_DECODED = re.compile(
    _BEFORE
    + r"(?P<function>[A-Za-z_$.][\w.$]*) \((?P<source>(?:[\w./+-]+:\d+(?: \(discriminator \d+\))? ?)+|\?\?:\?)\)"
    r"(?: \[?(?P<module>[a-z_][\w-]*)[^\]]*\]?)? *$"
)
_INLINED = re.compile(r"^ *(?:\? +)?[A-Za-z_$.<][\w.$:<>]* [\w./+-]+:\d+ \[inline\] *$")
# "[<c0123456>] (seq_vprintf [mod]) from [<c0123458>] (seq_printf+0x3c/0x5c [mod])", since 5.18 " f from g+0x3c/0x5c"
_ARM = re.compile(
    rf"^ *(?:{_ADDRESS})?\(?(?P<callee>[A-Za-z_$.][\w.$]*)(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?(?: \[(?P<its>[\w-]+)[^\]]*\])?\)?"
    rf" from (?:{_ADDRESS})?\(?{_SYMBOL}{_MODULE}\)?{_SOURCE} *$"
)
# A program counter: (architecture's word, whether its line may be of user space).
_COUNTERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"^(?:E|R)?IP:? +(?:(?P<cs>[0-9a-f]{4}):|is at )?(?P<where>.*)$",  # x86, also "IP:" of page faults
        r"^(?:pc|PC)(?: is at| +:) *(?P<where>.*)$",  # arm, arm64, RISC-V, LoongArch
        r"^NIP \[[0-9a-f]+\] (?P<where>.*)$",  # powerpc
        r"^Krnl PSW : [0-9a-f]+ [0-9a-f]+ \((?P<where>[^)]*)\)",  # s390
        r"^e(?:pc|ra) +: (?:[0-9a-f]+ )?(?P<where>.*)$",  # MIPS, RISC-V, LoongArch
        r"^TPC: <(?P<where>[^>]*)>",  # SPARC
    )
)
_ANYWHERE = re.compile(rf"(?:^|[ (\]]){_SYMBOL}{_MODULE}")
_DECODED_WHERE = re.compile(r"^(?P<function>[A-Za-z_$.][\w.$]*) \((?:[\w./+-]+:\d+|\?\?:\?)")
_INTERRUPTED = re.compile(
    rf"^ *-+(?:\[ interrupt|\w* interrupt|Exception): ?(?P<vector>[0-9a-f]+)\]? +at {_SYMBOL}{_MODULE}"
)
# What stands between the frames of one stack: marks, nameless addresses, registers of an interrupted context, code.
_BETWEEN = re.compile(
    rf"^ *(?:{_MARK}+$|{_ADDRESS}|\? |0x[0-9a-f]+|[ER]?IP:|[ER]?SP:|(?:R|E)[A-Z0-9]{{2}}: |R\d\d: |Code: |CR[0-4]: |[CDEFGS]S: |DR[0-7]: |PKRU: |EFLAGS|ORIG_RAX"
    r"|[xr]\d+ ?: ?[0-9a-f]|sp : |lr : |pstate: |psr:|pc : |Exception stack|[0-9a-f]{4}: |(?:NIP|LR|REGS|MSR|GPR\d\d|CFAR|IRQMASK|CR|XER|CTR|SOFTE|DAR|LR)[: ]"
    r"|-+ ?(?:\[ )?interrupt|-+Exception|Stack ?: |gp ?: |[stra]\d+ ?: |\.\.\. |[0-9a-f]{8} |\[\.\.\.\]|INFO: lockdep is turned off|\(null\)|\(stack is not available\)|\*\* \d+ printk)"
)
# The headline of a stack.
CALL_TRACE = re.compile(
    r"(?i)^ *(?:.{0,40}\b)?(?:call trace|(?:stack )?backtrace|stack trace|Trace)(?: \(crc [0-9a-f]+\))?: *(?:frame pointer underflow)?$"
)


def is_between(text: str) -> bool:
    """Whether a line may stand between the frames of one stack."""
    text = text.strip()
    return not text or _BETWEEN.match(text) is not None


def frames(text: str, before: Frame | None) -> list[Frame] | None:
    """The frames that a line shows: none where it is a guess or an inlined call, None where it is not a frame.

    `before` is the last frame of this stack: arm prints callee and caller, so that each function comes twice.
    """
    text = text.strip()
    if "+0x" not in text and ":" not in text:
        return None
    if match := _ARM.match(text):
        caller = _frame(match)
        known = before is not None and before.function == match["callee"]
        return [caller] if known else [Frame(match["callee"], module=match["its"] or ""), caller]
    if match := _PLAIN.match(text):
        found = _frame(match, match["module"] or match["late"] or "")
        return [] if match["unsure"] or match["unreliable"] else [found]
    if _INLINED.match(text):
        return []
    if match := _INTERRUPTED.match(text):
        return [interrupted(_frame(match))]
    if match := _DECODED.match(text):
        return [] if match["unsure"] else [Frame(match["function"], module=match["module"] or "")]
    return None


def counter(text: str) -> tuple[Frame | None, bool] | None:
    """The program counter of a line and whether it is the kernel's; None if the line shows none.

    The frame is None where the counter points to no function ("RIP: 0010:0x0") or is an inlined call's line.
    """
    text = text.lstrip()
    for pattern in _COUNTERS:
        if match := pattern.match(text):
            groups = match.groupdict()
            selector = groups.get("cs")
            kernel = selector is None or int(selector, 16) & 3 == 0
            return where(match["where"]), kernel
    return None


def where(text: str) -> Frame | None:
    """The first function named in a piece of text."""
    if match := _ANYWHERE.search(text):
        return _frame(match)
    if match := _DECODED_WHERE.match(text.strip()):
        return Frame(match["function"])
    return None


def is_inlined(text: str) -> bool:
    """Whether a line of a program counter is of an inlined call (decode_stacktrace.sh prints one line for each)."""
    return text.rstrip().endswith("[inline]")


def _frame(match: re.Match[str], module: str | None = None) -> Frame:
    name = match["module"] or "" if module is None else module
    return Frame(match["function"], int(match["offset"], 16), int(match["size"], 16), name)


def interrupted(frame: Frame) -> Frame:
    """A frame as the one that an exception interrupted."""
    return Frame(frame.function, frame.offset, frame.size, frame.module, context="exception")
