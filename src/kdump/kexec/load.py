"""Put a kernel in place for the next panic, take it out again; what was loaded before stays loaded when that fails.

The running kernel drops the old capture kernel before it looks at the new one (kernel/kexec_file.c), so everything
that can be checked is checked before the call; if the call fails all the same, what the record names is loaded again.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kdump.errors import FormatError, KdumpError
from kdump.kexec import syscalls
from kdump.kexec.state import KexecState, read_state
from kdump.kexec.syscalls import KEXEC_FILE_ON_CRASH, KexecRefused

RECORD = Path("/run/kdump/loaded.json")
NO_RESERVATION = (
    "add crashkernel=256M to the kernel command line (`kdump setup` does it) and reboot; "
    "cat /sys/kernel/kexec_crash_size shows the result"
)


@dataclass(frozen=True)
class LoadResult:
    """What was loaded and how: `method` is "file" or "segments"; sizes in bytes; `seconds` is the whole load."""

    kernel: str
    initrd: str
    cmdline: str
    method: str
    kernel_size: int
    initrd_size: int
    reserved: int
    seconds: float


def load(
    kernel: Path,
    initrd: Path | None,
    cmdline: str,
    *,
    root: Path = Path("/"),
    record: Path = RECORD,
) -> LoadResult:
    """Load `kernel` and `initrd` as the panic kernel with kexec_file_load(2).

    `cmdline` is complete (see `cmdline.capture_command_line`). `root` is where proc and sys are read. Raises KdumpError
    (KexecRefused when the kernel said no); what was loaded before is loaded then.
    """
    started = time.monotonic()
    state = check_ready(root)
    kernel_size = check_kernel(kernel)
    initrd_size = check_initrd(initrd, state) if initrd else 0
    try:
        _file_load(kernel, initrd, cmdline, state)
    except KexecRefused as error:
        if error.errno != errno.EBUSY:  # EBUSY comes before anything is dropped
            _restore(error, state, record, root)
        raise
    result = LoadResult(
        os.fspath(kernel.resolve()),
        os.fspath(initrd.resolve()) if initrd else "",
        cmdline,
        "file",
        kernel_size,
        initrd_size,
        state.reserved,
        time.monotonic() - started,
    )
    _write_record(result, record)
    return result


def unload(*, record: Path = RECORD) -> None:
    """Take the panic kernel out of the reservation. Raises KexecRefused."""
    try:
        syscalls.kexec_file_unload(KEXEC_FILE_ON_CRASH)
    except KexecRefused as error:
        if error.errno != errno.ENOSYS:
            raise
        syscalls.kexec_load(0, [], syscalls.KEXEC_ON_CRASH)
    record.unlink(missing_ok=True)


def check_ready(root: Path = Path("/")) -> KexecState:
    """The machine's state if a panic kernel can be loaded at all; raises KdumpError with the reason if not."""
    state = read_state(root)
    if not state.supported:
        raise KdumpError(
            "this kernel cannot load a panic kernel",
            why="/sys/kernel/kexec_crash_loaded is missing: no kexec built in, or /sys is not mounted",
            remedy="use a kernel built with CONFIG_KEXEC_FILE and CONFIG_CRASH_DUMP",
        )
    if not state.reserved:
        raise KdumpError("no memory is reserved for a capture kernel", remedy=NO_RESERVATION)
    return state


def check_kernel(kernel: Path) -> int:
    """Size of the kernel file in bytes if it is a bzImage that kexec_file_load(2) takes; raises KdumpError if not."""
    size = _regular_size(kernel, "kernel")
    with open(kernel, "rb") as file:
        head = file.read(0x240)
    if len(head) < 0x240 or head[0x1FE:0x200] != b"\x55\xaa" or head[0x202:0x206] != b"HdrS":
        raise FormatError("not a bzImage", path=kernel, offset=0x202, remedy="give /boot/vmlinuz-* of an x86_64 kernel")
    return size


def check_initrd(initrd: Path, state: KexecState) -> int:
    """Size of the image in bytes if it can fit into the reservation; raises KdumpError if not."""
    size = _regular_size(initrd, "image")
    if size >= state.reserved:
        raise KdumpError(
            f"{initrd} does not fit into the reservation",
            why=f"it has {size} bytes, the reservation {state.reserved}",
            remedy="make the image smaller or reserve more (crashkernel=)",
        )
    return size


def _regular_size(path: Path, what: str) -> int:
    try:
        status = path.stat()
    except OSError as error:
        raise KdumpError(f"cannot read the {what} {path}", why=error.strerror or str(error)) from None
    if not stat.S_ISREG(status.st_mode):
        raise KdumpError(f"the {what} {path} is not a regular file")
    if not status.st_size:
        raise KdumpError(f"the {what} {path} is empty")
    return status.st_size


def _file_load(kernel: Path, initrd: Path | None, cmdline: str, state: KexecState) -> None:
    with _opened(kernel) as kernel_fd:
        if initrd is None:
            syscalls.kexec_file_load(kernel_fd, None, cmdline, KEXEC_FILE_ON_CRASH, lockdown=state.lockdown)
            return
        with _opened(initrd) as initrd_fd:
            syscalls.kexec_file_load(kernel_fd, initrd_fd, cmdline, KEXEC_FILE_ON_CRASH, lockdown=state.lockdown)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KdumpError(f"cannot open {path}", why=error.strerror or str(error)) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_record(record: Path = RECORD) -> LoadResult | None:
    """What the last load left in the record; None if there is none (or an older version's)."""
    with suppress(OSError, ValueError, TypeError):
        return LoadResult(**json.loads(record.read_text()))
    return None


def _write_record(result: LoadResult, record: Path) -> None:
    record.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    draft = record.with_suffix(".new")
    draft.write_text(json.dumps(asdict(result), indent=1) + "\n")
    draft.chmod(0o600)
    draft.replace(record)


def _restore(error: KexecRefused, state: KexecState, record: Path, root: Path) -> None:
    """After a refused load: load again what was loaded before, and say in `error` whether that worked."""
    if not state.crash_loaded or read_state(root).crash_loaded:
        return
    before = read_record(record)
    if before is None:
        error.remedy += "\n  What was loaded before is gone: it was not loaded by kdump, load it again by hand."
        return
    try:
        _file_load(Path(before.kernel), Path(before.initrd) if before.initrd else None, before.cmdline, state)
    except KdumpError as second:
        record.unlink(missing_ok=True)
        error.remedy += f"\n  What was loaded before ({before.kernel}) is gone and could not be loaded again: {second}"
    else:
        error.remedy += f"\n  What was loaded before ({before.kernel}) is loaded again."
