"""bt: stacks as our unwinder finds them, with every frame that the report shows; all symbols on a stack; exceptions."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from drgn import Object
from drgn.commands import argument
from drgn.commands._crash.common import Cpuspec, parse_cpuspec, print_task_header
from drgn.helpers.common.stack import print_registers
from drgn.helpers.linux.sched import cpu_curr

from kdump.arch.stacks import Frame, Registers
from kdump.bench.commands.base import Session, extend
from kdump.errors import KdumpError

if TYPE_CHECKING:
    import argparse

    from kdump.kernel.task import Task

_SWITCHES: Final = {"action": "store_true"}
_PC: Final = {"ip": "RIP"}


@extend(
    "bt",
    argument("-s", dest="offsets", help="symbols with offsets", **_SWITCHES),
    argument("-x", dest="hexadecimal", help="with -s: offsets in hexadecimal", **_SWITCHES),
    argument("-t", dest="text", help="every text symbol on the stack from where it was left", **_SWITCHES),
    argument("-T", dest="all_text", help="every text symbol on the whole stack", **_SWITCHES),
    argument("-e", dest="exceptions", help="exception frames on the stack: of interrupts, faults, system calls",
             **_SWITCHES),
    each=True,
)  # fmt: skip
def _bt(session: Session, args: argparse.Namespace, theirs: Callable[[], Any]) -> Any:
    if args.frame or args.frame_symbolic or args.drgn_style or args.show_variables:
        return theirs()
    for number, task in enumerate(_chosen(session, args)):
        if number:
            print()
        print_task_header(task)
        try:
            _one(session, args, session.task(task))
        except KdumpError as error:  # damage ends one stack, not those of others
            print(f"    ({error})")
    return None


def _chosen(session: Session, args: argparse.Namespace) -> Iterator[Object]:
    program = session.program
    spec = None
    if getattr(args, "all_cpus", False):
        spec = Cpuspec(all=True)
    elif getattr(args, "cpus", None):
        spec = parse_cpuspec(args.cpus)
    elif getattr(args, "panic", False):
        spec = Cpuspec(panic=True)
    if spec is None:
        yield from session.tasks(args.tasks)
        return
    online = session.kernel.objects.cpus("online")
    for cpu in spec.cpus(program):
        if cpu in online:
            yield cpu_curr(program, cpu)


def _one(session: Session, args: argparse.Namespace, task: Task) -> None:
    stack = session.context.tasks.stack(task)
    low, words = _words(session, task)
    if args.text or args.all_text:
        start = stack.frames[0].sp if args.text and stack.frames else low
        _text(session, low, words, start)
        if stack.user:
            _registers(session, stack.user)
        return
    if args.exceptions:
        for frame in stack.frames:
            if frame.registers:
                print(f"\n  KERNEL-MODE EXCEPTION FRAME{_at(low, words, frame.registers)}")
                print(f"    [exception {_PC.get(frame.registers.PC, 'PC')}: {session.name(frame.pc)}]")
                _registers(session, frame.registers)
        if stack.user:
            print(f"\n  USER-MODE EXCEPTION FRAME{_at(low, words, stack.user)}")
            _registers(session, stack.user)
        return
    base = 16 if args.hexadecimal else session.base
    for number, frame in enumerate(stack.frames):
        if frame.registers and number:
            print(f"    [exception {_PC.get(frame.registers.PC, 'PC')}: {session.name(frame.pc, base=base)}]")
            _registers(session, frame.registers)
        name = _name(session, frame, base, plain=not args.offsets)
        print(f"{f'#{number}':>3} [{frame.sp:016x}] {name} at {frame.pc:x}{_module(session, frame)}")
        if args.show_file_line:
            _source(session, frame)
    if stack.note:
        print(f"    ({stack.note})")
    if stack.user:
        _registers(session, stack.user)


def _name(session: Session, frame: Frame, base: int, *, plain: bool) -> str:
    found = session.kernel.symbolizer.at(frame.lookup)
    if found is None or not found.name:
        return "(unknown)"
    offset = frame.pc - found.address
    return str(found.name) if plain else f"{found.name}+{offset:#x}" if base == 16 else f"{found.name}+{offset}"


def _module(session: Session, frame: Frame) -> str:
    found = session.kernel.symbolizer.at(frame.lookup)
    return f" [{found.module}]" if found is not None and found.module else ""


def _source(session: Session, frame: Frame) -> None:
    try:
        place = session.program.source_location(frame.lookup)[-1]
    except LookupError:
        return
    print(f"    {place.filename}: {place.line}")


def _words(session: Session, task: Task) -> tuple[int, tuple[int, ...]]:
    """The task's whole stack: its lowest address, and its 64-bit words; none where the dump lacks it."""
    low = int(task.struct.stack)
    try:
        size = session.program["THREAD_SIZE"].value_()
        return low, struct.unpack(f"<{size // 8}Q", session.kernel.virtual.read(low, size))
    except (KdumpError, LookupError):
        return low, ()


def _text(session: Session, low: int, words: tuple[int, ...], start: int) -> None:
    if not words:
        print("    (the dump has not this stack)")
    ranges = [(session.kernel.symbols.address("_stext"), session.kernel.symbols.address("_etext"))]
    ranges += [part for module in session.kernel.modules for part in module.text]
    for place, word in enumerate(words):
        at = low + 8 * place
        if at >= start and any(first <= word < end for first, end in ranges):
            name = session.name(word, plain=True)
            if name:
                print(f"  [{at:016x}] {name} at {word:x}")


def _at(low: int, words: tuple[int, ...], registers: Registers) -> str:
    """Where these registers lie on the stack, as the kernel keeps them (struct pt_regs)."""
    values = tuple(registers.values)
    for place in range(len(words) - len(values) + 1):
        if words[place] == values[0] and words[place : place + len(values)] == values:
            return f" AT: {low + 8 * place:x}"
    return ""


def _registers(session: Session, registers: Registers) -> None:
    """In crash's layout, where drgn knows it; its names of x86's registers are the processor's."""
    values = dict(zip(registers.NAMES, registers.values, strict=True))
    if "ax" in values:
        values = {name if name[0] == "r" or name in ("cs", "ss") else f"r{name}": each for name, each in values.items()}
    if "x30" in values:
        values["lr"] = values["x30"]
    print_registers(session.program, values)
