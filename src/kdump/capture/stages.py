"""Stages of the capture: each is announced, timed, bounded by a deadline, and can be made to fail on purpose.

The bound is kept twice: an alarm interrupts Python code and system calls in this process; the supervisor, which is
told about every stage through a pipe, kills the process if it does not react (a loop in C, an unkillable wait).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FrameType

from kdump.capture.console import Console
from kdump.errors import KdumpError

DONE, FAILED, SKIPPED, DEGRADED = "done", "failed", "skipped", "degraded"


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

    def __init__(self, console: Console, notify: int = -1, inject: Mapping[str, str] | None = None) -> None:
        self.console = console
        self.records: list[Record] = []
        self._notify = notify
        self._inject = dict(inject or {})
        self._ends: list[float] = []
        self._renewed = 0.0

    def remaining(self) -> float:
        """Seconds that the stages now running may still take."""
        return max(0.0, min(self._ends, default=float("inf")) - time.monotonic())

    @contextlib.contextmanager
    def stage(self, name: str, seconds: float, *, optional: bool = True) -> Iterator[Record]:
        """One stage. An exception becomes its record (`optional`), or leaves it as a KdumpError after being recorded.

        `MemoryError` counts as any other failure; KeyboardInterrupt and SystemExit pass.
        """
        record = Record(name, self.console.now())
        self.records.append(record)
        self._ends.append(time.monotonic() + seconds)
        self._arm(name)
        try:
            self._fault(name)
            yield record
        except Exception as error:  # whatever happened must not take the other stages with it
            record.outcome, record.error = FAILED, describe(error)
            self.console.say(f"{name} failed: {record.error}")
            if not optional:
                raise
        finally:
            self._ends.pop()
            self._arm("between stages")
            record.seconds = self.console.now() - record.began

    def renew(self, seconds: float) -> None:
        """The innermost stage made progress: it has `seconds` from now on."""
        now = time.monotonic()
        if self._ends and now - self._renewed >= 1.0:
            self._renewed = now
            self._ends[-1] = now + seconds
            self._arm(self.records[-1].name)

    def _arm(self, name: str) -> None:
        left = self.remaining()
        finite = left != float("inf")
        # A timer of zero would be off: a stage that has no time left gets the shortest one.
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.001) if finite else 0.0)
        if self._notify >= 0:
            with contextlib.suppress(OSError):  # the supervisor is gone: nobody left to tell
                os.write(self._notify, f"{name} {left if finite else 0:.1f}\n".encode())

    def _fault(self, name: str) -> None:
        """Fail as a test asks: see `CapturePlan.inject`."""
        match self._inject.get(name):
            case None:
                return
            case "raise":
                raise RuntimeError("injected fault")
            case "hang":
                time.sleep(1e6)
            case "stuck":  # does not react to the alarm either
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
                time.sleep(1e6)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "oom":
                hog = []
                while True:
                    hog.append(bytearray(os.urandom(1) * (16 << 20)))
            case "panic":
                with open("/proc/sysrq-trigger", "w") as trigger:
                    trigger.write("c")


def install_alarm() -> None:
    """Make SIGALRM raise `DeadlineError` in the main thread."""

    def expired(_signal: int, _frame: FrameType | None) -> None:
        raise DeadlineError("out of time", remedy="the deadlines are in the configuration")

    signal.signal(signal.SIGALRM, expired)


def describe(error: BaseException) -> str:
    """An exception in one line, with the place where it arose if it is not one of ours."""
    if isinstance(error, KdumpError):
        return error.what + (f": {error.why}" if error.why else "")
    if isinstance(error, OSError):
        return f"{error.filename or 'system call'}: {error.strerror or error}"
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" ({place.tb_frame.f_code.co_filename.rpartition('/')[2]}:{place.tb_lineno})" if place else ""
    return f"{type(error).__name__}: {error}{where}" if str(error) else f"{type(error).__name__}{where}"
