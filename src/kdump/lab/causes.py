"""Ways to bring a kernel down, each a real one, and what its report must then say.

The triggers run in the guest (see `kdump.lab.guest`), so this module imports next to nothing.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdump.errors import UsageError

_FIFREEZE = 0xC0045877  # include/uapi/linux/fs.h: _IOWR('X', 119, int)
_SYSCTL = Path("/proc/sys")


@dataclass(frozen=True)
class Cause:
    """One way to crash.

    `panic` is a regular expression that the panic message matches, `function` the kernel function that the panicking
    stack must hold, `trigger(disk)` brings it about, given the directory where the guest's disk is mounted. With
    `from_outside` the trigger only arms it and the host sends the NMI. `cpus` is how many the machine needs.
    """

    name: str
    summary: str
    panic: str
    function: str
    trigger: Callable[[Path], None]
    cpus: int = 1
    from_outside: bool = False


def _sysctl(name: str, value: int) -> None:
    (_SYSCTL / name.replace(".", "/")).write_text(f"{value}\n")


def _sysrq_on(cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    Path("/proc/sysrq-trigger").write_text("c")


def _sysrq(_disk: Path) -> None:
    # On the boot CPU: the capture kernel starts on the CPU that panicked, and cannot start the boot CPU from another.
    _sysrq_on(0)


def _other_cpu(_disk: Path) -> None:
    _sysrq_on(max(os.sched_getaffinity(0)))


def _nmi(_disk: Path) -> None:
    _sysctl("kernel.unknown_nmi_panic", 1)
    print("kdump guest: waiting for an NMI", flush=True)
    time.sleep(600)


def _out_of_memory(_disk: Path) -> None:
    _sysctl("vm.panic_on_oom", 1)
    hoard: list[mmap.mmap] = []
    while True:  # every page is touched: an untouched one costs nothing
        hoard.append(mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE))


def _killed_init(_disk: Path) -> None:
    """PID 1 dies of a real SIGSEGV."""
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    ctypes.string_at(0)


def _hung_task(disk: Path) -> None:
    """A task waits, uninterruptible, for a file system that stays frozen."""
    _sysctl("kernel.hung_task_timeout_secs", 2)
    _sysctl("kernel.hung_task_panic", 1)
    directory = os.open(disk, os.O_RDONLY | os.O_DIRECTORY)
    os.sync()
    fcntl.ioctl(directory, _FIFREEZE, 0)
    (disk / "frozen").write_text("this write waits for ever")


CAUSES: Sequence[Cause] = (
    Cause("sysrq", "echo c > /proc/sysrq-trigger", "sysrq triggered crash", "sysrq_handle_crash", _sysrq),
    Cause(
        "nmi", "an NMI from outside, with unknown_nmi_panic", "NMI: Not continuing", "unknown_nmi_error", _nmi,
        from_outside=True,
    ),
    Cause("oom", "out of memory, with panic_on_oom", "[Oo]ut of memory", "out_of_memory", _out_of_memory),
    Cause("init", "PID 1 dies of a segmentation fault", "Attempted to kill init", "do_exit", _killed_init),
    Cause(
        "cpu", "a panic on a CPU other than 0", "sysrq triggered crash", "sysrq_handle_crash", _other_cpu,
        cpus=2,
    ),
    Cause("hung", "a hung task, with hung_task_panic", "hung_task: blocked tasks", "watchdog", _hung_task),
)  # fmt: skip


def find_cause(name: str) -> Cause:
    """The cause of that name; `UsageError` lists them if there is none."""
    for cause in CAUSES:
        if cause.name == name:
            return cause
    raise UsageError(
        f"there is no cause {name!r}", remedy="choose one of: " + ", ".join(cause.name for cause in CAUSES)
    )
