"""search: of what the dump has; drgn's own stops at the first page that the dump leaves out.

Pieces of memory that follow one another are searched as one, so that what lies across pages is found. Each is read in
blocks, for memory may be far larger than this machine's.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from drgn.commands import CommandError
from drgn.commands._crash.common import print_task_header
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.sched import cpu_curr

from kdump.bench.commands.base import Session, extend
from kdump.errors import KdumpError

if TYPE_CHECKING:
    import argparse

_END: Final = 1 << 64
_BLOCK: Final = 1 << 24  # bytes that are read at a time
_SHOWN: Final = 56  # characters of a string that was found, as crash shows
_LONGEST: Final = 4096  # bytes of a string to search for
Read = Callable[[int, int], bytes]
Find = Callable[[bytes], Iterator[tuple[int, str]]]


@extend("search")
def _search(session: Session, args: argparse.Namespace, theirs: Callable[[], Any]) -> None:
    del theirs
    if args.strings and (args.ignore_mask is not None or args.context is not None):
        raise CommandError("-m and -x cannot be used with -c")
    if args.context is not None and not 0 <= args.context <= 1024:
        raise CommandError(f"-x {args.context}: 0 to 1024 units")
    unit = 4 if args.u32 else 2 if args.u16 else session.program.address_size()
    find, longest = _strings(args.values) if args.strings else (_numbers(session, args, unit), unit)
    space = session.kernel.memory if args.physical else session.kernel.virtual

    def read(address: int, size: int) -> bytes:
        return bytes(space.view(address, size))

    def show(start: int, end: int, title: Callable[[], None] | None = None) -> None:
        for first, last in _joined(_held(session, start, end, physical=args.physical)):
            for address, text in _found(read, first, last, find, longest):
                if title:
                    title()
                    title = None
                _print(read, address, text, (args.context or 0) * unit, unit)

    if args.task_stacks or args.active_task_stacks:
        if args.start or args.end or args.length:
            raise CommandError("-s, -e and -l cannot be used with -t and -T")
        _stacks(session, show, active=args.active_task_stacks)
        return
    start, end = _range(session, args)
    show(start, end)


def _range(session: Session, args: argparse.Namespace) -> tuple[int, int]:
    def address(value: Any) -> int:
        return session.address(value[1]) if value[0] == "sym" else int(value[1])

    start = address(args.start) if args.start else 0 if args.physical else _kernel_half(session)
    end = address(args.end) if args.end else start + args.length if args.length else _END
    if not 0 <= start < end:
        raise CommandError(f"{start:x} to {end:x}: nothing to search")
    return start, min(end, _END)


def _kernel_half(session: Session) -> int:
    """Where kernel addresses begin."""
    paging = session.kernel.virtual.paging
    if session.kernel.symbols.address("_stext") >> 63 == 0:  # s390x: one space for itself
        return 0
    return _END - (1 << paging.canonical_bits - (0 if paging.upper_only else 1))


def _stacks(session: Session, show: Callable[..., None], *, active: bool) -> None:
    program = session.program
    size = program["THREAD_SIZE"].value_()
    online = session.kernel.objects.cpus("online")
    for task in (cpu_curr(program, cpu) for cpu in online) if active else for_each_task(program, idle=True):
        stack = task.stack.value_()
        if stack:
            show(stack, stack + size, partial(print_task_header, task))


def _numbers(session: Session, args: argparse.Namespace, unit: int) -> Find:
    mask = (1 << 8 * unit) - 1
    ignored = args.ignore_mask or 0
    wanted: dict[int, str] = {}
    for text in args.values:
        value = session.address(text)
        if value > mask:
            raise CommandError(f"{text}: more than {unit} bytes")
        symbol = "" if re.fullmatch(r"(?:0x)?[0-9a-fA-F]+", text) else f" ({text})"
        wanted[value & ~ignored] = f"{value:x}{symbol}"
    kind = np.dtype(f"<u{unit}")
    sought = np.array(sorted(wanted), dtype=kind)
    keep = kind.type(~ignored & mask)

    def find(block: bytes) -> Iterator[tuple[int, str]]:
        values = np.frombuffer(block, kind, len(block) // unit) & keep
        for place in np.flatnonzero(np.isin(values, sought)).tolist():
            yield place * unit, wanted[int(values[place])]

    return find


def _strings(texts: list[str]) -> tuple[Find, int]:
    sought = [text.encode("utf-8", "surrogateescape") for text in texts]
    if not all(0 < len(text) <= _LONGEST for text in sought):
        raise CommandError(f"a string to search for has 1 to {_LONGEST} bytes")
    pattern = re.compile(b"|".join(map(re.escape, sought)))

    def find(block: bytes) -> Iterator[tuple[int, str]]:
        for match in pattern.finditer(block):
            text = block[match.start() : match.start() + max(_SHOWN, len(match[0]))]
            yield match.start(), re.sub(rb"[^ -~]", b".", text).decode("ascii")

    return find, max(_SHOWN, *map(len, sought))


def _found(read: Read, first: int, last: int, find: Find, longest: int) -> Iterator[tuple[int, str]]:
    """The memory in [first, last), a block at a time; blocks overlap so that nothing across two is missed."""
    first += -first % 8 if longest <= 8 else 0  # numbers are where the kernel puts them
    for start in range(first, last, _BLOCK):
        end = min(start + _BLOCK, last)
        try:
            block = read(start, min(end + longest - 1, last) - start)
        except KdumpError as error:
            print(f"({start:x} to {end:x} cannot be read: {error})")
            continue
        for place, text in find(block):
            if start + place < end:
                yield start + place, text


def _print(read: Read, address: int, text: str, around: int, unit: int) -> None:
    if not around:
        print(f"{address:x}: {text}")
        return
    before, after = _words(read, address - around, around, unit), _words(read, address + unit, around, unit)
    print(f"{before}{address:16x}:  {text}\n{after}")


def _words(read: Read, address: int, size: int, unit: int) -> str:
    """Memory around what was found; nothing where the dump does not have it."""
    try:
        block = read(address, size)
    except KdumpError:
        return ""
    values = np.frombuffer(block, f"<u{unit}").tolist()
    each = 16 // unit
    return "".join(
        f"{address + unit * row:16x}:  {' '.join(f'{value:0{2 * unit}x}' for value in values[row : row + each])}\n"
        for row in range(0, len(values), each)
    )


def _held(session: Session, start: int, end: int, *, physical: bool) -> Iterator[tuple[int, int]]:
    """Pieces of [start, end) that the dump has, in order."""
    held = [(run.start, run.end) for run in session.kernel.memory.held()]
    if physical:
        yield from _within(held, start, end)
        return
    for extent in session.kernel.virtual.extents(start, end - start):
        shift = extent.virtual - extent.physical
        for first, last in _within(held, extent.physical, extent.physical + extent.size):
            yield first + shift, last + shift


def _within(held: list[tuple[int, int]], start: int, end: int) -> Iterator[tuple[int, int]]:
    place = max(bisect_right(held, (start, _END)) - 1, 0)
    while place < len(held) and held[place][0] < end:
        first, last = held[place]
        if last > start:
            yield max(first, start), min(last, end)
        place += 1


def _joined(pieces: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same, neighbours as one."""
    pending: tuple[int, int] | None = None
    for first, last in pieces:
        if pending and pending[1] == first:
            pending = pending[0], last
            continue
        if pending:
            yield pending
        pending = first, last
    if pending:
        yield pending
