"""`kdump report` on what a host sent, in a child with limits of memory, CPU, files and time: a dump is hostile."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kdump.errors import KdumpError

MEMORY: Final = 3 << 30  # bytes of address space
CPU: Final = 120  # seconds
TIME: Final = 180.0  # seconds
OUTPUT: Final = 64 << 20  # bytes
LOG: Final = "vmcore-dmesg.txt"
_NO_NEW_PRIVS = 38  # prctl(2)
_DEATH_SIGNAL = 1
_NOTHING_FOUND = 3  # exit status of `kdump report` without a crash


def report(source: Path, form: str, *, short: bool = False) -> bytes:
    """The report on a dump or log; `form` is "json" or "html". Raises `KdumpError` if the child fails."""
    with tempfile.TemporaryDirectory(prefix="kdump-fleet-") as scratch:
        return _made(Path(scratch), str(source.absolute()), form, short=short)


def report_on_log(log: str, form: str) -> bytes:
    """The same on a log. The report calls it by the name that it has on the host, not by a path of this machine."""
    with tempfile.TemporaryDirectory(prefix="kdump-fleet-") as scratch:
        Path(scratch, LOG).write_bytes(log.encode("utf-8", "replace"))
        return _made(Path(scratch), LOG, form)


def _made(scratch: Path, source: str, form: str, *, short: bool = False) -> bytes:
    output = scratch / "report"
    command = ["report", f"--{form}", *(["--short"] if short else []), "--output", str(output), source]
    status, said = run(command, scratch)
    if status not in (0, _NOTHING_FOUND) or not output.exists():
        raise KdumpError("the report could not be made", why=said[-500:] or _ended(status))
    if output.stat().st_size > OUTPUT:
        raise KdumpError("the report could not be made", why="it is too large")
    return output.read_bytes()


def run(arguments: Sequence[str], directory: Path, output: Path | None = None) -> tuple[int, str]:
    """A command of kdump within the limits: its exit status (negative: the signal), and its standard error.

    What it prints goes to the file `output`, if there is one.
    """
    environment = {"PATH": os.defpath, "HOME": str(directory), "TMPDIR": str(directory), "LC_ALL": "C.UTF-8"}
    with open(output or os.devnull, "wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "kdump", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.PIPE,
            cwd=directory,
            env=environment,
            start_new_session=True,
            preexec_fn=_limit,  # noqa: PLW1509 -- system calls only, no locks taken
        )
    try:
        _, said = process.communicate(timeout=TIME)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            return -signal.SIGKILL, f"it took longer than {TIME:g} s"
        raise
    return process.returncode, said.decode("utf-8", "replace").strip()


def _limit() -> None:
    for limit, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, CPU),
        (resource.RLIMIT_FSIZE, OUTPUT),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    os.nice(10)
    libc = ctypes.CDLL(None)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def _ended(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"
