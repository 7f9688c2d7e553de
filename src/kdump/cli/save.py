"""Filter and compress a dump.

IN is a dump of any format that kdump reads (/proc/vmcore in the capture kernel). With --live there is no IN; the
input is the running kernel's memory. OUT gets its name when it is complete; a dump that ends early stays as
OUT.incomplete. OUT.manifest.json has digests for `kdump verify`. --force replaces regular files only, and never the
input.

The dump level is the sum of what is left out: 1 (zero pages), 2 (page cache), 4 (page cache with private data), 8
(memory of user processes), 16 (free pages), 32 (page cache on no list; only kdump has this bit). With a list such as
1,17,31, kdump goes on to the next level if the disk is full.

Exit status 3: saved, but not as asked (incomplete, or a class of pages could not be identified and was kept).
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from kdump.cli import inputs, values
from kdump.display import shown
from kdump.dump.levels import MOST_PARTS, USER
from kdump.dump.scrub.kinds import ALL, KINDS, parse_kinds
from kdump.errors import UsageError
from kdump.memory import KCORE

if TYPE_CHECKING:
    from kdump.dump.destination import Destination
    from kdump.dump.estimate import Estimate
    from kdump.dump.keep import Kept
    from kdump.dump.pipeline import Options, Summary
    from kdump.dump.scrub.found import Found
    from kdump.kernel.kernel import Kernel

LEVEL = "31"
_CODEC = "zstd"
SHOWN = (0, 1, 16, 17, 23, 25, 31)  # levels in the table of --estimate; JSON has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_output_arguments(parser)
    parser.add_argument("-d", "--level", default=LEVEL, help=f"dump level, or a rising list (default: {LEVEL})")
    parser.add_argument("--live", action="store_true", help="save the running kernel (/proc/kcore; needs root)")
    parser.add_argument(
        "--estimate", action="store_true", help="only print what each level would cost; there is no OUT"
    )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options about the files: those of `kdump save` and `kdump convert`."""
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        help="IN (a dump, or the directory of a crash; several files are a split dump), then OUT; - is a pipe",
    )
    codec = parser.add_mutually_exclusive_group()
    for flag, name, what in (
        ("-z", "zstd", "compress with zstd (default)"),
        ("-c", "zlib", "compress with zlib"),
        ("-l", "lzo", "compress with lzo"),
        ("-p", "snappy", "compress with snappy"),
        ("-n", "none", "do not compress"),
    ):
        codec.add_argument(flag, dest="codec", action="store_const", const=name, help=what)
    parser.add_argument(
        "--codec-level",
        type=values.number(-50, 22),
        metavar="N",
        help="compression level of zstd, -50 to 22",
    )
    parser.add_argument(
        "--scrub", metavar="KINDS", help=f"write zeros instead of secrets: {', '.join(KINDS)}; or {ALL}"
    )
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="NAME",
        help="keep the memory of processes with this name, or in this control group (/PATH), at any level",
    )
    parser.add_argument("--elf", action="store_true", help="write an ELF vmcore (for gdb, Volatility), uncompressed")
    parser.add_argument("--flat", action="store_true", help="write the flattened format, as for a pipe")
    parser.add_argument(
        "--split", type=values.number(1, MOST_PARTS), default=1, metavar="N", help="write N files OUT.1 to OUT.N"
    )
    parser.add_argument(
        "--threads",
        type=values.number(0, values.MOST_THREADS),
        metavar="N",
        help="number of threads that compress (default: one for each CPU)",
    )
    parser.add_argument(
        "--deadline", type=values.duration(), metavar="TIME", help="end the dump as incomplete after this time"
    )
    parser.add_argument("-f", "--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Save; exit status 3 if the result is not all that was asked for."""
    from kdump.dump.destination import Destination
    from kdump.dump.levels import parse_levels
    from kdump.dump.pipeline import Options

    if args.live:
        args.files.insert(0, KCORE)
    if not args.files:
        raise UsageError("no dump is named", remedy="name the dump, then the file to write")
    args.files[:-1] = map(inputs.dump, args.files[:-1])
    if args.estimate:
        _refuse_beside_estimate(args)
        args.files[-1] = inputs.dump(args.files[-1])
        return _estimate(args)
    *source, output = args.files
    if not source:
        raise UsageError("no file to write is named", remedy="name the dump, then the file to write")
    if args.live and len(source) > 1:
        raise UsageError("--live reads the running kernel and no other dump", remedy="kdump save --live OUT")
    if args.elf and (args.codec not in (None, "none") or args.codec_level is not None or args.split > 1):
        raise UsageError(
            "an ELF vmcore is neither compressed nor split",
            remedy="leave out --elf, or -z, -c, -l, -p, --codec-level, --split",
        )
    options = Options(
        levels=parse_levels(args.level),
        container="elf" if args.elf else "kdump",
        codec=args.codec or _CODEC,
        compression_level=args.codec_level or 0,
        threads=args.threads,
        scrub=_scrub(parse_kinds(args.scrub), args.keep) if args.scrub else None,
        keep=_keep(args.keep) if args.keep else None,
    )
    destination = Destination.parse(output, parts=args.split, flat=args.flat, overwrite=args.force)
    return perform(source, destination, options, deadline=args.deadline, as_json=args.json)


def _refuse_beside_estimate(args: argparse.Namespace) -> None:
    """What changes a dump that is not written would be ignored: all levels are estimated, of a dump of all pages."""
    given = {
        "-d": args.level != LEVEL, "--elf": args.elf, "--flat": args.flat, "--split": args.split > 1,
        "--scrub": args.scrub, "--keep": args.keep, "--threads": args.threads is not None,
        "--deadline": args.deadline is not None, "--force": args.force,
    }  # fmt: skip
    if ignored := [flag for flag, there in given.items() if there]:
        raise UsageError(
            f"--estimate does not go with {', '.join(ignored)}",
            why="it tells what each level would cost, and writes nothing",
        )


def _scrub(kinds: tuple[str, ...], keep: Sequence[str]) -> Callable[[Kernel, int], Found]:
    from kdump.dump.scrub.look import look

    return lambda kernel, level: look(kernel, kinds, processes=bool(keep) or not level & USER)


def _keep(names: Sequence[str]) -> Callable[[Kernel], Kept]:
    from kdump.dump.keep import find_pages

    return lambda kernel: find_pages(kernel, names)


def perform(
    source: list[str], destination: Destination, options: Options, *, deadline: float | None, as_json: bool
) -> int:
    """Save with progress, catching signals; print what was done."""
    from dataclasses import replace

    from kdump.cli.progress import Progress
    from kdump.dump.destination import STDOUT, save_to
    from kdump.memory import open_dump

    stop = Stop(deadline)
    progress = Progress()
    options = replace(options, progress=progress, stop=stop.reason)
    with open_dump(source[0] if len(source) == 1 else source) as dump:
        try:
            with stop:
                saved = save_to(dump, destination, options)
        finally:
            progress.close()
    text = json_text(saved.content) if as_json else "\n".join(_lines(saved.summary, saved.paths))
    print(text, file=sys.stderr if saved.paths == (STDOUT,) else sys.stdout)
    return 0 if saved.summary.as_asked else 3


def _estimate(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from kdump.cli.progress import Progress
    from kdump.dump.estimate import estimate
    from kdump.memory import open_dump

    progress = Progress()
    with open_dump(args.files[0] if len(args.files) == 1 else args.files) as dump:
        found = estimate(dump, args.codec or _CODEC, args.codec_level or 0, progress)
    progress.close()
    print(json_text(asdict(found)) if args.json else "\n".join(_estimate_lines(found)))
    return 3 if found.not_applied else 0


def _estimate_lines(found: Estimate) -> list[str]:
    from kdump.dump.levels import describe
    from kdump.units import size_text

    lines = [f"{'class':<16} {'pages':>12} {'memory':>10} {'zero':>6} {'compressed to':>14}"]
    for cost in found.classes:
        lines.append(
            f"{cost.name:<16} {cost.pages:>12} {size_text(cost.pages * found.page_size):>10} {cost.zero:>6.0%}"
            f" {cost.bytes_each / found.page_size:>13.0%}"
        )
    lines += ["", f"{'level':<6} {'pages kept':>12} {f'size ({found.codec})':>15}  leaves out"]
    for level in SHOWN:
        pages, size = found.levels[level]
        lines.append(f"{level:<6} {pages:>12} {size_text(size):>15}  {describe(level)}")
    lines += [f"NOT TOLD APART: {name}: {why}" for name, why in found.not_applied.items()]
    return lines


def json_text(content: dict[str, Any]) -> str:
    """For `--json`."""
    import json

    return json.dumps(content, indent=2)


class Stop:
    """Why a dump should end before its time: a signal, or a deadline. A context manager that catches the signals."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self.signal = 0  # the one that came; 0: none
        self._before: dict[int, Any] = {}

    def reason(self) -> str:
        """A sentence, or "" to go on."""
        if self.signal:
            return f"ended by {signal.Signals(self.signal).name}"
        return "the deadline passed" if self._end is not None and time.monotonic() >= self._end else ""

    def __enter__(self) -> Stop:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        if self.signal:  # asked twice: at once, then
            raise KeyboardInterrupt
        self.signal = number


def _keep_lines(kept: dict[str, Any]) -> list[str]:
    if not kept:
        return []
    names = ", ".join(f"{shown(each['name'])} ({each['pid']})" for each in kept["processes"]) or "no process"
    lines = [f"  kept beyond the level: {kept['pages']} pages of {names}"]
    lines += [f"  note: no process is called {shown(name)}, or is in such a control group" for name in kept["absent"]]
    return lines + [f"  NOT KEPT: {why}" for why in kept["failed"]]


def _scrub_lines(scrubbed: dict[str, Any]) -> list[str]:
    if not scrubbed:
        return []
    lines = [f"  scrubbed: {scrubbed['bytes']} bytes are zeros"]
    for kind, counts in scrubbed["found"].items():
        what = ", ".join(f"{number} {name}" for name, number in counts.items()) or "nothing to be found"
        lines.append(f"    {kind}: {what}")
    lines += [f"  NOT SCRUBBED: {kind}: {why}" for kind, reasons in scrubbed["failed"].items() for why in reasons]
    return lines


def _lines(summary: Summary, paths: Sequence[str]) -> list[str]:
    from kdump.dump.levels import describe
    from kdump.units import duration_text, size_text

    took = sum(summary.seconds.values())
    packed = "not compressed" if summary.codec == "none" else f"compressed with {summary.codec}"
    lines = [
        f"{', '.join(paths)}: {size_text(summary.size)} in {duration_text(took)}",
        f"  leaves out {describe(summary.level)} (level {summary.level}), {packed}",
        f"  {summary.pages_written} of {summary.pages_present} pages written, {summary.pages_zero} of them zero",
    ]
    if summary.dropped:
        lines.append("  dropped: " + ", ".join(f"{count} {name}" for name, count in summary.dropped.items()))
    lines += _scrub_lines(summary.scrubbed)
    lines += _keep_lines(summary.also_kept)
    if summary.pages_unreadable:
        lines.append(f"  {summary.pages_unreadable} pages could not be read")
    lines += [f"  note: {doubt}; they are kept" for doubt in summary.doubts]
    lines += [f"  NOT DROPPED: {name}: {why}" for name, why in summary.not_applied.items()]
    if summary.incomplete:
        lines.append(f"  INCOMPLETE: {summary.incomplete}")
    return lines
