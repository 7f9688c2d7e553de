"""Write parts of a dump in the forms that other tools read.

`--isf` writes Volatility 3's symbol file of the kernel (no vmlinux is needed), `--elf` and `--lime` the memory for it.
Then run `vol -s DIRECTORY_OF_THE_SYMBOL_FILE -f IMAGE linux.pslist`. `--trace-dat` is for trace-cmd and KernelShark,
`--gcore` for gdb.

Only dumps of some levels contain the memory of processes and the page cache: `--gcore` needs a level without 8,
`--files` and `--journal` one without 2 and 4. The page cache has the last contents of files, whether or not they
reached the disk. Pages that the dump lacks are holes in the files.

The output is as confidential as the dump. Exit status 3: written, but some of it could not be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

from kdump.cli import inputs, values
from kdump.errors import UsageError

if TYPE_CHECKING:
    from kdump.memory.protocol import Dump

_MOST_PID = 1 << 22  # PID_MAX_LIMIT

Done = tuple[dict[str, Any], list[str], list[str]]  # for --json; lines to print; problems


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("dump", nargs="+", type=inputs.dump, help=inputs.HELP)
    what = parser.add_mutually_exclusive_group(required=True)
    for name, text in (
        ("isf", "Volatility 3's symbol file (FILE ends in .json)"),
        ("elf", "memory as an ELF core with complete segments, as Volatility requires"),
        ("lime", "memory as a LiME image"),
        ("trace-dat", "ftrace's buffers as a trace.dat, for trace-cmd and KernelShark"),
    ):
        what.add_argument(f"--{name}", dest="what", action="store_const", const=name, help=text)
    what.add_argument("--gcore", type=values.number(1, _MOST_PID), metavar="PID", help="a process's core, for gdb")
    what.add_argument(
        "--files",
        metavar="PATH",
        action="append",
        type=values.path_there,
        help="a file or directory, as far as the page cache has it",
    )
    what.add_argument("--journal", action="store_true", help="systemd's journal, as far as the page cache has it")
    parser.add_argument("-o", "--output", required=True, help="the file to write; of --files and --journal a directory")
    parser.add_argument("-f", "--force", action="store_true", help="replace the file if it exists; never a directory")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Write the file; exit status 3 if some of what belongs in it could not be read."""
    from kdump.files import outputs
    from kdump.files.drafts import Draft
    from kdump.memory import open_dump
    from kdump.units import size_text

    if args.files or args.journal:
        return _files(args)
    export = _gcore(args.gcore) if args.gcore else _EXPORTS[args.what]
    if args.what == "isf" and not args.output.endswith(".json"):
        raise UsageError(
            f"{args.output} does not end in .json", why="Volatility finds no symbol file with another name",
            remedy="name it so: -o symbols/linux.json",
        )  # fmt: skip
    outputs.check(args.output, args.dump, replace=args.force)
    with open_dump(args.dump) as dump:
        draft = Draft(args.output)
        try:
            content, lines, problems = export(dump, draft.fd)
            draft.commit(replace=args.force)
        finally:
            draft.discard()
    lines[0] = f"{args.output}: {size_text(content['size'])}, {lines[0]}"
    return _tell(args, (content, lines, problems))


def _tell(args: argparse.Namespace, done: Done) -> int:
    content, lines, problems = done
    if args.json:
        import json

        print(json.dumps(content | {"path": args.output}))
    else:
        print(*lines, sep="\n")
    for problem in problems:
        print(f"kdump export: {problem}", file=sys.stderr)
    return 3 if problems else 0


def _has_page_cache(dump: Dump) -> bool:
    level = dump.header.get("dump_level")
    return isinstance(level, int) and not level & 6


