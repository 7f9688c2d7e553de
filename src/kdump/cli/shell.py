"""Explore a dump: an interactive drgn session that needs no debug information.

Types, symbols and stacks come from the dead kernel's own memory (BTF, kallsyms, ORC), so drgn's helpers, its %crash
commands and its stack traces work on the dump alone. A debug vmlinux of the same build is used where distributions put
it (/usr/lib/debug), or with --debug; `--debug auto` also asks the servers in DEBUGINFOD_URLS.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from kdump.extras import extra

if TYPE_CHECKING:
    from drgn import Program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("dump", help="the dump, or the directory of a crash")
    parser.add_argument("--crash", action="store_true", help="a prompt that takes the commands of crash(8)")
    parser.add_argument(
        "-c", "--command", action="append", default=[], metavar="COMMAND",
        help="run this (Python, or with --crash a crash command) and leave; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--debug", action="append", default=[], metavar="FILE", help="a vmlinux or module with DWARF, or `auto`"
    )
    parser.add_argument(
        "--declare", action="append", default=[], metavar="DECLARATION",
        help="the type of a global variable, as C writes it: 'struct foo *bar'; repeatable",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the session; with --command, exit status 1 if a command failed."""
    from kdump.cli.report import inside
    from kdump.kernel.globals import declaration
    from kdump.kernel.kernel import Kernel
    from kdump.memory import open_dump

    with extra("shell", "kdump shell"):
        from kdump.report.program import open_program
    declared = dict(map(declaration, args.declare))
    args.dump = inside(args.dump)
    with open_dump(args.dump) as dump:
        program = open_program([args.dump], Kernel(dump), args.debug, declared=declared)
        if args.crash:
            return _crash(program, args.command)
        return _python(program, args.command)


def _python(program: Program, commands: list[str]) -> int:
    from drgn import set_default_prog
    from drgn.cli import default_globals, run_interactive

    if not commands:
        run_interactive(program, banner_func=lambda banner: f"kdump shell: no debug information needed\n{banner}")
        return 0
    set_default_prog(program)
    names: dict[str, Any] = default_globals(program)
    for command in commands:
        try:
            exec(compile(command, "<command>", "single"), names)  # noqa: S102 - the user's own command
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the user's command raises is told, as a shell does
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 1
    return 0


def _crash(program: Program, commands: list[str]) -> int:
    interactive = not commands and sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401 - gives input() line editing

        print("The commands of crash(8), by drgn; `help` lists them, `quit` leaves.")
    status = 0
    for command in commands or _lines("crash> " if interactive else ""):
        if command.strip() in ("q", "quit", "exit"):
            break
        if command.strip() and not _crash_command(program, command.strip()):
            status = 1
    return 0 if interactive else status


def _lines(prompt: str) -> Any:
    while True:
        try:
            yield input(prompt)
        except EOFError:
            return


def _crash_command(program: Program, command: str) -> bool:
    from drgn.commands import CommandError, run_command

    try:
        run_command(program, f"crash {command}", globals={"prog": program})
    except CommandError as error:
        print(error, file=sys.stderr)
        return False
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged dump makes drgn's helpers raise anything; the prompt goes on
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return False
    return True
