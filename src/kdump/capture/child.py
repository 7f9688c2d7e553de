"""Runs what may need too much memory in a child of its own: if it is killed, the evidence saved so far stays."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable

from kdump.errors import KdumpError, describe

_FAILED = b"\1"  # first byte of what the child sends; the rest is the text, or why there is none
_MADE = b"\0"


def bytes_from_child(make: Callable[[], bytes], memory: int) -> bytes:
    """The result of `make`, run in a child that may allocate `memory` bytes more than it has now.

    Raises `KdumpError` if it fails, needs more, or is killed. A deadline that arrives meanwhile kills it.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run(make, memory, writing)
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(child, 0)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    code = os.waitstatus_to_exitcode(status)
    if code or answer[:1] != _MADE:
        why = answer[1:].decode("utf-8", "replace") or f"its process was killed by signal {-code}"
        raise KdumpError("it could not be made", why=why)
    return answer[1:]


def _run(make: Callable[[], bytes], memory: int, writing: int) -> None:
    """The child's life; it never returns."""
    answer = _FAILED + b"out of memory"
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)  # the parent keeps the time
        limit = _data_size() + memory
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        answer = _MADE + make()
    except MemoryError:
        pass
    except BaseException as error:  # noqa: BLE001 -- the parent is told
        answer = _FAILED + describe(error).encode("utf-8", "replace")
    finally:
        with contextlib.suppress(OSError), open(writing, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)


def _data_size() -> int:
    """VmData of this process in bytes: what RLIMIT_DATA counts (mm/mmap.c)."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))
