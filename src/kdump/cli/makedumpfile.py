"""Filter a dump with makedumpfile's options, for scripts that call makedumpfile.

    makedumpfile [-c|-l|-p|-z] [-E] [-d LEVELS] VMCORE DUMPFILE
    makedumpfile -F ... VMCORE                      flattened, to standard output
    makedumpfile -R DUMPFILE                        a flattened dump from standard input
    makedumpfile --split ... VMCORE DUMPFILE DUMPFILE ...
    makedumpfile --reassemble DUMPFILE DUMPFILE ... DUMPFILE
    makedumpfile --dump-dmesg | --partial-dmesg VMCORE LOGFILE
    makedumpfile -F --dump-dmesg VMCORE             the log, to standard output
    makedumpfile --mem-usage /proc/kcore

Exit status: 0 done; 1 failed, also for an incomplete dump, as in makedumpfile; 2 if -i describes another kernel than
the vmcore's; 143 after SIGTERM; 141 if the reader of a pipe went away. Options may stand between file names, and
long options may be abbreviated. A dump of an incomplete vmcore, or of a split dump that lacks a part, is incomplete,
too.

Differences from makedumpfile: All CPUs compress unless --num-threads says otherwise. -x is not needed, since the
kernel describes itself. Pages that the level should drop but that cannot be identified are kept, with a message on
standard error. DUMPFILE gets its name when it is complete; a dump that was cut short is DUMPFILE.incomplete. -f
replaces regular files only, also through a symbolic link, and never the input. As with makedumpfile, pages are not
compressed without -c, -l, -p or -z, there is no manifest, and `sync` makes the dump durable; `kdump save` does the
last two by itself.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn, TextIO

from kdump.cli import values
from kdump.cli.streams import write_bytes
from kdump.errors import KdumpError, UsageError
from kdump.files.outputs import STDOUT
from kdump.units import LARGEST_SIZE

if TYPE_CHECKING:
    from kdump.dump.pipeline import Summary
    from kdump.kernel.kernel import Kernel
    from kdump.memory.protocol import Dump

FAILED, WRONG_RELEASE = 1, 2  # makedumpfile's exit statuses
PROGRESS, COMMON, ERROR, DEBUG, REPORT = 1, 2, 4, 8, 16  # bits of --message-level
SAID = ("OSRELEASE=", "CRASHTIME=")  # lines of VMCOREINFO
IGNORED = ("-b", "--cyclic-buffer", "--splitblock-size", "--work-dir")  # about its memory and its parallelism
REFUSED = ("-X", "-e")
REFUSED_WITH_VALUE = (
    "--diskset", "--xen-syms", "--xen-vmcoreinfo", "--xen_phys_start", "--config", "--eppic", "--extension", "--vtop",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """makedumpfile's options."""
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="files in the order shown above")
    for flag, name in (("-c", "zlib"), ("-l", "lzo"), ("-p", "snappy"), ("-z", "zstd")):
        add(flag, dest="codec", action="store_const", const=name, default="none", help=f"compress with {name}")
    add("-d", dest="level", default="0", metavar="LEVELS", help="dump level, or a rising list")
    add("-E", dest="elf", action="store_true", help="write ELF")
    add("-F", dest="flat", action="store_true", help="write the flattened format to standard output")
    add("-R", dest="rearrange", action="store_true", help="write a dump from a flattened one on standard input")
    add("-x", dest="vmlinux", metavar="VMLINUX", help="not needed")
    add("-i", dest="vmcoreinfo", metavar="FILE", help="VMCOREINFO, if the vmcore has none")
    add("-g", dest="generate", metavar="FILE", help="write the vmcore's VMCOREINFO to a file")
    add("-f", dest="force", action="store_true", help="replace DUMPFILE if it exists")
    add("-D", dest="debug", action="store_true", help="print debug messages")
    add("-v", dest="version", action="store_true", help="print the version")
    add("-L", dest="limit", type=values.number(1, LARGEST_SIZE), metavar="BYTES", help="largest size of DUMPFILE")
    add("--split", action="store_true", help="spread the dump over the given files")
    add("--reassemble", action="store_true", help="join the files of --split")
    add("--dump-dmesg", action="store_true", help="write the kernel log")
    add("--partial-dmesg", action="store_true", help="write the kernel log since it was last cleared")
    add("--mem-usage", action="store_true", help="print what each level would leave out here")
    add(
        "--num-threads",
        type=values.number(0, values.MOST_THREADS),
        default=0,
        metavar="N",
        help="number of threads that compress (default: one for each CPU)",
    )
    add(
        "--message-level",
        type=values.number(0, 31),
        default=PROGRESS | COMMON | ERROR,
        metavar="N",
        help="kinds of messages to print (bits)",
    )
    add("--show-stats", action="store_true", help="print pages by class")
    add("--dry-run", action="store_true", help="write nothing")
    add("--check-params", action="store_true", help="only check the options")
    for name in IGNORED:
        add(name, dest="ignored", action=_Named, metavar="N", help="ignored")
    add("--non-mmap", dest="ignored", action=_Named, nargs=0, help="ignored")
    for name in REFUSED:
        add(name, dest="refused", action="append_const", const=name, help=argparse.SUPPRESS)
    for name in REFUSED_WITH_VALUE:
        add(name, dest="refused", action=_Named, help=argparse.SUPPRESS)
    parser.error = functools.partial(_wrong_usage, parser)  # type: ignore[method-assign]
    # As getopt_long(3): options between the files, and any beginning of a long option that only it has.
    parser.allow_abbrev = True
    parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]


