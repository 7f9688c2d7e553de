"""What an architecture is to the rest of kdump: one class, of which each package beside this module has an instance.

Facts are class variables; what costs time to import (unwinders, page tables as arrays) is imported by the method that
hands it out. What an architecture does not offer raises a `KdumpError` that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from kdump.errors import KdumpError

if TYPE_CHECKING:  # the loader wants only facts from here
    from kdump.arch.paging import Paging
    from kdump.arch.stacks import KernelView, Registers, Unwinder


class SyscallNumbers(NamedTuple):
    """Numbers of system calls that Python and the C library do not wrap."""

    kexec_load: int
    kexec_file_load: int
    finit_module: int


class Architecture:
    """One architecture. Instances have no state: compare them with `is`, or by `name`."""

    name: str  # as `uname -m` prints it
    elf_machine: int  # e_machine of its ELF files (elf.h); kexec_load's flags take the same number
    debian: str  # as dpkg names it
    triplet: str  # directory of its libraries (Debian's multiarch tuple)
    page_sizes: tuple[int, ...]  # in bytes, the usual one first
    console: str  # the kernel's name of the first serial port
    syscalls: SyscallNumbers

    def kernel_paging(self, symbols: Mapping[str, int], numbers: Mapping[str, int], page_size: int) -> Paging:
        """The kernel's page tables from VMCOREINFO's SYMBOL and NUMBER tables and PAGESIZE.

        Raises `KeyError` with the name of what is missing.
        """
        self._refuse("the kernel's address space cannot be read")

    def registers(self, note: bytes) -> Registers:
        """Registers of an NT_PRSTATUS note. Raises `FormatError` if it is too short."""
        self._refuse("registers cannot be read")

    def unwinder(self, kernel: KernelView) -> Unwinder:
        """What walks the stacks of a kernel. Raises `KdumpError` if the kernel has not what that needs."""
        self._refuse("stacks cannot be unwound")

    def _refuse(self, what: str) -> NoReturn:
        raise KdumpError(f"{what}: not supported on {self.name}")