def _files(args: argparse.Namespace) -> int:
    """Write files into a new directory, which gets its name when all are there."""
    import os

    from kdump.bench.files import JOURNALS, PageCache
    from kdump.errors import KdumpError
    from kdump.files.directory import Directory, DraftDirectory
    from kdump.kernel.kernel import Kernel
    from kdump.memory import open_dump
    from kdump.report.logtext import clean
    from kdump.units import size_text

    wanted = list(JOURNALS) if args.journal else args.files
    place, name = os.path.split(args.output.rstrip("/"))
    if os.path.lexists(args.output):
        raise KdumpError(f"{args.output} exists", remedy="name a directory that is to be made")
    with open_dump(args.dump) as dump, Directory.open(place or ".") as parent:
        kernel = Kernel(dump)
        cache = PageCache(kernel)
        draft = DraftDirectory(parent, name)
        try:
            found = [file for path in wanted for file in cache.find(path)]
            written = [each for file in found if (each := cache.write(file, draft.directory.fd)) is not None]
            if not written:
                raise KdumpError(
                    f"the dump has no page of {' or '.join(wanted)}",
                    why=f"names in memory of files there: {len(found)}; pages of them in the dump: none" if found
                    else "no file there has its name in memory",
                    remedy="" if _has_page_cache(dump)
                    else "the page cache is in dumps of a level without 2 and 4, such as 1, 17 or 25",
                )  # fmt: skip
            draft.commit()
        finally:
            draft.discard()
    lines = [f"{args.output}: {len(written)} files; {len(found) - len(written)} more have no page in the dump"]
    lines += [f"  {clean(each.path)}: {size_text(each.held)} of {size_text(each.size)}" for each in written]
    content = {"files": [each._asdict() for each in written], "without_pages": len(found) - len(written)}
    return _tell(args, (content, lines, kernel.objects.problems))


def _isf(dump: Dump, descriptor: int) -> Done:
    from kdump import __version__
    from kdump.bench import isf
    from kdump.files.drafts import pwrite_all
    from kdump.kernel.kernel import Kernel

    made = isf.make(Kernel(dump), __version__)
    size = pwrite_all(descriptor, made.text, 0)
    summary = made.summary
    lines = [f"{summary.types} types, {summary.symbols} symbols, {summary.variables} of them variables with a type"]
    if summary.levels > isf.LEVELS:
        lines.append(
            f"The machine had {summary.levels} levels of page tables. Volatility 3 up to 2.28 reads {isf.LEVELS}:"
            f" add -p {isf.PLUGINS} to its command line."
        )
    return summary._asdict() | {"size": size}, lines, []


def _image(kind: str) -> Callable[[Dump, int], Done]:
    def export(dump: Dump, descriptor: int) -> Done:
        from kdump.bench import images
        from kdump.cli.progress import Progress

        with closing(Progress()) as progress:
            write = images.lime if kind == "lime" else images.equal_elf
            summary = write(dump, descriptor, progress)
        lines = [f"{summary.pages} pages in {summary.runs} runs"]
        if summary.zeros:
            lines.append(f"{summary.zeros} pages between them, which the dump lacks, are zeros")
        problems = [f"{summary.unreadable} pages could not be read: zeros"] if summary.unreadable else []
        return summary._asdict(), lines, problems

    return export


def _gcore(pid: int) -> Callable[[Dump, int], Done]:
    def export(dump: Dump, descriptor: int) -> Done:
        from kdump.bench.process import Process
        from kdump.kernel.kernel import Kernel
        from kdump.units import size_text

        process = Process(Kernel(dump), pid)
        summary = process.write(descriptor)
        content = summary._asdict()
        threads = f"{summary.threads} thread" + "s" * (summary.threads != 1)
        lines = [
            f"{threads}, {summary.areas} mappings; of their {size_text(summary.mapped)} the dump holds"
            f" {size_text(summary.held)}"
        ]
        if not summary.held:
            lines.append("The dump has no memory of user processes: it was saved at a level that leaves that out (8).")
        return content, lines, list(content.pop("problems"))

    return export


def _trace(dump: Dump, descriptor: int) -> Done:
    from kdump.bench import trace_dat
    from kdump.kernel.kernel import Kernel

    summary = trace_dat.write(Kernel(dump), descriptor)
    content = summary._asdict()
    lines = [f"{summary.pages} pages of events of {summary.cpus} CPUs, {summary.kinds} kinds of event"]
    return content, lines, list(content.pop("problems"))


_EXPORTS: dict[str, Callable[[Dump, int], Done]] = {
    "isf": _isf, "elf": _image("elf"), "lime": _image("lime"), "trace-dat": _trace,
}  # fmt: skip