def run(args: argparse.Namespace) -> int:
    """Do what the options say; failures exit with 1, as makedumpfile's do."""
    wanted = args.message_level | (REPORT if args.show_stats else 0) | (DEBUG if args.debug else 0)
    talk = _Talk(wanted, sys.stderr if args.flat else sys.stdout)
    try:
        status = _run(args, talk)
    except KdumpError as error:
        talk.say(ERROR, str(error))
        status = WRONG_RELEASE if isinstance(error, WrongReleaseError) else FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has no reader either
        return 128 + signal.SIGPIPE
    if not args.version and not args.check_params:
        talk.say(COMMON, f"\nmakedumpfile {'Completed' if status == 0 else 'Failed'}.")
    return status


def _run(args: argparse.Namespace, talk: _Talk) -> int:
    if args.version:
        from kdump import __version__

        print(f"makedumpfile (kdump {__version__})\nlzo\tenabled\nsnappy\tenabled\nzstd\tenabled")
        return 0
    action = _action(args, talk)
    if args.ignored:
        talk.say(COMMON, f"ignored, for memory is bounded and all CPUs work anyway: {', '.join(args.ignored)}")
    return 0 if args.check_params else action()


def _action(args: argparse.Namespace, talk: _Talk) -> Callable[[], int]:
    """The action that the options ask for. Raises `UsageError` for errors that the options alone show."""
    if args.refused:
        raise UsageError(f"{args.refused[0]} is not supported here")
    levels = _levels(args.level)
    if args.elf and (args.codec != "none" or args.split):
        raise UsageError(
            "an ELF file is neither compressed nor split", remedy="leave out -E, or -c, -l, -p, -z, --split"
        )
    dmesg = args.dump_dmesg or args.partial_dmesg
    if args.flat and args.split:
        raise UsageError("a flattened dump cannot be split", remedy="leave out -F or --split")
    if args.dry_run and (dmesg or args.reassemble or args.generate):
        raise UsageError("--dry-run does not go with --dump-dmesg, --reassemble or -g")
    if args.rearrange:
        return functools.partial(_rearrange, _one(args, 1)[0], force=args.force)
    if args.reassemble:
        *parts, output = _several(args, 3)
        return lambda: _save(args, parts, [output], _same_codec(args, parts, levels), talk)
    if dmesg:
        source, output = (*_one(args, 1), STDOUT) if args.flat else _one(args, 2)
        return functools.partial(_dmesg, args, source, output, talk)
    if args.generate:
        return functools.partial(_generate, args, talk)
    if args.mem_usage:
        return functools.partial(_mem_usage, _one(args, 1)[0], args)
    if args.flat:
        return functools.partial(_save, args, _one(args, 1), [STDOUT], levels, talk)
    if args.split:
        source, *outputs = _several(args, 3)
        return functools.partial(_save, args, [source], outputs, levels, talk)
    if args.dry_run and len(args.files) == 1:
        return functools.partial(_save, args, args.files, [os.devnull], levels, talk)
    source, output = _one(args, 2)
    return functools.partial(_save, args, [source], [output], levels, talk)


def _levels(text: str) -> tuple[int, ...]:
    """The levels of -d; `kdump save` knows a bit more, of which no script of makedumpfile's knows."""
    from kdump.dump.levels import MOST, parse_levels

    levels = parse_levels(text)
    if levels[-1] > MOST:
        raise UsageError(f"{text} is not a dump level of makedumpfile's", remedy="write 0 to 31")
    return levels


def _through(path: str) -> str:
    """The file that a symbolic link leads to; a link that leads nowhere is left as it is, and refused later."""
    return os.path.realpath(path) if os.path.isfile(path) else path  # noqa: PTH113


