"""Put a kernel in place for the next panic (or the next reboot), take it out again.

The running kernel drops the old capture kernel before it looks at the new one (kernel/kexec_file.c), so everything
that can be checked is checked before the call; if the call still fails, what the record names is loaded again.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from kdump.errors import FormatError, KdumpError
from kdump.kexec import syscalls
from kdump.kexec.record import RECORD, Loaded, changes, locked, read_record, seen, write_record
from kdump.kexec.sources import AUTO, FILE, SEGMENTS, Sources, check_kernel, check_sources, choose_method, read_sources
from kdump.kexec.state import KexecState, read_state
from kdump.kexec.syscalls import KEXEC_FILE_ON_CRASH, KEXEC_ON_CRASH, KEXEC_UPDATE_ELFCOREHDR, KexecRefused

if TYPE_CHECKING:  # the segment method is imported where it is used: the other does without it
    from kdump.kexec.load_plan import Plan
    from kdump.kexec.wishes import Wishes

NO_RESERVATION = (
    "add crashkernel=256M to the kernel command line (`kdump setup` does it) and reboot; "
    "cat /sys/kernel/kexec_crash_size shows the result"
)


Result = TypeVar("Result")


class LoadResult(NamedTuple):
    """The result of a load: `method` is "file" or "segments" and `why` it was chosen.

    Sizes in bytes; `seconds` is the whole load. `changed` says what differed from what was loaded before; it is empty
    if nothing did and so nothing was loaded (only with `if_changed`).
    """

    kernel: str
    initrd: str
    cmdline: str
    method: str
    why: str
    kernel_size: int
    initrd_size: int
    reserved: int
    seconds: float
    changed: tuple[str, ...]


def load(
    kernel: Path,
    initrd: Path | None,
    cmdline: str,
    *,
    method: str = AUTO,
    if_changed: bool = False,
    wishes: Wishes | None = None,
    root: Path = Path("/"),
    record: Path = RECORD,
) -> LoadResult:
    """Load `kernel` and `initrd` (None: the one inside a unified kernel image, if any) as the panic kernel.

    `cmdline` is complete (see `cmdline.capture_command_line`). `method` is "auto", "file" (kexec_file_load) or
    "segments" (kexec_load, which can fulfil `wishes`); see `choose_method`. `root` is where proc and sys are read.
    Raises KdumpError (KexecRefused when the running kernel said no); what was loaded before is loaded then.
    """
    started = time.monotonic()
    state = check_ready(root)
    sources = read_sources(kernel, initrd)
    check_sources(sources, cmdline, root)
    chosen, why = choose_method(sources.kernel, state, method, root=root)
    with locked(record):
        before = read_record(record)
        now = as_loaded(sources, cmdline, chosen, root)
        differences = changes_against_record(sources, cmdline, chosen, state, root=root, record=record)
        if differences or not if_changed:
            try:
                _, (by, why) = by_either(
                    lambda method: put_in_place(sources, cmdline, method, state, wishes=wishes, root=root),
                    (chosen, why),
                    fall_back=may_choose(method, sources, state),
                )
            except KdumpError as error:
                _restore(error, before, state, root, record)
                raise
            now = now._replace(method=by)
            write_record(now, record)
    return LoadResult(
        now.kernel,
        now.initrd,
        cmdline,
        now.method,
        why,
        kernel.stat().st_size,
        len(sources.initrd or b""),
        state.reserved,
        time.monotonic() - started,
        tuple(differences),
    )


def as_loaded(sources: Sources, cmdline: str, method: str, root: Path = Path("/")) -> Loaded:
    """The record of this load."""
    kernel, initrd = sources.kernel_path, sources.initrd_path
    paths = str(kernel.resolve()), str(initrd.resolve()) if initrd else ""
    return Loaded(*paths, cmdline, method, method, seen(kernel, initrd, root))


def changes_against_record(
    sources: Sources, cmdline: str, method: str, state: KexecState, *, root: Path = Path("/"), record: Path = RECORD
) -> list[str]:
    """In what this load would differ from what is loaded, in words; empty if in nothing."""
    if not state.crash_loaded:
        return ["no panic kernel is loaded"]
    return changes(read_record(record), as_loaded(sources, cmdline, method, root), keeps_up=state.keeps_up)


def unload(*, record: Path = RECORD) -> None:
    """Take the panic kernel out of the reservation. Raises KexecRefused."""
    with locked(record):
        remove(panic=True)
        record.unlink(missing_ok=True)


def load_for_reboot(
    kernel: Path,
    initrd: Path | None,
    cmdline: str,
    *,
    method: str = AUTO,
    wishes: Wishes | None = None,
    root: Path = Path("/"),
) -> str:
    """Load a kernel to reboot into; returns the method used. What was loaded for that stays if it fails (the kernel
    keeps it until the new one is complete). Raises KdumpError.
    """
    state = read_state(root)
    sources = read_sources(kernel, initrd)
    check_kernel(sources.kernel, cmdline, root)

    def place(by: str) -> None:
        if by == FILE:
            return _file_load(sources, cmdline, 0, state)
        from kdump.kexec.segments import plan_reboot

        plan = plan_reboot(sources.kernel, sources.initrd, cmdline, wishes=wishes, root=root)
        return syscalls.kexec_load(plan.entry, plan.for_syscall(), 0, lockdown=state.lockdown)

    chosen = choose_method(sources.kernel, state, method, panic=False, root=root)
    return by_either(place, chosen, fall_back=may_choose(method, sources, state))[1][0]


def may_choose(wanted: str, sources: Sources, state: KexecState) -> bool:
    """Whether both methods are open."""
    return wanted == AUTO and not state.locked_down and sources.kernel.file is not None


def by_either(
    place: Callable[[str], Result], chosen: tuple[str, str], *, fall_back: bool
) -> tuple[Result, tuple[str, str]]:
    """`place(method)` by the method `chosen`, or by the other one: segments where the running kernel is built without
    the file method, files where no segments can be made or it does not take them.

    Returns what it gave, and the method that did it and why. `chosen` comes from `choose_method`.
    """
    try:
        return place(chosen[0]), chosen
    except FormatError:  # the kernel is damaged, whoever loads it
        raise
    except KdumpError as error:
        lacks = isinstance(error, KexecRefused) and error.errno == errno.ENOSYS
        if not fall_back or (chosen[0] == FILE and not lacks):
            raise
        if chosen[0] == FILE:
            other = SEGMENTS, "the running kernel is built without kexec_file_load(2)"
        elif lacks:
            other = FILE, "the running kernel is built without kexec_load(2)"
        else:
            other = FILE, f"the segment method does not work here: {error}"
        return place(other[0]), other


def remove(*, panic: bool) -> None:
    """Drop the loaded kernel of one kind. Raises KexecRefused."""
    try:
        syscalls.kexec_file_unload(KEXEC_FILE_ON_CRASH if panic else 0)
    except KexecRefused as error:
        if error.errno != errno.ENOSYS:
            raise
        syscalls.kexec_load(0, [], KEXEC_ON_CRASH if panic else 0, lockdown=read_state().lockdown)


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
        why, remedy = _no_reservation(root)
        raise KdumpError("no memory is reserved for a capture kernel", why=why, remedy=remedy)
    return state


def _no_reservation(root: Path) -> tuple[str, str]:
    """Why nothing is reserved, and the remedy."""
    from kdump.kexec.cmdline import option_name, running_command_line, split

    with suppress(OSError):
        asked = [each for each in split(running_command_line(root)) if option_name(each) == "crashkernel"]
        if asked:
            why = f"{' '.join(asked)} did not fit into this machine, or was given back (/sys/kernel/kexec_crash_size)"
            return why, "reboot; `dmesg | grep -i crash` says what the kernel made of it; ask for less if it refused"
    return "", NO_RESERVATION


def plan_for(
    sources: Sources, cmdline: str, state: KexecState, *, wishes: Wishes | None = None, root: Path = Path("/")
) -> Plan:
    """The segments of a panic kernel on this machine, unpacked if it can be.

    Raises KdumpError; FormatError for a kernel that is damaged inside, which no other method would make better.
    """
    from kdump.kexec.formats import unpacked
    from kdump.kexec.segments import plan_panic

    return plan_panic(
        unpacked(sources.kernel, sources.kernel_path),
        sources.initrd,
        cmdline,
        elfcorehdr_size=state.elfcorehdr_size,
        wishes=wishes,
        root=root,
    )


def put_in_place(
    sources: Sources,
    cmdline: str,
    method: str,
    state: KexecState,
    *,
    wishes: Wishes | None = None,
    root: Path = Path("/"),
) -> None:
    """Load as the panic kernel by one method; nothing is recorded. Raises KdumpError."""
    if method == FILE:
        if state.crash_loaded and state.locked_down and not state.loaded:
            # The signature decides, and only the running kernel can judge it: ask in the slot for reboots, which is
            # free, before what is loaded for a panic is dropped.
            _file_load(sources, cmdline, 0, state)
            remove(panic=False)
        _file_load(sources, cmdline, KEXEC_FILE_ON_CRASH, state)
        return
    plan = plan_for(sources, cmdline, state, wishes=wishes, root=root)
    flags = KEXEC_ON_CRASH | (KEXEC_UPDATE_ELFCOREHDR if state.elfcorehdr_size else 0)
    syscalls.kexec_load(plan.entry, plan.for_syscall(), flags, lockdown=state.lockdown)


def _file_load(sources: Sources, cmdline: str, flags: int, state: KexecState) -> None:
    kernel = sources.kernel
    if kernel.file is None:
        raise KdumpError(f"a {kernel.kind} cannot be loaded by the file method")
    with _descriptor(sources.kernel_path, kernel.file) as kernel_fd:
        if sources.initrd is None:
            syscalls.kexec_file_load(kernel_fd, None, cmdline, flags, lockdown=state.lockdown)
            return
        with _descriptor(sources.initrd_path or sources.kernel_path, sources.initrd) as initrd_fd:
            syscalls.kexec_file_load(kernel_fd, initrd_fd, cmdline, flags, lockdown=state.lockdown)


@contextmanager
def _descriptor(path: Path, content: memoryview) -> Iterator[int]:
    """A read-only descriptor of the file if `content` is all of it, else of a copy in memory."""
    if path.stat().st_size == len(content):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    else:
        writable = os.memfd_create(path.name)
        try:
            with open(writable, "wb", closefd=False) as file:
                file.write(content)
            descriptor = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(writable)  # the kernel refuses a file that is open for writing
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _restore(error: KdumpError, before: Loaded | None, state: KexecState, root: Path, record: Path) -> None:
    """After a refused load: load again what was loaded before, and say in `error` whether that worked."""
    if not state.crash_loaded or read_state(root).crash_loaded:
        return
    if before is None:
        error.remedy += "\n  What was loaded before is gone: it was not loaded by kdump, load it again by hand."
        return
    try:
        sources = read_sources(Path(before.kernel), Path(before.initrd) if before.initrd else None)
        put_in_place(sources, before.cmdline, before.method, state, root=root)
    except KdumpError as second:
        record.unlink(missing_ok=True)
        error.remedy += f"\n  What was loaded before ({before.kernel}) is gone and could not be loaded again: {second}"
    else:
        error.remedy += f"\n  What was loaded before ({before.kernel}) is loaded again."
