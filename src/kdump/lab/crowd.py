"""A crowd in the lab's production machine: many threads, processes and control groups, to measure reports on.

Runs in the guest. Threads are made by a few instructions (x86-64) that call clone(2) and, in the child, wait for ever:
one costs the kernel's own share and nothing more, so 100,000 of them fit into 6 GiB.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Sequence
from pathlib import Path

from kdump.capture import system
from kdump.errors import KdumpError

_CALL_CLONE, _CALL_PAUSE, _CALL_NANOSLEEP = 56, 34, 35  # arch/x86/entry/syscalls/syscall_64.tbl
_THREAD = 0x00010F00  # CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD
_PROCESS = 17  # SIGCHLD
_THREADS_EACH = 2500  # threads of one process
_GROUPS_EACH = 100
_HOUR = 3600
# long spawn(count, flags, call, argument): clone(2) `count` times; children do nothing but that system call.
_SPAWN = bytes.fromhex(
    "53 41544155 4156"  # push rbx, r12, r13, r14
    "4889fb 4989f4 4989d5 4989ce"  # keep the arguments there
    "b838000000 4c89e7 31f6 31d2 4531d2 4531c0 0f05"  # again: clone(flags, 0, 0, 0, 0)
    "4885c0 7809 740f 48ffcb 75e0 31c0"  # below zero: done; zero: the child; else the next
    "415e 415d 415c 5b c3"  # done: pop, return
    "4c89e8 4c89f7 31f6 0f05 ebf4"  # the child: call(argument, 0), for ever
)

_HELD: list[object] = []


def gather(threads: int, processes: int, groups: int) -> None:
    """Make them; returns once all are there. Raises `KdumpError` if the kernel refuses some."""
    for name in ("kernel/pid_max", "kernel/threads-max", "vm/max_map_count"):
        Path("/proc/sys", name).write_text(str(1 << 20))
    if groups:
        _groups(groups)
    waits: Sequence[tuple[int, int]] = ((_CALL_PAUSE, 0), (_CALL_NANOSLEEP, _HOUR))
    for number, start in enumerate(range(0, threads, _THREADS_EACH)):
        _in_child(min(_THREADS_EACH, threads - start), _THREAD, *waits[number % 2])
    if processes:
        _in_child(processes, _PROCESS, *waits[0])


def _in_child(count: int, flags: int, call: int, seconds: int) -> None:
    """A process that makes `count` threads or processes of its own and says when it has them."""
    ready, told = os.pipe()
    if not os.fork():
        done = _spawn(count, flags, call, seconds)
        os.write(told, b"." if not done else os.strerror(-done).encode())
        while True:
            time.sleep(_HOUR)
    os.close(told)
    answer = os.read(ready, 256)
    os.close(ready)
    if answer != b".":
        raise KdumpError(f"the crowd is not complete: {answer.decode() or 'a process of it died'}")


def _spawn(count: int, flags: int, call: int, seconds: int) -> int:
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code[: len(_SPAWN)] = _SPAWN
    _HELD.append(code)  # the children run there
    entry = ctypes.addressof(ctypes.c_char.from_buffer(code))
    until = (ctypes.c_int64 * 2)(seconds, 0)  # struct timespec
    _HELD.append(until)
    spawn = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_void_p)(entry)
    return int(spawn(count, flags, call, ctypes.addressof(until) if seconds else None))


def _groups(count: int) -> None:
    """Control groups of the unified hierarchy, a hundred in each of theirs, with memory accounted."""
    root = Path("/run/cgroup")
    root.mkdir()
    system.mount("cgroup2", str(root), "cgroup2")
    for start in range(0, count, _GROUPS_EACH):
        slice_ = root / f"slice-{start // _GROUPS_EACH}.slice"
        (root / "cgroup.subtree_control").write_text("+memory")
        slice_.mkdir()
        (slice_ / "cgroup.subtree_control").write_text("+memory")
        for number in range(start, min(start + _GROUPS_EACH, count)):
            (slice_ / f"unit-{number}.service").mkdir()
