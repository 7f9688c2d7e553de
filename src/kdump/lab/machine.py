"""One virtual machine: boots a kernel (or a disk) under QEMU, watches its console, leaves nothing running."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from kdump import arch
from kdump.errors import KdumpError
from kdump.lab import accel
from kdump.lab.console import Console
from kdump.lab.qemu import Spec, qemu_arguments
from kdump.lab.qmp import Qmp

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


class MachineError(KdumpError):
    """The machine did not do what was waited for. `why` ends with the last lines of its console."""


def _die_with_parent() -> None:
    # The machine ends with the thread that started it, however that ends.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Machine:
    """A context manager per machine: entering starts it, leaving kills whatever is left of it.

    `accelerator` is a QEMU -accel value; "" chooses (see `lab.accel`). `console` names the file that keeps the serial
    console (default: a temporary one, gone with the machine). Raises KdumpError if QEMU is missing or will not start.
    """

    def __init__(self, spec: Spec, *, console: Path | None = None, accelerator: str = "") -> None:
        self.spec = spec
        self._accelerator = accelerator
        self._console_path = console
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._console: Console | None = None
        self.started = 0.0

    def __enter__(self) -> Self:
        accelerator = self._accelerator
        if not accelerator and self.spec.architecture is not arch.native():
            accelerator = accel.EMULATION
        accelerator = accelerator or accel.choose(self.spec.kernel, boots_with_kvm)
        for path in [self.spec.kernel, self.spec.initrd, *(disk.path for disk in self.spec.disks)]:
            if path and not path.exists():
                raise KdumpError("the machine cannot be started", why=f"{path} does not exist")
        self._directory = tempfile.TemporaryDirectory(prefix="kdump-machine-")
        directory = Path(self._directory.name)
        self._errors = directory / "stderr"
        self._monitor = directory / "qmp"
        arguments = qemu_arguments(self.spec, accelerator, self._monitor)
        try:
            with self._errors.open("wb") as errors:
                self._process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,
                    preexec_fn=_die_with_parent,  # noqa: PLW1509 - one prctl(2), no locks taken
                )
            self.started = time.monotonic()
            assert self._process.stdout
            self._console = Console(self._process.stdout, self._console_path or directory / "console")
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self.kill()
        if self._process and self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        if self._directory:
            self._directory.cleanup()

    @property
    def console(self) -> Console:
        """The serial console; raises if the machine was never started."""
        assert self._console, "the machine has not been started"
        return self._console

    @property
    def lines(self) -> list[tuple[float, str]]:
        """Console lines so far: (time.monotonic() when complete, text)."""
        return self.console.lines

    @property
    def running(self) -> bool:
        """Is QEMU still there?"""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """QEMU's process id, for measuring."""
        assert self._process
        return self._process.pid

    def qmp(self) -> Qmp:
        """A connection to the machine's monitor, to be used as a context manager."""
        return Qmp(self._monitor)

    def type(self, text: str) -> None:
        """Type on the serial console."""
        assert self._process and self._process.stdin
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def wait_for(self, pattern: str, timeout: float, *, unless: str = "") -> re.Match[str]:
        """Wait until a new console line matches `pattern`. A line that matches `unless` ends the wait at once.

        Kills the machine and raises MachineError, with the last console lines, on `unless`, end or timeout (seconds).
        """
        wanted = re.compile(pattern)
        either = re.compile(f"(?:{pattern})|(?:{unless})" if unless else pattern)
        found = self.console.wait_for(either, timeout)
        if found and (match := wanted.search(found.string)):
            return match
        if found:
            reason = f"it printed {found.string.strip()!r}"
            time.sleep(1.0)  # let the lines that explain it arrive
        else:
            reason = "it ended first" if self.console.ended else f"not within {timeout:g} s"
        raise self._failure(f"the machine never printed {pattern!r}", reason)

    def run_to_exit(self, timeout: float) -> None:
        """Wait until the machine powers off (or, unless `reboots`, restarts). MachineError on timeout or failure."""
        assert self._process
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self._failure("the machine did not power off", f"not within {timeout:g} s") from None
        self.console.finish()
        if status != 0:
            raise self._failure("QEMU failed", f"exit status {status}")

    def _failure(self, what: str, reason: str) -> MachineError:
        self.kill()
        lines = [*self._errors.read_text(errors="replace").splitlines()[-5:], *self.console.tail()]
        why = reason + "; its last lines:" + "".join(f"\n    {line}" for line in lines) if lines else reason
        kept = f"the whole console is in {self._console_path}" if self._console_path else ""
        return MachineError(what, why=why, remedy=kept)

    def kill(self) -> None:
        """End the machine now, as a power cut would. Harmless when it has ended."""
        if not self._process:
            return
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._console:
            self._console.finish()


def boots_with_kvm(kernel: Path) -> bool:
    """Does this kernel come all the way to looking for a root file system, which it does not have?"""
    spec = Spec(kernel=kernel, cmdline=f"console={arch.native().console} panic=-1", memory=256 << 20)
    with Machine(spec, accelerator=accel.KVM) as machine:
        try:
            machine.wait_for("VFS: Unable to mount root|Kernel panic", accel.PROBE_SECONDS)
        except KdumpError:
            return False
    return True


@contextlib.contextmanager
def booted(
    spec: Spec,
    console: Path,
    sign: str,
    timeout: float,
    *,
    unless: str,
    accelerator: str = "",
    say: Callable[[str], None] = lambda _line: None,
) -> Iterator[Machine]:
    """The machine when its user space has printed what matches `sign`, within `timeout` seconds. Else MachineError.

    Under emulation a distribution's kernel hangs or panics now and then before it starts user space. Nothing of kdump
    has run by then, so the machine gets one more try; the first console is kept as `console.first.log`.
    """
    for again in (True, False):
        with Machine(spec, console=console, accelerator=accelerator) as running:
            try:
                running.wait_for(sign, timeout, unless=unless)
            except MachineError as error:
                if not again:
                    raise
                console.replace(console.with_suffix(".first.log"))
                say(f"the machine did not boot and gets one more try: {error}")
                continue
            yield running
            return
