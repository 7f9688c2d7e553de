"""ppc64le: dumps are read and filtered, hash and radix; reports are made of the log. A kernel cannot be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from kdump.arch import syscalls
from kdump.arch.architecture import Architecture
from kdump.elf import EM_PPC64

if TYPE_CHECKING:
    from kdump.arch.paging import InfoView, MemoryView, Paging
    from kdump.arch.stacks import KernelView

_MSR = 112 + 33 * 8 + 7  # the byte of NT_PRSTATUS, big-endian, with MSR_LE in it (struct pt_regs; asm/reg.h)


class _Ppc64Le(Architecture):
    name = "ppc64le"
    elf_machine = EM_PPC64
    debian = "ppc64el"
    triplet = "powerpc64le-linux-gnu"
    page_sizes = (65536, 4096)
    console = "hvc0"
    syscalls = syscalls.POWERPC
    instruction_step = instruction_longest = 4
    fault_register = "dar"
    # NT_PRSTATUS, NT_PRFPREG, NT_PPC_VMX, NT_PPC_VSX (elf.h)
    turned_notes = MappingProxyType({1: 8, 2: 8, 0x100: 16, 0x102: 8})
    prstatus_size = 504

    def kernel_paging(self, info: InfoView, memory: MemoryView) -> Paging:
        from kdump.arch.ppc64le.paging import kernel_paging

        return kernel_paging(info, memory)

    def direct_map(self, kernel: KernelView) -> int:
        from kdump.arch.ppc64le.paging import PAGE_OFFSET

        del kernel
        return PAGE_OFFSET

    def ran_in_own_order(self, note: bytes) -> bool:
        return len(note) > _MSR and bool(note[_MSR] & 1)

    def physical_base(self, numbers: Mapping[str, int]) -> int:
        del numbers
        return 0


PPC64LE: Final = _Ppc64Le()
