"""How far a long piece of work is: a bar on a terminal, plain lines on a console or a pipe."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from kdump.cli.streams import control
from kdump.units import duration_text, size_text

BAR = 24  # characters
INTERVAL_TERMINAL, INTERVAL_LINES = 0.1, 2.0  # seconds between two messages


class Progress:
    """Call it with (stage, done, total) in bytes as often as you like; it says something now and then.

    `close` takes the bar off the terminal again.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._interval = INTERVAL_TERMINAL if self._terminal else INTERVAL_LINES
        self._stage = ""
        self._began = self._said = 0.0
        self._shown = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` bytes of `stage` are through."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began, self._said = stage, now, now
        if now - self._said >= self._interval and total:
            self._said = now
            self._say(progress_text(stage, done, total, now - self._began, bar=self._terminal))

    def close(self) -> None:
        """Clear the bar."""
        if self._shown:
            control(self._stream, "\r" + " " * self._shown + "\r")
            self._stream.flush()
            self._shown = 0

    def _say(self, text: str) -> None:
        if self._terminal:
            control(self._stream, "\r" + text.ljust(self._shown))
            self._shown = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()


def progress_text(stage: str, done: int, total: int, seconds: float, *, bar: bool = False) -> str:
    """One line of at most 79 characters: stage, (bar,) percentage, rate, time to go."""
    share = min(done / total, 1.0) if total else 1.0
    full = int(share * BAR)
    drawn = f"[{'#' * full}{'.' * (BAR - full)}] " if bar else ""
    rate = done / seconds if seconds > 0 else 0.0
    left = f", {duration_text((total - done) / rate)} to go" if rate and done < total else ""
    return f"{stage:<7} {drawn}{share:4.0%}, {size_text(rate)}/s{left}"
