"""Numbers of the system calls that Python and the C library do not wrap, for each machine that os.uname() may name.

Source: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from kdump.elf import EM_AARCH64, EM_X86_64
from kdump.errors import KdumpError


class SyscallNumbers(NamedTuple):
    """Numbers of the two kexec system calls, and the architecture's value for kexec_load's flags (an ELF machine)."""

    kexec_load: int
    kexec_file_load: int
    elf_machine: int


SYSCALLS = {
    "x86_64": SyscallNumbers(kexec_load=246, kexec_file_load=320, elf_machine=EM_X86_64),
    "aarch64": SyscallNumbers(kexec_load=104, kexec_file_load=294, elf_machine=EM_AARCH64),
}


def syscall_numbers(machine: str | None = None) -> SyscallNumbers:
    """Numbers for `machine` (None: this one). Raises KdumpError where they are not known."""
    name = machine or os.uname().machine
    try:
        return SYSCALLS[name]
    except KeyError:
        raise KdumpError(
            f"kdump does not know the kexec system calls of {name!r}",
            remedy=f"supported machines: {', '.join(SYSCALLS)}",
        ) from None
