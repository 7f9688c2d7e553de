"""Stages of the capture: each is announced, timed, bounded by a deadline, and can be made to fail on purpose.

The bound is kept twice: an alarm interrupts Python code and system calls in this process; the supervisor, which is
told about every stage through a pipe, kills the process if it does not react (a loop in C, an unkillable wait).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from types import FrameType
from typing import TypeVar

from kdump.capture.console import Console
from kdump.errors import KdumpError, describe

_RESERVE = 30.0  # seconds kept for sealing, manifest and log
DONE, FAILED, DEGRADED, SKIPPED = "done", "failed", "degraded", "skipped"
T = TypeVar("T")


class DeadlineError(KdumpError):
    """A stage did not end within its time."""


@dataclass
class Record:
    """How a stage went; times are seconds since the capture kernel booted. Goes into the manifest."""

    name: str
    began: float
    seconds: float = 0.0
    outcome: str = DONE
    error: str = ""


class Stages:
    """Runs stages and keeps their records."""

    def __init__(
        self, console: Console, notify: int = -1, inject: Mapping[str, str] | None = None, end: float = inf
    ) -> None:
        """`notify` is the supervisor's pipe; `end` on the monotonic clock bounds everything."""
        self.console = console
        self.records: list[Record] = []
        self._notify = notify
        self._inject = dict(inject or {})
        self.interruptible = False
        self._end = end
        self._ends: list[float] = []
        self._running: list[Record] = []
        self._renewed = 0.0

    def remaining(self) -> float:
        """Seconds that the stages now running may still take."""
        return max(0.0, min(self._ends, default=inf) - time.monotonic())

    def run(self, name: str, seconds: float, body: Callable[[], T]) -> T | None:
        """Run one stage; its result, or None if it failed, which its record and the console say.

        Whatever happens in a stage (MemoryError included) must not take the others with it; only SystemExit and
        KeyboardInterrupt pass.
        """
        record = Record(name, round(self.console.now(), 3))
        self.records.append(record)
        self._ends.append(time.monotonic() + seconds)
        self._running.append(record)
        try:
            try:
                self.interruptible = True
                self._arm()
                self.fault(name)
                return body()
            finally:
                # A signal may be waiting since long: it must not be heard where nobody would catch what it raises.
                self.interruptible = False
        except Exception as error:  # noqa: BLE001 -- that is the point of a stage
            record.outcome, record.error = FAILED, describe(error)
            self.console.say(f"{name} failed: {record.error}")
            return None
        finally:
            self._ends.pop()
            self._running.pop()
            self._arm()
            record.seconds = round(self.console.now() - record.began, 3)

    def degrade(self, reason: str) -> None:
        """Mark the innermost stage as successful, but not as asked."""
        record = self._running[-1]
        record.outcome, record.error = DEGRADED, f"{record.error}; {reason}".lstrip("; ")
        self.console.say(f"{record.name}: {reason}")

    def skip(self, name: str, reason: str) -> None:
        """A stage that is left out on purpose."""
        self.records.append(Record(name, round(self.console.now(), 3), outcome=SKIPPED, error=reason))
        self.console.say(f"no {name}: {reason}")

    def stop(self) -> str:
        """Why the dump must end now, in time for what comes after it; empty to go on."""
        return "the time for everything is over" if self._end - time.monotonic() < _RESERVE else ""

    def renew(self, seconds: float) -> None:
        """The innermost stage made progress: it has `seconds` from now on."""
        now = time.monotonic()
        if self._ends and now - self._renewed >= 1.0:
            self._renewed = now
            self._ends[-1] = now + seconds
            self._arm()

    def _arm(self) -> None:
        name = self._running[-1].name if self._running else "between stages"
        left = self.remaining()
        finite = left != inf
        # A timer of zero would be off: a stage that has no time left gets the shortest one.
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.001) if finite else 0.0)
        if self._notify >= 0:
            with contextlib.suppress(OSError):  # the supervisor is gone: nobody left to tell
                os.write(self._notify, f"{name} {left if finite else 0:.1f}\n".encode())

    def fault(self, name: str) -> None:
        """Fail as a test asks, once: see `CapturePlan.inject`."""
        match self._inject.pop(name, None):
            case None:
                return
            case "raise":
                raise RuntimeError("injected fault")
            case "hang":
                time.sleep(1e6)
            case "stuck":  # does not react to the alarm either
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
                time.sleep(1e6)
            case "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "oom":
                hog = []
                while True:
                    hog.append(bytearray(os.urandom(1) * (16 << 20)))
            case "panic":
                with open("/proc/sysrq-trigger", "w") as trigger:
                    trigger.write("c")


def install_alarm(stages: Stages) -> None:
    """Make SIGALRM raise `DeadlineError` in the main thread while a stage runs."""

    def expired(_signal: int, _frame: FrameType | None) -> None:
        if stages.interruptible:
            raise DeadlineError("out of time", remedy="the deadlines are in the configuration")

    signal.signal(signal.SIGALRM, expired)
