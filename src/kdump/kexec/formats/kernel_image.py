"""A kernel as the loader sees it, whatever file it came in."""

from __future__ import annotations

import re
from typing import NamedTuple

# struct setup_header, arch/x86/include/uapi/asm/bootparam.h and Documentation/arch/x86/boot.rst: it lies at 0x1f1 of
# both a bzImage and boot_params.
SETUP_HEADER = 0x1F1
_BANNER = re.compile(rb"Linux version ([\w.+~-]{1,64}) ")  # init/version.c
_BANNER_WITHIN = 64 << 20  # it is in .rodata


class Part(NamedTuple):
    """Bytes of a kernel, at `offset` bytes from where it is put; `size` in memory is at least their length."""

    offset: int
    data: memoryview
    size: int


class KernelImage(NamedTuple):
    """A kernel that can be put anywhere its `align` (bytes) allows, from the physical address `lowest` on.

    `span` is the memory it needs in bytes, `entry` the offset of its 64-bit entry point. `setup_header` is the header
    as it goes into boot_params (empty for a vmlinux). `file` are the bytes for kexec_file_load(2), None if it takes no
    such kernel. `initrd`, `cmdline` and `os_release` are what a unified kernel image brings along. `machine` is the
    architecture, as `uname -m` prints it.
    """

    kind: str
    release: str
    parts: tuple[Part, ...]
    span: int
    align: int
    lowest: int
    entry: int
    setup_header: bytes
    cmdline_limit: int
    five_level: bool
    file: memoryview | None
    machine: str
    initrd: memoryview | None = None
    cmdline: str | None = None
    os_release: str | None = None


def banner_release(data: memoryview) -> str:
    """The release in a kernel's banner, for formats whose header does not tell; empty if absent."""
    found = _BANNER.search(data[:_BANNER_WITHIN])
    return found.group(1).decode("ascii") if found else ""
