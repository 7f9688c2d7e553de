"""kexec_load(2) and kexec_file_load(2), called directly; the kernel's answers told apart.

Source: include/uapi/linux/kexec.h, kernel/kexec.c, kernel/kexec_file.c, kernel/kexec_core.c.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import NamedTuple

from kdump import arch
from kdump.errors import KdumpError

KEXEC_ON_CRASH = 0x1
KEXEC_UPDATE_ELFCOREHDR = 0x4  # the check leaves the core headers out, so the kernel may rewrite them (6.6 to 6.9)
KEXEC_CRASH_HOTPLUG_SUPPORT = 0x8  # the same promise, any segment (6.10 and later)
KEXEC_FILE_UNLOAD = 0x1
KEXEC_FILE_ON_CRASH = 0x2
KEXEC_FILE_NO_INITRAMFS = 0x4
KEXEC_FILE_DEBUG = 0x8
SEGMENTS_MAX = 16  # KEXEC_SEGMENT_MAX


class Outcome(NamedTuple):
    """Why the kernel refused, and what to do."""

    why: str
    remedy: str


NOT_ROOT = Outcome("only root (CAP_SYS_BOOT) may load a kernel", "run it as root")
LOCKED_DOWN = Outcome(
    "the kernel is locked down and takes only kernels with a signature it trusts",
    "use a signed kernel with the file method, or turn Secure Boot (lockdown) off",
)
DISABLED = Outcome(
    "loading is switched off for good: kernel.kexec_load_disabled is 1, or the limit in kernel.kexec_load_limit_* is 0",
    "reboot without that sysctl",
)

# Answers to kexec_file_load; EPERM is told apart in `_permission`.
FILE_OUTCOMES = {
    errno.EKEYREJECTED: Outcome(
        "the file is not what was signed (changed or damaged since), or its key is revoked",
        "install the kernel again from your distribution",
    ),
    errno.ENOKEY: Outcome(
        "the running kernel has no key for the signature on this kernel",
        "use a kernel signed by the same vendor, or enrol its key (mokutil --import)",
    ),
    errno.EBADMSG: Outcome(
        "the signature is damaged or is not for this file",
        "install the kernel again; check it with sbverify",
    ),
    errno.ENODATA: Outcome("the kernel carries no signature and one is demanded", "use a signed kernel"),
    errno.ELIBBAD: Outcome("the file's PE structure is damaged", "install the kernel again"),
    errno.ENOEXEC: Outcome(
        "the running kernel does not recognise the file as a kernel it can load",
        "give a bzImage (/boot/vmlinuz-*) of this architecture",
    ),
    errno.EADDRNOTAVAIL: Outcome(
        "kernel and image do not fit into the memory reserved for them",
        "reserve more (crashkernel=256M) and reboot; `kdump load --explain` shows the space",
    ),
    errno.EBUSY: Outcome(
        "another load or unload is under way, or a kernel is being started",
        "wait for it to end and try again",
    ),
    errno.ENOMEM: Outcome("the running kernel has no memory for the load's buffers", "free some memory and try again"),
    errno.EFBIG: Outcome("the kernel or the image is larger than the system call takes", "use a smaller image"),
    errno.ETXTBSY: Outcome("the kernel or the image is open for writing", "let the program that writes it finish"),
    errno.ENOSYS: Outcome("the running kernel is built without kexec_file_load(2)", "use --method segments"),
    errno.EINVAL: Outcome(
        "the kernel rejected the file, the image or the command line (too long?)",
        "look at the last lines of `dmesg`; shorten the command line",
    ),
}

# Answers to kexec_load, which checks where segments lie but never looks into them.
SEGMENT_OUTCOMES = {
    errno.EADDRNOTAVAIL: Outcome(
        "a segment lies outside the memory reserved for it", "there may be no reservation: see `kdump load --explain`"
    ),
    errno.EBUSY: FILE_OUTCOMES[errno.EBUSY],
    errno.ENOMEM: FILE_OUTCOMES[errno.ENOMEM],
    errno.ENOSYS: Outcome("the running kernel is built without kexec_load(2)", "use --method file"),
    errno.EINVAL: Outcome("the kernel rejected the segments (overlap, alignment or number)", "report this as a bug"),
}


class KexecRefused(KdumpError):
    """The kernel said no; `errno` says how."""

    def __init__(self, what: str, number: int, outcome: Outcome) -> None:
        self.errno = number
        name = errno.errorcode.get(number, str(number))
        super().__init__(f"{what} ({name})", why=outcome.why, remedy=outcome.remedy)


class Segment(NamedTuple):
    """A piece of the new kernel: its bytes, and the physical address and size (both page aligned) of its place."""

    data: bytes | bytearray | memoryview
    address: int
    size: int


class _KexecSegment(ctypes.Structure):
    # struct kexec_segment, include/uapi/linux/kexec.h
    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("bufsz", ctypes.c_size_t),
        ("mem", ctypes.c_void_p),
        ("memsz", ctypes.c_size_t),
    )


def kexec_file_load(kernel: int, initrd: int | None, cmdline: str, flags: int, *, lockdown: str = "") -> None:
    """Hand the kernel file and the image to the running kernel by descriptor.

    `lockdown` is the state from /sys/kernel/security/lockdown, used to explain EPERM. Raises KexecRefused.
    """
    text = cmdline.encode() + b"\0"
    if initrd is None:
        flags |= KEXEC_FILE_NO_INITRAMFS
    number = _syscall(
        arch.native().syscalls.kexec_file_load,
        ctypes.c_int(kernel),
        ctypes.c_int(-1 if initrd is None else initrd),
        ctypes.c_ulong(len(text)),
        ctypes.c_char_p(text),
        ctypes.c_ulong(flags),
    )
    if number:
        raise refused("the kernel was not loaded", number, FILE_OUTCOMES, lockdown)


def kexec_file_unload(flags: int = 0) -> None:
    """Drop what is loaded (with KEXEC_FILE_ON_CRASH: the panic kernel). Raises KexecRefused."""
    number = _syscall(
        arch.native().syscalls.kexec_file_load,
        ctypes.c_int(-1),
        ctypes.c_int(-1),
        ctypes.c_ulong(0),
        ctypes.c_void_p(None),
        ctypes.c_ulong(flags | KEXEC_FILE_UNLOAD),
    )
    if number:
        raise refused("the kernel was not unloaded", number, FILE_OUTCOMES, "")


def kexec_load(entry: int, segments: list[Segment], flags: int, *, lockdown: str = "") -> None:
    """Hand over segments made in user space; no segments means unload. Raises KexecRefused."""
    machine = arch.native()
    table = (_KexecSegment * max(1, len(segments)))()
    keep = []  # the buffers must live until the call returns
    for slot, segment in zip(table, segments, strict=False):
        buffer, size = buffer_of(segment.data)
        keep.append(buffer)
        slot.buf, slot.bufsz, slot.mem, slot.memsz = ctypes.addressof(buffer), size, segment.address, segment.size
    number = _syscall(
        machine.syscalls.kexec_load,
        ctypes.c_ulong(entry),
        ctypes.c_ulong(len(segments)),
        ctypes.byref(table),
        ctypes.c_ulong(flags | machine.elf_machine << 16),
    )
    if number:
        verb = "loaded" if segments else "unloaded"
        raise refused(f"the kernel was not {verb}", number, SEGMENT_OUTCOMES, lockdown)


def buffer_of(data: bytes | bytearray | memoryview) -> tuple[ctypes.Array[ctypes.c_char], int]:
    """`data` as C sees it, copied if it is read-only, and its size in bytes."""
    size = len(data)
    if memoryview(data).readonly:
        return (ctypes.c_char * size).from_buffer_copy(data), size
    return (ctypes.c_char * size).from_buffer(data), size


def _syscall(number: int, *arguments: object) -> int:
    """0, or the errno."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    ctypes.set_errno(0)
    return 0 if syscall(ctypes.c_long(number), *arguments) == 0 else ctypes.get_errno()


def refused(what: str, number: int, outcomes: dict[int, Outcome], lockdown: str) -> KexecRefused:
    """The error for an errno."""
    if number == errno.EPERM:
        return KexecRefused(what, number, _permission(lockdown))
    outcome = outcomes.get(number, Outcome(os.strerror(number), "look at the last lines of `dmesg`"))
    return KexecRefused(what, number, outcome)


def _permission(lockdown: str) -> Outcome:
    if os.geteuid() != 0:
        return NOT_ROOT
    return LOCKED_DOWN if lockdown not in ("", "none") else DISABLED
