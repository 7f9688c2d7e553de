"""aarch64: pages of 4, 16 or 64 KiB, stacks by frame pointers, a device tree as the handover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from kdump.arch import syscalls
from kdump.arch.architecture import Architecture
from kdump.elf import EM_AARCH64

if TYPE_CHECKING:
    from kdump.arch.paging import Paging
    from kdump.arch.stacks import KernelView, Registers, Unwinder


class _AArch64(Architecture):
    name = "aarch64"
    elf_machine = EM_AARCH64
    debian = "arm64"
    triplet = "aarch64-linux-gnu"
    page_sizes = (4096, 16384, 65536)
    console = "ttyAMA0"
    syscalls = syscalls.GENERIC

    def kernel_paging(self, symbols: Mapping[str, int], numbers: Mapping[str, int], page_size: int) -> Paging:
        from kdump.arch.aarch64.paging import kernel_paging

        return kernel_paging(symbols, numbers, page_size)

    def registers(self, note: bytes) -> Registers:
        from kdump.arch.aarch64.frames import from_prstatus

        return from_prstatus(note)

    def unwinder(self, kernel: KernelView) -> Unwinder:
        from kdump.arch.aarch64.frames import Unwinder as FrameUnwinder

        return FrameUnwinder(kernel)


AARCH64: Final = _AArch64()
