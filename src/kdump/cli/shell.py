"""Explore a dump in an interactive drgn session, without debug information.

Types, symbols and stacks come from the dead kernel's own memory (BTF, kallsyms, ORC), so drgn's helpers, its %crash
commands and its stack traces work on the dump alone. kdump also uses a debug vmlinux of the same build if one is
installed (/usr/lib/debug) or named with --debug; `--debug auto` also asks the servers in DEBUGINFOD_URLS.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from kdump.cli import inputs
from kdump.display import paragraph
from kdump.errors import KdumpError, describe, reason
from kdump.extras import extra
from kdump.foreign import read_text

if TYPE_CHECKING:
    from drgn import Program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("dump", nargs="+", type=inputs.dump, help=inputs.HELP)
    parser.add_argument("--crash", action="store_true", help="start a prompt with the commands of crash(8)")
    parser.add_argument(
        "-c", "--command", action="append", default=[], metavar="COMMAND",
        help="run this command (Python, or with --crash a crash command) and exit (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "-i", "--script", metavar="FILE",
        help="run this file (Python, or with --crash a crash command in each line) and exit",
    )  # fmt: skip
    parser.add_argument(
        "--debug", action="append", default=[], metavar="FILE", help="a vmlinux or module with DWARF, or `auto`"
    )
    parser.add_argument(
        "--declare", action="append", default=[], metavar="DECLARATION",
        help="type of a global variable, in C: 'struct foo *bar' (repeatable)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the session; with --command or --script, exit status 1 if a command failed."""
    from kdump.kernel.globals import declaration
    from kdump.kernel.kernel import Kernel
    from kdump.memory import open_dump

    with extra("shell", "kdump shell"):
        from kdump.bench import commands
        from kdump.report.program import open_program
    declared = dict(map(declaration, args.declare))
    with open_dump(args.dump) as dump:
        kernel = Kernel(dump)
        program = open_program(dump.paths, kernel, args.debug, declared=declared)
        commands.install(program, kernel)
        if args.crash:
            given = args.script is not None or args.command
            return _crash(program, [*_script(args.script), *args.command] if given else None)
        return _python(program, args.command, args.script)


def _script(path: str | None) -> list[str]:
    """The lines of a script of crash commands, without comments."""
    if path is None:
        return []
    lines = (line.strip() for line in _text(path).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _text(path: str) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise KdumpError(f"{path}: the script cannot be read", why=reason(error)) from error


def _told(error: BaseException) -> str:
    """What went wrong, as this session says it; several errors of one command in a line each."""
    from drgn.commands import CommandError

    if isinstance(error, BaseExceptionGroup):
        return "\n".join(map(_told, error.exceptions))
    if isinstance(error, KdumpError):
        return str(error)
    if isinstance(error, OSError):
        return describe(error)
    if isinstance(error, CommandError):
        return paragraph(error)
    return f"{type(error).__name__}: {paragraph(error)}"


def _python(program: Program, commands: list[str], script: str | None = None) -> int:
    from drgn import set_default_prog
    from drgn.cli import default_globals, run_interactive

    if not commands and script is None:
        run_interactive(program, banner_func=lambda banner: f"kdump shell: no debug information needed\n{banner}")
        return 0
    set_default_prog(program)
    names: dict[str, Any] = default_globals(program)
    sources = [(_text(script), script, "exec")] if script is not None else []
    for source, name, mode in [*sources, *((command, "<command>", "single") for command in commands)]:
        try:
            exec(compile(source, name, mode), names | {"__name__": "__main__"} if mode == "exec" else names)  # noqa: S102 - the user's own
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the user's command raises is told, as a shell does
            print(
                f"{_where(error, name)}{_told(error)}{_advice(program, error, source)}",
                file=sys.stderr,
            )
            return 1
    return 0


def _advice(program: Program, error: Exception, source: str) -> str:
    """A word on a command of crash that was given as Python."""
    from kdump.bench.commands.base import NAMESPACE

    word = source.split(maxsplit=1)[0] if source.strip() else ""
    if isinstance(error, (NameError, SyntaxError)) and word in {name for name, _ in NAMESPACE.enabled(program)}:
        return f"\n  {word} is a command of crash: add --crash"
    return ""


def _where(error: Exception, name: str) -> str:
    """The last line of a script that an error came through; of a command there is only one."""
    import traceback

    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
    return f"{name}:{lines[-1]}: " if lines and name != "<command>" else ""


def _crash(program: Program, commands: list[str] | None) -> int:
    interactive = commands is None and sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401 - gives input() line editing

        print("The commands of crash(8), by drgn; `help` lists them, `quit` leaves.")
    status = 0
    lines: Iterable[str] = _lines("crash> " if interactive else "") if commands is None else commands
    for command in map(str.strip, lines):
        if command in ("q", "quit", "exit"):
            break
        try:
            done = not command or _crash_command(program, command)
        except KeyboardInterrupt:  # at a prompt it ends the command, else all of them
            if not interactive:
                raise
            print()
            done = False
        status = status if done else 1
    return 0 if interactive else status


def _lines(prompt: str) -> Iterator[str]:
    while True:
        try:
            yield input(prompt)
        except EOFError:
            return
        except KeyboardInterrupt:
            if not prompt:
                raise
            print()


def _crash_command(program: Program, command: str) -> bool:
    from drgn.commands import CommandNotFoundError, run_command

    try:
        try:
            run_command(program, f"crash {command}", globals={"prog": program})
        except CommandNotFoundError:
            from kdump.bench.commands.corelens import modules

            if command.split(maxsplit=1)[0] not in modules():
                raise
            run_command(program, f"crash corelens {command}", globals={"prog": program})
    except CommandNotFoundError as error:
        print(f"{error}\n  `help` lists the commands", file=sys.stderr)
        return False
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged dump makes drgn's helpers raise anything; the prompt goes on
        print(_told(error), file=sys.stderr)
        return False
    return True
