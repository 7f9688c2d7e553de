"""What to load: kernel and image, read and checked against this machine before its kernel is asked."""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path
from typing import NamedTuple

from kdump import arch
from kdump.errors import KdumpError
from kdump.kexec.formats import KernelImage, read_kernel
from kdump.kexec.state import KexecState, read_machine, read_state
from kdump.units import size_text

KCORE_HEAD = 1 << 16  # bytes of /proc/kcore that its headers and notes lie within
SME_MASK = re.compile(rb"^NUMBER\(sme_mask\)=(-?\d+)$", re.MULTILINE)
AUTO, FILE, SEGMENTS = METHODS = ("auto", "file", "segments")


class Sources(NamedTuple):
    """What to load, read and checked: paths, the kernel, the image's bytes (None without one), its path."""

    kernel_path: Path
    kernel: KernelImage
    initrd: memoryview | None
    initrd_path: Path | None


def read_sources(kernel: Path, initrd: Path | None) -> Sources:
    """Read and check both files. Raises KdumpError."""
    parsed = read_kernel(kernel)
    return Sources(kernel, parsed, _map(initrd) if initrd else parsed.initrd, initrd)


def check_sources(sources: Sources, cmdline: str, root: Path = Path("/")) -> None:
    """Whether kernel and image fit the machine and its reservation; raises KdumpError if not.

    Asked before the running kernel is: it would drop what is loaded first and refuse then.
    """
    check_kernel(sources.kernel, cmdline, root)
    state = read_state(root)
    needed = sources.kernel.span + len(sources.initrd or b"")
    if needed >= state.room:
        raise KdumpError(
            "kernel and image do not fit into the reservation",
            why=f"they need {size_text(needed)}, the reservation has {size_text(state.room)} for them",
            remedy="make the image smaller or reserve more (crashkernel=)",
        )


def check_kernel(kernel: KernelImage, cmdline: str, root: Path = Path("/")) -> None:
    """Whether this machine can start the kernel with that command line; raises KdumpError if not."""
    if kernel.machine != (running := read_machine(root)):
        raise KdumpError(
            f"the kernel is for another architecture ({kernel.machine})",
            why=f"this machine runs a kernel of {running}",
            remedy="give a kernel of this machine's architecture",
        )
    if not arch.by_machine(kernel.machine).handover:
        able = ", ".join(each.name for each in arch.known() if each.handover)
        raise KdumpError(f"kernels of {kernel.machine} cannot be loaded yet", why=f"kdump loads those of {able}")
    if len(cmdline.encode()) > kernel.cmdline_limit:
        raise KdumpError(
            f"the command line has {len(cmdline.encode())} bytes", why=f"the kernel takes {kernel.cmdline_limit}"
        )
    if not kernel.five_level and _five_level_paging(root):
        raise KdumpError(
            "the kernel cannot take over from this one",
            why="this machine runs with 5-level page tables and that kernel knows only 4",
            remedy="boot this machine with no5lvl, or load a kernel built with CONFIG_X86_5LEVEL",
        )


def choose_method(
    kernel: KernelImage, state: KexecState, wanted: str = AUTO, *, panic: bool = True, root: Path = Path("/")
) -> tuple[str, str]:
    """ "file" or "segments", and the reason in words. Raises KdumpError if the wanted one cannot work."""
    if wanted == SEGMENTS and state.locked_down:
        raise KdumpError(
            "the segment method is not possible here",
            why=f"the kernel is locked down ({state.lockdown}) and takes only signed kernel files",
            remedy="use --method file with a signed bzImage",
        )
    if wanted != AUTO:
        if wanted == FILE and kernel.file is None:
            raise KdumpError(
                f"a {kernel.kind} cannot be loaded by the file method",
                why="kexec_file_load(2) takes the kernel files that distributions install",
                remedy="use --method segments, or the same kernel's /boot/vmlinuz-*",
            )
        return wanted, "asked for"
    if kernel.file is not None:
        if state.locked_down:
            return FILE, f"the kernel is locked down ({state.lockdown}) and takes only signed kernel files"
        if not panic:
            return FILE, "the kernel reads, checks and places the files itself, and the new one places itself at random"
        if encrypted_memory(root):
            return FILE, "memory is encrypted here, and a bzImage finds its way into that by itself"
        if arch.by_machine(kernel.machine).handover != arch.BOOT_PARAMS:
            return SEGMENTS, "every kernel has kexec_load(2), and what it starts is checked before"
        if _movable_reservation(root):
            return FILE, "only the kernel knows where the movable part of the reservation lies"
        return SEGMENTS, "the kernel is put in place unpacked and starts at once; the first 640 KiB are in the dump"
    if state.locked_down:
        raise KdumpError(
            f"a {kernel.kind} cannot be loaded here",
            why=f"the kernel is locked down ({state.lockdown}) and kexec_file_load(2) takes bzImages only",
            remedy="use a signed bzImage (/boot/vmlinuz-*)",
        )
    return SEGMENTS, f"kexec_file_load(2) takes no {kernel.kind}"


def _map(path: Path) -> memoryview:
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise KdumpError(f"the image {path} is empty")
            return memoryview(mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE))
    except OSError as error:
        raise KdumpError(f"cannot read the image {path}", why=error.strerror or str(error)) from None


def _movable_reservation(root: Path) -> bool:
    """Whether the kernel was asked for memory that is the capture kernel's only after a crash: no file shows its place.

    Source: kernel/crash_reserve.c (crashk_cma_ranges), 6.17 and later.
    """
    try:
        cmdline = (root / "proc/cmdline").read_text(errors="surrogateescape")
    except OSError:
        return False
    return re.search(r"(^|\s)crashkernel=\S+,cma(\s|$)", cmdline) is not None


def _five_level_paging(root: Path) -> bool:
    """Whether the running kernel uses 5-level page tables: it clears the CPU flag if not."""
    return "la57" in _cpu_flags(root)


def encrypted_memory(root: Path) -> bool:
    """Whether this is a confidential virtual machine (TDX, SEV), or a host that encrypts its memory (SME).

    AMD's kernels say so in VMCOREINFO (arch/x86/kernel/vmcore_info_64.c), which /proc/kcore has among its notes; their
    CPU flags are cleared in virtual machines and set on hosts that could.
    """
    if "tdx_guest" in _cpu_flags(root):
        return True
    try:
        with open(root / "proc/kcore", "rb", buffering=0) as file:
            found = SME_MASK.search(file.read(KCORE_HEAD))
    except OSError:
        found = None
    if found:
        return int(found[1]) != 0
    try:
        return "mem_encrypt=on" in (root / "proc/cmdline").read_text(errors="surrogateescape").split()
    except OSError:
        return False


def _cpu_flags(root: Path) -> set[str]:
    try:
        text = (root / "proc/cpuinfo").read_text()
    except OSError:
        return set()
    return set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())
