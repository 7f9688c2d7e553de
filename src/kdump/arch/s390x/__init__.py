"""s390x: big-endian. Dumps give their headers and the log; a kernel cannot be loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kdump.arch import syscalls
from kdump.arch.architecture import Architecture
from kdump.elf import EM_S390

if TYPE_CHECKING:
    from kdump.arch.paging import InfoView, MemoryView, Paging


class _S390X(Architecture):
    name = "s390x"
    elf_machine = EM_S390
    debian = "s390x"
    triplet = "s390x-linux-gnu"
    byte_order = "big"
    page_sizes = (4096,)
    console = "ttysclp0"
    syscalls = syscalls.S390
    instruction_step = 2
    instruction_longest = 6

    def kernel_paging(self, info: InfoView, memory: MemoryView) -> Paging:
        del memory
        from kdump.arch.s390x.paging import kernel_paging

        return kernel_paging(info)


S390X: Final = _S390X()
