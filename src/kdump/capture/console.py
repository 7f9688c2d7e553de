"""Messages of the capture kernel: a few lines on the console, all of them again in capture.log.

A serial console at 115200 baud takes about 11 characters a millisecond and holds up whoever writes to it: few lines.
"""

from __future__ import annotations

import os
import time

_PROGRESS_EVERY = 2.0  # seconds between two progress lines


def uptime() -> float:
    """Seconds since this kernel booted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Console:
    """Prints lines and keeps them. A console that cannot be written to never stops the capture."""

    def __init__(self, descriptor: int = 1, *, boot_time: bool = True) -> None:
        self.lines: list[str] = []
        self._descriptor = descriptor
        self._zero = 0.0 if boot_time else uptime()
        self._last_progress = 0.0

    def now(self) -> float:
        """Seconds since the kernel booted (or since the start of a capture that is not PID 1)."""
        return uptime() - self._zero

    def say(self, text: str) -> None:
        """One line, or several: "kdump: [ 12.3] text"."""
        for line in text.splitlines() or [""]:
            stamped = f"kdump: [{self.now():6.2f}] {line}"
            self.lines.append(stamped)
            # It may be full, hung up or closed: the evidence matters, not the echo.
            try:
                os.write(self._descriptor, stamped.encode("utf-8", "replace") + b"\n")
            except OSError:
                continue

    def progress(self, what: str, done: int, total: int) -> None:
        """A line with percentage, rate and the time left, at most every two seconds; `done` and `total` are bytes."""
        now = self.now()
        if done == 0:
            self._began = self._last_progress = now
            return
        if now - self._last_progress < _PROGRESS_EVERY or not total:
            return
        self._last_progress = now
        rate = done / max(now - self._began, 1e-3)
        left = (total - done) / rate if rate else 0.0
        self.say(f"{what}: {100 * done // total:3} %  {rate / (1 << 20):.0f} MiB/s  {left:.0f} s left")

    def log(self) -> bytes:
        """Everything said so far, as capture.log has it."""
        return "".join(f"{line}\n" for line in self.lines).encode("utf-8", "replace")
