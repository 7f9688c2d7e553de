"""Say what happened: the verdict on a crash, the panicking stack, and the state of the machine.

Needs only the dump, of any format: symbols, types and unwind tables come from the dead kernel's memory. A text file
with a kernel log (vmcore-dmesg.txt, a serial or netconsole log, pstore, a journal) gives the verdict and the
signature.

--live reports on the running kernel. Such a report, and that of a dump of a running kernel, is marked live.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kdump.cli import inputs
from kdump.errors import KdumpError
from kdump.extras import extra
from kdump.files import outputs
from kdump.memory import DUMPS, KCORE

if TYPE_CHECKING:
    from kdump.report.context import Context
    from kdump.report.model import Report


_OWN = (b'{\n "schema": ', b'{\n "format": "kdump-manifest')
_KNOWN = 3  # faults that may be this crash: more would help nobody


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "dump", nargs="*", help="a dump (several files are a split dump), the directory of a crash, or a kernel log"
    )
    parser.add_argument("--live", action="store_true", help="report on the running kernel (/proc/kcore; needs root)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON; docs/report.md describes it")
    form.add_argument("--html", action="store_true", help="write one self-contained HTML page")
    form.add_argument("--signature", action="store_true", help="print only the signature, for grouping")
    parser.add_argument(
        "--explain", action="store_true", help="with --signature: also print what it consists of, and the coarser key"
    )
    parser.add_argument("-s", "--short", action="store_true", help="the short report that the capture kernel makes")
    parser.add_argument(
        "--section",
        action="append",
        default=[],
        metavar="NAME",
        help="print the verdict and only this section (repeatable)",
    )
    parser.add_argument(
        "--debug", action="append", default=[], metavar="FILE",
        help="a vmlinux or module with DWARF (repeatable), or `auto` to look for it in /usr/lib/debug and at the"
        " servers in DEBUGINFOD_URLS: adds file and line to every frame, and the panicking stack's variables",
    )  # fmt: skip
    parser.add_argument(
        "--known", type=Path, metavar="FILE",
        help="the index of faults that are known upstream (default: known.json.zst in /var/lib/linux-kdump, else"
        " kdump's own; `kdump fleet known --build` makes one)",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to a file instead of standard output")


def run(args: argparse.Namespace) -> int:
    """Print the report; exit status 3 for an incomplete dump and for one without a fatal crash."""
    from kdump.errors import UsageError, meant
    from kdump.report import sections

    unknown = [name for name in args.section if name not in sections.ALL]
    if unknown:
        near = meant(unknown[0], sections.ALL)
        raise UsageError(f"there is no section {unknown[0]!r}", remedy=near or f"sections: {', '.join(sections.ALL)}")
    if args.live and args.dump:
        raise UsageError("--live reads the running kernel and no other dump", remedy="leave out --live, or the dump")
    if not (args.live or args.dump):
        raise UsageError("no dump is named", remedy="name a dump, or --live for the running kernel")
    if args.explain and not args.signature:
        raise UsageError("--explain needs --signature", remedy="add --signature")
    with opened([KCORE] if args.live else args.dump) as context:
        if args.signature:
            from kdump.report.verdict import explain, is_fatal, signature_of

            lines = explain(context) if args.explain else [signature_of(context)]
            print("\n".join(lines))
            return 0 if is_fatal(context) else 3
        from kdump.report.build import build

        report = build(context, " ".join(args.dump) or KCORE, short=args.short, only=args.section)
        _add_known(report, args.known)
        if args.debug and context.described:
            with extra("shell", "--debug"):
                from kdump.report.program import open_program
                from kdump.report.source import annotate
            annotate(report, context, open_program(context.kernel.dump.paths, context.kernel, args.debug))
        if args.output is None:
            from kdump.cli.streams import control

            for line in _render(args, context, report):  # each is shown already; what is left is colour
                control(sys.stdout, line + "\n")
        else:
            # What a dump holds is secret: so is a report of it.
            with outputs.text(args.output, [*map(inputs.dump_or_log, args.dump), *args.debug]) as file:
                file.writelines(f"{line}\n" for line in _render(args, context, report))
    return 3 if report.incomplete or not (report.live or report.verdict.fatal) else 0


def _add_known(report: Report, path: Path | None) -> None:
    """Say which faults that are known upstream this crash may be. Raises KdumpError for a file that was named."""
    from kdump.report import known

    index = known.find_index(path)
    if index is None or report.live or report.verdict.kind == "none":
        return
    try:
        report.known = known.load(index, report.verdict).of(report.verdict)[:_KNOWN]
    except KdumpError as error:
        if path is not None:
            raise
        report.problems.append(str(error))


@contextmanager
def opened(paths: list[str]) -> Iterator[Context]:
    """The context of a dump or of a log as text."""
    from kdump.report.context import Context

    paths = [inputs.dump_or_log(path) for path in paths]
    if len(paths) == 1 and (log := _log(paths[0])) is not None:
        from kdump.report.logtext import decode, from_text

        yield Context(None, from_text(decode(log)))
        return
    from kdump.kernel.kernel import Kernel
    from kdump.memory import open_dump

    with open_dump(paths) as dump:
        yield Context(Kernel(dump))


def _log(path: str) -> bytes | None:
    """A log as text, which may come from a pipe; None if it is a dump."""
    from kdump.foreign import read_rest
    from kdump.report.logtext import LONGEST_LOG

    with open(path, "rb") as file:
        start = file.read(1 << 16)
        return read_rest(file, path, LONGEST_LOG, start) if _is_text(path, start) else None


def _is_text(path: str, start: bytes) -> bool:
    if start.startswith(_OWN):
        raise KdumpError(
            f"{path}: a report or manifest that kdump wrote, not a log",
            remedy="name the dump, its log or their directory; `kdump diff` compares reports",
        )
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return True  # UTF-16
    if start.startswith(DUMPS):  # one without a kernel's memory begins with the text of VMCOREINFO
        return False
    # A dump's header is full of zero bytes; the flattened format's too. In a log they are few (a serial line's noise,
    # the end of a pstore record) or every second byte (UTF-16).
    zeros = start.count(b"\0")
    if not zeros:
        return bool(start)
    text = start.replace(b"\0", b"")
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n\x1b" for byte in text)
    return len(text) >= 0.45 * len(start) and printable > 0.9 * len(text)


def _render(args: argparse.Namespace, context: Context, report: Report) -> Iterable[str]:
    if args.json:
        from kdump.report.json import render as as_json

        return as_json(report)
    if args.html:
        from kdump.report.html import render as as_html

        return as_html(report, context.lines)
    from kdump.report.text import render

    return render(report, colour=args.output is None and sys.stdout.isatty() and "NO_COLOR" not in os.environ)
