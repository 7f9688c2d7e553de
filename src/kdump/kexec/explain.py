"""A description of what was or would be loaded, for people and programs: method and why, command line option by
option, a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kdump.kexec.cmdline import CommandLine
from kdump.kexec.load import by_either, changes_against_record, may_choose, plan_for
from kdump.kexec.load_plan import Placed
from kdump.kexec.memory_map import Entry, subtract
from kdump.kexec.sources import FILE, Sources, choose_method
from kdump.kexec.state import KexecState
from kdump.memory.protocol import Range
from kdump.units import size_text

BAR = 24  # characters that the whole reservation takes
WIDTH = 80


class Row(NamedTuple):
    """A piece of the picture: physical address (None where the kernel chooses it), size in bytes, name, "" if free."""

    address: int | None
    size: int
    name: str


class Explanation(NamedTuple):
    """The model behind text and JSON. `rows` go from the highest address down; `free` is what they leave, in bytes."""

    kernel: str
    image: str
    method: str
    why: str
    line: CommandLine
    reservation: tuple[Range, ...]
    reserved: int
    rows: tuple[Row, ...]
    free: int
    e820: tuple[Entry, ...]
    hotplug: str
    changed: tuple[str, ...]


def explain(
    sources: Sources, line: CommandLine, *, wanted: str, state: KexecState, root: Path = Path("/")
) -> Explanation:
    """Work out what loading by the method `wanted` would do, without doing it. Raises KdumpError as loading would."""
    kernel = sources.kernel
    chosen = choose_method(kernel, state, wanted, root=root)
    plan, (method, why) = by_either(
        lambda by: None if by == FILE else plan_for(sources, line.text, state, root=root),
        chosen,
        fall_back=may_choose(wanted, sources, state),
    )
    if plan is None:
        image = len(sources.initrd or b"")
        rows = [Row(None, kernel.span, "kernel"), *([Row(None, image, "image")] if image else [])]
        e820: tuple[Entry, ...] = ()
        reservation = state.reservation
        free = state.room - sum(row.size for row in rows)
    else:
        rows, e820, reservation = _picture(plan.segments, plan.space), plan.e820, plan.space
        free = sum(row.size for row in rows if not row.name)
    return Explanation(
        kernel=f"{sources.kernel_path} ({kernel.kind}{', ' + kernel.release if kernel.release else ''})",
        image=_image_text(sources),
        method=method,
        why=why,
        line=line,
        reservation=tuple(reservation),
        reserved=state.room,
        rows=tuple(rows),
        free=free,
        e820=e820,
        hotplug=_hotplug_text(state),
        changed=tuple(changes_against_record(sources, line.text, chosen[0], state, root=root)),
    )


def to_text(explanation: Explanation) -> str:
    """For a terminal: at most 80 columns where addresses and options allow."""
    return "\n".join(_text_lines(explanation))


def to_json(explanation: Explanation) -> dict[str, Any]:
    """For a program: addresses and sizes are numbers, in bytes; an address the kernel chooses is null."""
    return {
        "kernel": explanation.kernel,
        "image": explanation.image,
        "method": explanation.method,
        "why": explanation.why,
        "cmdline": explanation.line.text,
        "options": [decision._asdict() for decision in explanation.line.decisions],
        "reservation": [{"start": part.start, "end": part.end} for part in explanation.reservation],
        "reserved": explanation.reserved,
        "segments": [row._asdict() for row in reversed(explanation.rows) if row.name],
        "free": explanation.free,
        "e820": [{"start": each.range.start, "end": each.range.end, "type": each.type} for each in explanation.e820],
        "hotplug": explanation.hotplug,
        "changed": explanation.changed,
    }


def _text_lines(explanation: Explanation) -> Iterator[str]:
    yield f"kernel  {explanation.kernel}"
    yield f"image   {explanation.image}"
    yield from textwrap.wrap(f"method  {explanation.method}: {explanation.why}", WIDTH, subsequent_indent=" " * 8)
    yield ""
    places = ", ".join(f"{part.start:#x}-{part.end - 1:#x}" for part in explanation.reservation)
    yield f"reservation: {size_text(explanation.reserved)}{' at ' + places if places else ''}"
    for row in explanation.rows:
        bar = ("#" if row.name else ".") * max(1, round(BAR * row.size / explanation.reserved))
        address = f"{row.address:#14x}" if row.address is not None else f"{'':14}"
        yield f"{address}  {row.name or 'free':<20} {size_text(row.size):>9}  {bar}"
    if explanation.method == FILE:
        yield "  The kernel places these itself, with some KiB of its own beside them;"
        yield f"  {size_text(max(0, explanation.free))} stay free for it, and later for the capture."
    yield ""
    yield "command line:"
    yield from textwrap.wrap(explanation.line.text, WIDTH, initial_indent="  ", subsequent_indent="  ",
                             break_long_words=False, break_on_hyphens=False)  # fmt: skip
    yield ""
    for decision in explanation.line.decisions:
        head = f"  {decision.action:<8} {decision.option}"
        reason = textwrap.wrap(decision.reason, WIDTH - 38)
        if len(head) > 36:
            yield head
            head = ""
        for piece in reason:
            yield f"{head:<37} {piece}"
            head = ""
    yield ""
    yield from textwrap.wrap(f"hotplug: {explanation.hotplug}", WIDTH, subsequent_indent="  ")
    if explanation.changed:
        yield from textwrap.wrap(f"not loaded yet: {', '.join(explanation.changed)}", WIDTH, subsequent_indent="  ")
    else:
        yield "loaded: this is what is in place"


def _picture(segments: tuple[Placed, ...], space: tuple[Range, ...]) -> list[Row]:
    """Segments and the free space between them, from the top down."""
    rows = [Row(placed.address, placed.size, placed.name) for placed in segments]
    rows += [Row(part.start, part.size, "") for part in subtract(space, [placed.range for placed in segments])]
    return sorted(rows, key=lambda row: row.address or 0, reverse=True)


def _hotplug_text(state: KexecState) -> str:
    """Who keeps the core headers right when CPUs or memory come and go."""
    if state.keeps_up or state.elfcorehdr_size:
        return "the kernel updates the core headers itself when CPUs or memory come or go"
    return "this kernel does not update the core headers; kdump's udev rule loads again when CPUs or memory come or go"


def _image_text(sources: Sources) -> str:
    if sources.initrd is None:
        return "none"
    where = str(sources.initrd_path or f"{sources.kernel_path} (.initrd)")
    return f"{where} ({size_text(len(sources.initrd))})"
