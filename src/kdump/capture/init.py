"""The first process of the capture kernel: a small supervisor that always reaches the final action.

It forks the worker that does everything, and itself only reaps, feeds the hardware watchdog, and keeps the time. The
worker may be killed by the out-of-memory killer, hang or crash: it is tried once more, more frugally, and then the
final action happens. The supervisor stays small: it is forked from before anything large is imported.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import time
from pathlib import Path

from kdump.capture import final, modprobe, system
from kdump.capture.console import Console
from kdump.capture.plan import PLAN_PATH, CapturePlan, load_plan
from kdump.capture.state import BROKEN, DEGRADED, FAILED, SAVED
from kdump.errors import describe

_ATTEMPTS = 2
_GRACE = 10.0  # seconds beyond its own deadline after which a stage is killed from outside
_TICK = 1.0
_SETPRETIMEOUT = 3 << 30 | 4 << 16 | ord("W") << 8 | 8  # WDIOC_SETPRETIMEOUT: include/uapi/linux/watchdog.h

# Written pages may hold this many bytes before writers have to wait for the disk. The kernel's own limits are shares of
# a memory that a capture kernel does not have. Source: Documentation/admin-guide/sysctl/vm.rst.
_SYSCTLS = {"dirty_background_bytes": 2 << 20, "dirty_bytes": 8 << 20}


def main() -> None:
    """Run as PID 1: never returns."""
    console = Console()
    plan = CapturePlan()
    success = False
    watchdogs = Watchdogs()
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        plan = load_plan(PLAN_PATH)
        prepare(console)
        success = supervise(plan, console, watchdogs if plan.watchdog else None)
    except BaseException as error:  # noqa: BLE001 -- nothing may keep the machine from its final action
        console.say(f"supervisor: {describe(error)}")
    action = plan.on_success if success else plan.on_failure
    if action in ("halt", "shell"):
        watchdogs.disarm()
    while True:
        with contextlib.suppress(Exception):
            final.act(action, console, plan.deadlines.action)
        final.press("b")
        time.sleep(1)


def prepare(console: Console) -> None:
    """Prepare the process once: the supervisor cannot be chosen by the out-of-memory killer, its pages stay in
    memory."""
    try:
        set_oom_score(-1000)
        system.lock_memory()
        for name, value in _SYSCTLS.items():
            Path("/proc/sys/vm", name).write_text(str(value), encoding="ascii")
        modprobe.answer()
    except OSError as error:
        console.say(f"supervisor: {describe(error)}")


def set_oom_score(score: int) -> None:
    """Source: proc(5), /proc/PID/oom_score_adj: -1000 never, 1000 first."""
    Path("/proc/self/oom_score_adj").write_text(str(score), encoding="ascii")


def supervise(plan: CapturePlan, console: Console, watchdogs: Watchdogs | None = None) -> bool:
    """Run workers until one ends by itself; True if the dump was saved."""
    end = time.monotonic() + plan.deadlines.total
    for attempt in range(1, _ATTEMPTS + 1):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _work(plan, console, writing, attempt, end)
        os.close(writing)
        status = _watch(child, reading, end, console, watchdogs)
        os.close(reading)
        if status in (SAVED, DEGRADED, FAILED):
            return status != FAILED
        if time.monotonic() >= end:
            break
    return False


def _work(plan: CapturePlan, console: Console, notify: int, attempt: int, end: float) -> None:
    """The worker's whole life; it never returns."""
    status = BROKEN
    try:
        with contextlib.suppress(OSError):
            set_oom_score(1000)
        from kdump.capture.worker import work

        status = work(plan, console, notify=notify, attempt=attempt, end=end)
    except BaseException as error:  # noqa: BLE001 -- the exit status tells the supervisor
        console.say(f"worker: {describe(error)}")
    finally:
        os._exit(status)


def _watch(child: int, pipe: int, end: float, console: Console, watchdogs: Watchdogs | None) -> int:
    """Wait for the worker, bound in each stage and overall. Its exit status, or -signal if it was killed."""
    stage, stage_end, pending = "start", end, b""
    killed = False
    while True:
        if watchdogs:
            watchdogs.feed()
        if select.select([pipe], [], [], _TICK)[0]:
            pending += os.read(pipe, 4096)
            *lines, pending = pending.split(b"\n")
            for line in lines:
                name, _, seconds = line.decode().rpartition(" ")
                stage, left = name, float(seconds)
                stage_end = time.monotonic() + left + _GRACE if left else end
            if not lines:
                time.sleep(0.05)  # the pipe is closed: the end is near
        while True:
            found, status = _reap()
            if found == child:
                code = os.waitstatus_to_exitcode(status)
                if code < 0:
                    console.say(f"worker killed by signal {-code} in stage {stage}{_likely(code)}")
                return code
            if not found:
                break
        now = time.monotonic()
        if now >= end + _GRACE:
            console.say("the overall deadline is over")
            return -signal.SIGKILL  # it may be stuck in the kernel: not waited for
        if (now >= min(stage_end, end)) and not killed:
            console.say(f"stage {stage} does not end: killing it")
            os.kill(child, signal.SIGKILL)
            killed = True
            stage_end = end


def _reap() -> tuple[int, int]:
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0


def _likely(code: int) -> str:
    return " (out of memory, or a deadline)" if code == -signal.SIGKILL else ""


class Watchdogs:
    """Hardware watchdogs, which the first kernel may have armed: opened as they appear, fed once a tick.

    Source: Documentation/watchdog/watchdog-api.rst: opening arms, any write feeds, closing after "V" disarms. They are
    disarmed only if the machine is to stay as it is; if the supervisor itself dies, the hardware resets the machine. A
    pretimeout is taken away: its interrupt makes a kernel panic, which here would end the dump.
    """

    def __init__(self, directory: str = "/dev") -> None:
        self._open: dict[Path, int] = {}
        self._directory = Path(directory)

    def feed(self) -> None:
        """Tell each that all is well."""
        for path in self._directory.glob("watchdog[0-9]*"):
            if path not in self._open:
                with contextlib.suppress(OSError):  # somebody else has it open, and feeds it
                    self._open[path] = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
                    fcntl.ioctl(self._open[path], _SETPRETIMEOUT, bytearray(4))  # most have none, and refuse
        for descriptor in self._open.values():
            with contextlib.suppress(OSError):
                os.write(descriptor, b"\0")

    def disarm(self) -> None:
        """Nobody will feed them any more."""
        for descriptor in self._open.values():
            with contextlib.suppress(OSError):
                os.write(descriptor, b"V")
            os.close(descriptor)
        self._open.clear()
