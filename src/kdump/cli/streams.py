"""The standard streams of a command: no terminal is driven, no locale and no closed pipe fails.

`kdump.display.shown` is for one value on one line; this is the backstop behind it. What reaches standard output or
error as a control character or a bidirectional override is escaped; a letter that the locale cannot encode gets \\u….
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from typing import Final, TextIO

from kdump.display import shown
from kdump.errors import UsageError

OUTPUT: Final = "standard output"


class Guarded(io.TextIOWrapper):
    """A standard stream that escapes what could drive a terminal. Errors of writing name the stream."""

    quiet = False  # standard error: when nobody can be told, the work goes on

    def write(self, text: str) -> int:
        """Write text; returns its length, as other streams do."""
        self.control(text if text.isprintable() else "\n".join(map(shown, text.split("\n"))))
        return len(text)

    def control(self, text: str) -> None:
        """Write text of our own with the control characters in it."""
        try:
            super().write(text)
        except OSError as error:
            self._failed(error)

    def flush(self) -> None:
        """Hand over what is buffered."""
        try:
            super().flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if not self.quiet:
            error.filename = error.filename or OUTPUT
            raise error


def write_bytes(data: bytes) -> None:
    """Write bytes to standard output as they are. Errors name the stream."""
    sys.stdout.flush()
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        error.filename = error.filename or OUTPUT
        raise


def control(stream: TextIO, text: str) -> None:
    """Write text of our own, whose control characters are meant, to a stream of any kind."""
    if isinstance(stream, Guarded):
        stream.control(text)
    else:
        stream.write(text)


def guard() -> None:
    """Put guards around this process's standard output and error, and open those of its streams that are closed.

    A file that is opened while one of 0 to 2 is free takes its number: messages would be written into a dump.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 -- as long as the process
    sys.stdout = _guarded(sys.stdout, 1)
    sys.stderr = errors = _guarded(sys.stderr, 2)
    errors.quiet = True


def _guarded(stream: TextIO | None, number: int) -> Guarded:
    if not isinstance(stream, io.TextIOWrapper):
        return Guarded(open(number, "wb", closefd=False), "utf-8", "backslashreplace")
    encoding, lines, binary = stream.encoding, stream.line_buffering, stream.detach()
    if isinstance(binary, io.RawIOBase):  # PYTHONUNBUFFERED: what a full disk does not take of a write would be lost
        binary, lines = io.BufferedWriter(binary), True
    return Guarded(binary, encoding, "backslashreplace", line_buffering=lines)


def discard_output() -> None:
    """Discard the rest of standard output: nobody reads it, or there is no room for it."""
    with contextlib.suppress(OSError, ValueError):  # not a file: a test's
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def reader_is_gone() -> bool:
    """Whether standard output or error is a pipe that nobody reads any more."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            poll.register(stream.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def confirmed(question: str) -> bool:
    """Ask on the terminal. Raises UsageError if there is none."""
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask a question on", remedy="add --yes")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
