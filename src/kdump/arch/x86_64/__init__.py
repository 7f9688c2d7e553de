"""x86_64: 4 KiB pages of four or five levels, stacks by ORC tables, boot_params and purgatory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from kdump.arch import syscalls
from kdump.arch.architecture import Architecture
from kdump.elf import EM_X86_64

if TYPE_CHECKING:
    from kdump.arch.paging import Paging
    from kdump.arch.stacks import KernelView, Registers, Unwinder


class _X8664(Architecture):
    name = "x86_64"
    elf_machine = EM_X86_64
    debian = "amd64"
    triplet = "x86_64-linux-gnu"
    page_sizes = (4096,)
    console = "ttyS0"
    syscalls = syscalls.X86_64

    def kernel_paging(self, symbols: Mapping[str, int], numbers: Mapping[str, int], page_size: int) -> Paging:
        del page_size  # there is only one
        from kdump.arch.x86_64.paging import kernel_paging

        return kernel_paging(symbols, numbers)

    def registers(self, note: bytes) -> Registers:
        from kdump.arch.x86_64.orc import from_prstatus

        return from_prstatus(note)

    def unwinder(self, kernel: KernelView) -> Unwinder:
        from kdump.arch.x86_64.orc import Unwinder as OrcUnwinder

        return OrcUnwinder(kernel)


X86_64: Final = _X8664()
