"""The rungs: what is read out of the dead kernel's memory and written to a stream."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from kdump.capture.plan import KEEP, SCRUB, CapturePlan
from kdump.errors import KdumpError
from kdump.kernel.kernel import Kernel
from kdump.kernel.printk import format_record
from kdump.memory.protocol import Dump
from kdump.report import sections
from kdump.targets.protocol import Stream

if TYPE_CHECKING:
    from kdump.dump.keep import Kept
    from kdump.dump.pipeline import Summary
    from kdump.dump.scrub.found import Found

# Imported by name: the sections, and what numpy.unique asks.
__capture_imports__ = (*(f"{sections.__name__}.{name}" for name in sections.SHORT), "numpy.ma")

BETWEEN = b"\0"
_SPARSEST = 31
_BATCH = 128  # pages compressed together: more costs memory and is not faster
_FRUGAL_BATCH = 32


def dmesg(dump: Dump, stream: Stream) -> list[str]:
    """The kernel's log from its ring buffer, as its console prints it; returns what of it could not be read."""
    log = Kernel(dump).log()
    text = "".join(f"{line}\n" for record in log.records for line in format_record(record))
    text += "".join(f"# {sentence}\n" for sentence in log.lost)
    if not text:
        raise KdumpError("the kernel's log is empty")
    stream.write(text.encode("utf-8", "replace"))
    return log.lost


def report(dump: Dump) -> bytes:
    """The short report as text and as JSON, and hints for the dump, with BETWEEN between them.

    Takes some 15 MB: to be run in a child, which has open what tells these hints, the kernel's types and symbols.
    """
    from kdump.dump.hints import find_hints, to_json
    from kdump.report import json, text
    from kdump.report.build import build
    from kdump.report.context import Context

    kernel = Kernel(dump)
    made = build(Context(kernel), dump.path, short=True)
    pages = ["".join(f"{line}\n" for line in render(made)) for render in (text.render, json.render)]
    return BETWEEN.join(page.encode("utf-8", "replace") for page in (*pages, to_json(find_hints(kernel))))


def special(dump: Dump, plan: CapturePlan) -> bytes:
    """What the dump shall be without, and have beyond its level: `Found` and `Kept` as JSON, BETWEEN between them.

    To be run in a child, as the report is.
    """
    from kdump.dump.levels import USER

    kernel = Kernel(dump)
    scrub = keep = ""
    if plan.scrub:  # by name: the image holds these only if the plan needs them
        processes = bool(plan.processes) or not plan.level & USER
        scrub = import_module(SCRUB).look(kernel, plan.scrub, processes=processes).to_json()
    if plan.processes:
        keep = import_module(KEEP).find_pages(kernel, plan.processes).to_json()
    return BETWEEN.join((scrub.encode(), keep.encode()))


class Around(NamedTuple):
    """The callbacks of a dump in progress: see `kdump.dump.pipeline.Options`."""

    progress: Callable[[str, int, int], None]
    stop: Callable[[], str]
    room: Callable[[], int | None]
    say: Callable[[str], None]
    hints: bytes = b""  # the last thing that `report` gives
    special: bytes = BETWEEN  # what `special` gives


def vmcore(
    dump: Dump,
    begin: Callable[[], Stream],
    plan: CapturePlan,
    around: Around,
    *,
    frugal: bool = False,
) -> Summary:
    """The filtered, compressed dump, written to the stream that `begin()` gives; it is left to the caller to seal.

    `frugal`: small batches and no threads, for a second attempt after the first was killed. If the disk is full or will
    be, a dump without any page that can be spared is tried before it is given up.
    """
    # Imported here: NumPy takes seconds under emulation, and the log must be safe before that.
    from kdump.dump.hints import Hints, from_json
    from kdump.dump.pipeline import Options, save

    hints = from_json(around.hints) if around.hints else Hints()
    scrub, keep = around.special.split(BETWEEN)
    options = Options(
        levels=tuple(dict.fromkeys((plan.level, _SPARSEST))),
        codec=plan.codec,
        compression_level=plan.codec_level,
        threads=plan.cpus if plan.cpus > 1 and not frugal else 0,
        batch=_FRUGAL_BATCH if frugal else _BATCH,
        progress=around.progress,
        stop=around.stop,
        room=around.room,
        warn=around.say,
        find=lambda _kernel: hints,
        scrub=(lambda _kernel, _level: _found(scrub)) if scrub else None,
        keep=(lambda _kernel: _kept(keep)) if keep else None,
    )
    return save(dump, begin, options)


def _found(text: bytes) -> Found:
    from kdump.dump.scrub.found import Found

    return Found.from_json(text)


def _kept(text: bytes) -> Kept:
    from kdump.dump.keep import Kept

    return Kept.from_json(text)
