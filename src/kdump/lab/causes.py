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

from kdump import arch
from kdump.errors import UsageError

_FIFREEZE = 0xC0045877  # include/uapi/linux/fs.h: _IOWR('X', 119, int)
_SYSCTL = Path("/proc/sys")
WAITING = "kdump guest: waiting for the host"
MODULE = "/crasher.ko"  # in the guest's image
_STOP_DISK = "block_set_io_throttle slow 1 0 0 0 0 0"  # to a byte a second


@dataclass(frozen=True)
class Cause:
    """One way to crash.

    `panic` is a regular expression that the panic message matches, `function` the kernel function that the panicking
    stack must hold, `trigger(disk)` brings it about, given the directory where the guest's disk is mounted.
    `from_outside` is a command for QEMU's monitor, which does its part once the trigger says that it is waiting. `cpus`
    is how many the machine needs, `needs_nmi` says that it comes as one.
    """

    name: str
    summary: str
    panic: str
    function: str
    trigger: Callable[[Path], None]
    cpus: int = 1
    from_outside: str = ""
    needs_nmi: bool = False

    def known_to(self, machine: str) -> bool:
        """Whether a machine of that architecture can be crashed so."""
        return not self.needs_nmi or arch.by_machine(machine).nmi


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


def _wait(seconds: float = 600) -> None:
    print(WAITING, flush=True)
    time.sleep(seconds)


def _nmi(_disk: Path) -> None:
    _sysctl("kernel.unknown_nmi_panic", 1)
    _wait()


def _machine_check(_disk: Path) -> None:
    _wait()


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


def _blocked_io(_disk: Path) -> None:
    """A write waits for a disk that has stopped answering: the host has throttled it to a byte a second by now.

    fsync(2) waits without being killable, which the detector of hung tasks wants; a direct read or write evades it.
    """
    _sysctl("kernel.hung_task_timeout_secs", 3)
    _sysctl("kernel.hung_task_panic", 1)
    _wait(3)
    disk = os.open("/dev/nvme0n1", os.O_RDWR)
    for number in range(1000):  # a throttle lets the first through
        os.pwrite(disk, bytes(mmap.PAGESIZE), number * mmap.PAGESIZE)
        os.fsync(disk)


def _stuck(parameters: str) -> Callable[[Path], None]:
    """Tasks that wait for one thing of each kind: on a disk that the host has stopped, and in the module, if any."""

    def strand(disk: Path) -> None:
        from kdump.capture import system
        from kdump.lab import stuck

        files = stuck.prepare()
        print(WAITING, flush=True)
        stuck.strand(files, disk)
        if parameters:
            system.load_module(MODULE, parameters)
        time.sleep(4)  # what the module has started is asleep by then
        _sysctl("kernel.hung_task_panic", 1)
        _sysctl("kernel.hung_task_timeout_secs", 3)
        time.sleep(600)

    return strand


def _module(parameters: str) -> Callable[[Path], None]:
    def load(_disk: Path) -> None:
        from kdump.capture import system

        # On the boot CPU, as above; a sleep is timed by the CPU it began on, and that one is not to be stopped.
        os.sched_setaffinity(0, {0})
        system.load_module(MODULE, parameters)
        time.sleep(12)  # what it does may take its time, or need the host in the end
        _wait()

    return load


CAUSES: Sequence[Cause] = (
    Cause("sysrq", "echo c > /proc/sysrq-trigger", "sysrq triggered crash", "sysrq_handle_crash", _sysrq),
    Cause(
        "nmi", "an NMI from outside, with unknown_nmi_panic", "NMI: Not continuing", "unknown_nmi_error", _nmi,
        from_outside="nmi", needs_nmi=True,
    ),
    Cause("oom", "out of memory, with panic_on_oom", "[Oo]ut of memory", "out_of_memory", _out_of_memory),
    Cause("init", "PID 1 dies of a segmentation fault", "Attempted to kill init", "do_exit", _killed_init),
    Cause(
        "cpu", "a panic on a CPU other than 0", "sysrq triggered crash", "sysrq_handle_crash", _other_cpu,
        cpus=2,
    ),
    Cause("hung", "a hung task, with hung_task_panic", "hung_task: blocked tasks", "watchdog", _hung_task),
)  # fmt: skip


# These ask for more than a kernel and a disk. Status: valid, uncorrected, enabled, address, processor context corrupt;
# global status: restart address valid, in progress (Intel SDM volume 3, 16.3.2).
_SPECIAL = (
    Cause(
        "mce", "an uncorrected machine check from outside (the kernel must have CONFIG_X86_MCE)", "[Mm]achine check",
        "do_machine_check", _machine_check, from_outside="mce 0 1 0xb600000000000134 0x5 0x4711000 0",
        needs_nmi=True,
    ),
    Cause(
        "io", "a write to a disk (NVMe, its drive `slow`) that stops answering", "hung_task: blocked tasks",
        "watchdog", _blocked_io, from_outside=_STOP_DISK,
    ),
)  # fmt: skip


def find_cause(name: str) -> Cause:
    """The cause of that name; `UsageError` lists them if there is none.

    "module PARAMETERS" is a module that the machine was given (`Scenario.guest_files[MODULE]`), loaded with these;
    "module+nmi PARAMETERS" the same, and an NMI from outside once it has had its time. "stuck PARAMETERS": tasks wait
    for what a disk (NVMe, with ext4, its drive `slow`) no longer answers, and for what the module makes them wait for;
    without parameters there is no module.
    """
    word, _, parameters = name.partition(" ")
    if word == "stuck":
        return Cause(name, f"tasks wait for all kinds of things ({parameters})", "hung_task: blocked tasks", "watchdog",
                     _stuck(parameters), from_outside=_STOP_DISK)  # fmt: skip
    if word in ("module", "module+nmi"):
        outside = word.partition("+")[2]
        return Cause(name, f"insmod with {parameters}", "", "", _module(parameters), from_outside=outside)
    for cause in (*CAUSES, *_SPECIAL):
        if cause.name == name:
            return cause
    raise UsageError(
        f"there is no cause {name!r}", remedy="choose one of: " + ", ".join(cause.name for cause in CAUSES)
    )
