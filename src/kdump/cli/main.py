"""Entry point: finds the command, runs it, turns errors into messages and exit statuses.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 done but not as asked (incomplete, degraded, not ready).
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from types import FrameType

from kdump import __version__, processor
from kdump.cli import streams
from kdump.cli.commands import COMMANDS, Command
from kdump.cli.parsers import parser_for
from kdump.errors import KdumpError, describe, meant

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = f"kdump {arguments[0]}" if arguments else "kdump"
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except KdumpError as error:
        _complain(f"{name}: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        _complain(f"{name}: interrupted")
        return INTERRUPTED
    except RuntimeError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # Python 3.11 wraps it where a class was being made
            _complain(f"{name}: interrupted")
            return INTERRUPTED
        raise
    except EOFError:
        _complain(f"{name}: there was no answer; nothing more was done")
        return 1
    except MemoryError:
        _complain(f"{name}: out of memory")
        return 1
    except OSError as error:
        if not isinstance(error, BrokenPipeError) or not streams.reader_is_gone():  # | head went away: that is no error
            _complain(f"{name}: {describe(error)}")
        streams.discard_output()
        return 1


def entry() -> None:
    """Console script: exits the process with the command's status."""
    # NumPy's linear algebra, which nothing here uses, would keep a CPU busy with waiting threads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # What imports make lives on: to look through it for garbage over and over is a twentieth of the start's time.
    gc.set_threshold(20_000)
    processor.check_when_imported()
    streams.guard()
    ending = _Ending()
    try:
        status = main()
    except BaseException:
        if ending.number:
            with suppress(OSError):
                sys.stdout.flush()
            signal.raise_signal(ending.number)  # so that systemd and a shell see what ended it
        raise
    sys.exit(status)


class _EndedError(BaseException):
    """A signal that ends the process came."""


class _Ending:
    """Lets what is under way remove its drafts, stop its machines and so on, as after Ctrl-C, when a signal comes."""

    def __init__(self) -> None:
        self.number = 0  # the signal that came
        self._numbers = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
        for number in self._numbers:
            signal.signal(number, self._end)
        os.register_at_fork(after_in_child=self._default)  # the drafts are the parent's

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        self._default()  # another one ends it at once
        raise _EndedError

    def _default(self) -> None:
        for number in self._numbers:
            if signal.getsignal(number) == self._end:
                signal.signal(number, signal.SIG_DFL)


def _dispatch(arguments: list[str]) -> int:
    commands = {command.name: command for command in COMMANDS}
    if arguments[:1] == ["help"] and len(arguments) > 1:  # kdump help COMMAND
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"kdump {__version__}")
        return 0
    command = commands.get(arguments[0])
    if command is None:
        near = meant(arguments[0], commands)
        _complain(f"kdump: unknown command {arguments[0]!r}\n  {near or '`kdump --help` lists the commands'}")
        return 2
    return _run(command, arguments[1:])


def _run(command: Command, arguments: list[str]) -> int:
    module, parser = parser_for(command)
    try:
        wanted = parser.parse_args(arguments)
    except SystemExit as ended:  # after --help, or after saying what is wrong
        sys.stdout.flush()
        return ended.code if isinstance(ended.code, int) else 2
    status: int = module.run(wanted)
    sys.stdout.flush()
    return status


def _overview() -> str:
    lines = [f"kdump {__version__}: Linux crash dumps end to end", "", "usage: kdump COMMAND [OPTION ...]", ""]
    for group, members in groupby(COMMANDS, key=lambda command: command.group):
        lines.append(f"{group}:")
        lines += [f"  {command.name:<12} {command.summary}" for command in members]
        lines.append("")
    lines.append("`kdump COMMAND --help` explains a command. Exit status: 0 done, 1 failed, 2 wrong usage,")
    lines.append("3 done but not as asked (incomplete, degraded, not ready).")
    return "\n".join(lines)


def _complain(text: str) -> None:
    try:
        sys.stdout.flush()
    except OSError:  # it is full or closed; report the error nevertheless
        streams.discard_output()
    print(text, file=sys.stderr)