def _wrong_usage(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """As argparse has it, but with makedumpfile's exit status: 2 means another thing."""
    parser.print_usage(sys.stderr)
    parser.exit(FAILED, f"{parser.prog}: {message}\n\nmakedumpfile Failed.\n")


class _Named(argparse.Action):
    """Notes the option's own name, not its value."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        _values: object,
        option: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or ()), option])


class _Talk:
    """Prints what --message-level lets through, where makedumpfile does: errors to standard error, the rest to
    standard output, unless -F needs that for the dump."""

    def __init__(self, level: int, out: TextIO) -> None:
        self.level, self._out = level, out

    def say(self, kind: int, text: str, to: TextIO | None = None) -> None:
        if self.level & kind:
            print(text, file=to or (sys.stderr if kind == ERROR else self._out))


def _one(args: argparse.Namespace, count: int) -> list[str]:
    files: list[str] = args.files
    if len(files) != count:
        raise UsageError(f"{len(files)} files are named, not {count}", remedy="kdump makedumpfile --help")
    return files


def _several(args: argparse.Namespace, least: int) -> list[str]:
    files: list[str] = args.files
    if len(files) < least:
        raise UsageError(f"{len(files)} files are named, {least} are needed", remedy="kdump makedumpfile --help")
    return files


def _open(args: argparse.Namespace, paths: list[str]) -> Dump:
    """The vmcore, with the VMCOREINFO of -i where it has none of its own."""
    from kdump.foreign import read_file
    from kdump.kernel import vmcoreinfo
    from kdump.kernel.completed import completed
    from kdump.memory import open_dump

    dump = open_dump(paths[0] if len(paths) == 1 else paths)
    if not args.vmcoreinfo:
        return completed(dump)
    given = read_file(args.vmcoreinfo, 1 << 20)
    if not dump.vmcoreinfo:
        return completed(dump._replace(vmcoreinfo=given))
    theirs, ours = vmcoreinfo.parse(given).release, vmcoreinfo.parse(dump.vmcoreinfo).release
    if theirs != ours:
        raise WrongReleaseError(f"{args.vmcoreinfo} describes {theirs}, the vmcore is of {ours}")
    return dump


class WrongReleaseError(KdumpError):
    """-i describes another kernel."""


def _save(args: argparse.Namespace, source: list[str], outputs: list[str], levels: tuple[int, ...], talk: _Talk) -> int:
    from kdump.cli.progress import Progress
    from kdump.cli.save import Stop
    from kdump.dump.destination import Destination, save_to
    from kdump.dump.first_pass import first_pass
    from kdump.dump.pipeline import Options

    progress = Progress()
    stop = Stop(None)
    options = Options(
        levels=levels,
        container="elf" if args.elf else "kdump",
        codec=args.codec,
        threads=args.num_threads or None,
        stop=stop.reason,
    )
    if talk.level & PROGRESS:
        options = replace(options, progress=progress)
    destination = Destination(
        tuple(map(_through, outputs)), flat=outputs == [STDOUT], overwrite=args.force, limit=args.limit, bare=True
    )
    with _open(args, source) as dump:
        if args.dry_run:
            selection = first_pass(dump, levels[0], progress=options.progress)
            progress.close()
            talk.say(REPORT, f"Original pages: {selection.present.count}\nRemaining pages: {selection.kept.count}")
            return 0
        try:
            with stop:
                saved = save_to(dump, destination, options)
        except KdumpError as error:
            if not stop.signal:
                raise
            talk.say(ERROR, str(error))
            return 128 + stop.signal
        progress.close()
    for name, why in saved.summary.not_applied.items():
        talk.say(ERROR, f"NOT DROPPED: {name}: {why}")
    talk.say(REPORT, "\n".join(_stats(saved.summary)))
    if saved.summary.incomplete:
        talk.say(ERROR, f"the dump is incomplete: {saved.summary.incomplete}")
        return 128 + stop.signal if stop.signal else FAILED
    if outputs != [STDOUT]:
        what = "dumpfiles are" if len(outputs) > 1 else "dumpfile is"
        talk.say(COMMON, f"\nThe {what} saved to {', '.join(outputs)}.")
    return 0


def _same_codec(args: argparse.Namespace, parts: list[str], levels: tuple[int, ...]) -> tuple[int, ...]:
    """--reassemble keeps the compression and the level of the parts, whatever the options say."""
    from kdump.dump.codecs import CODECS
    from kdump.dump.levels import ZERO

    with _open(args, parts) as dump:
        status = int(str(dump.header.get("status", 0)))
        args.codec = next((each.name for each in CODECS.values() if each.flag and status & each.flag), "none")
        return (max(levels[0], int(str(dump.header.get("dump_level", 0))) & ZERO),)


def _stats(summary: Summary) -> Iterator[str]:
    yield f"Original pages  : {summary.pages_present:#018x}"
    yield f"  Excluded pages   : {sum(summary.dropped.values()) + summary.pages_zero:#018x}"
    yield f"    {'Pages filled with zero':<24}: {summary.pages_zero:#018x}"
    for name, count in summary.dropped.items():
        yield f"    {name.capitalize() + ' pages':<24}: {count:#018x}"
    yield f"  Remaining pages  : {summary.pages_written - summary.pages_zero:#018x}"
    yield f"Write bytes     : {summary.size}"


def _rearrange(output: str, *, force: bool) -> int:
    from kdump.dump.file_output import FileOutput
    from kdump.dump.flat_stream import unflatten

    target = FileOutput(output, inputs=[sys.stdin.fileno()], overwrite=force)
    try:
        unflatten(sys.stdin.buffer, target)
    except BaseException:
        target.abort()
        raise
    target.seal()
    return 0


def _dmesg(args: argparse.Namespace, source: str, output: str, talk: _Talk) -> int:
    from kdump.dump.file_output import FileOutput
    from kdump.kernel.kernel import Kernel
    from kdump.kernel.printk import format_record

    with _open(args, [source]) as dump:
        kernel = Kernel(dump)
        log = kernel.log()
        if log.lost and not log.records:
            raise KdumpError("none of the kernel's log can be read", why="; ".join(log.lost))
        first = _clear_seq(kernel) if args.partial_dmesg else 0
        facts = [line for line in dump.vmcoreinfo.decode("latin-1").splitlines() if line.startswith(SAID)]
    for line in facts:  # SUSE's scripts read these from the debugging messages
        talk.say(DEBUG, line, sys.stderr)
    lines = (line for record in log.records if record.sequence >= first for line in format_record(record))
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
    if output == STDOUT:
        write_bytes(text)
    else:
        inputs = [source, *filter(None, [args.vmcoreinfo])]
        target = FileOutput(_through(output), inputs=inputs, overwrite=args.force)
        target.write(text)
        target.seal()
    for sentence in log.lost:
        print(sentence, file=sys.stderr)
    return 0


def _clear_seq(kernel: Kernel) -> int:
    """The first record since the log was cleared (kernel/printk/printk.c: struct latched_seq clear_seq)."""
    info = kernel.vmcoreinfo
    where = info.symbols.get("clear_seq")
    if where is None:
        raise KdumpError("the dump does not say when the log was cleared", remedy="--dump-dmesg writes all of it")
    values = info.offsets.get("latched_seq.val")
    if values is None:  # before 5.12 a plain number
        return kernel.virtual.u64(where)
    return kernel.virtual.u64(where + values + 8 * (kernel.virtual.u32(where) & 1))


def _generate(args: argparse.Namespace, talk: _Talk) -> int:
    """-g: the vmcore's own VMCOREINFO; from a vmlinux it is not made, for nothing here needs it."""
    if not args.files:
        raise UsageError("-g needs a vmcore here", remedy="kdump makedumpfile -g FILE VMCORE (or /proc/kcore)")
    from kdump.dump.file_output import FileOutput

    with _open(args, _one(args, 1)) as dump:
        if not dump.vmcoreinfo:
            raise KdumpError(f"{dump.path} has no VMCOREINFO")
        target = FileOutput(args.generate, inputs=dump.paths, overwrite=args.force)
        target.write(dump.vmcoreinfo)
        target.seal()
    talk.say(COMMON, f"\nThe vmcoreinfo is saved to {args.generate}.")
    return 0


def _mem_usage(source: str, args: argparse.Namespace) -> int:
    from kdump.dump.classes import NAMES, PageClass
    from kdump.dump.first_pass import first_pass

    with _open(args, [source]) as dump:
        selection = first_pass(dump, 31)
    print(f"{'TYPE':<16}{'PAGES':>16}  EXCLUDED BY LEVEL")
    for kind in PageClass:
        if selection.by_class[kind]:
            print(f"{NAMES[kind]:<16}{selection.by_class[kind]:>16}  {LEVEL_OF.get(kind.name, 'no level')}")
    print(f"\npage size:        {dump.memory.page_size}\nTotal pages:      {selection.present.count}")
    return 0


LEVEL_OF = {
    "FREE": "16",
    "CACHE": "2",
    "CACHE_PRIVATE": "4",
    "USER": "8",
    "HUGETLB": "8",
    "HWPOISON": "any",
    "OFFLINE": "any",
}
