"""riscv64: dumps are read, filtered and reported; kernels are loaded, with a device tree as the handover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from kdump.arch import syscalls
from kdump.arch.architecture import DEVICE_TREE, Architecture, Emulated
from kdump.elf import EM_RISCV

if TYPE_CHECKING:
    from kdump.arch.paging import InfoView, MemoryView, Paging
    from kdump.arch.stacks import KernelView, Registers, Unwinder

_MASK = (1 << 64) - 1


class _RiscV64(Architecture):
    name = "riscv64"
    elf_machine = EM_RISCV
    debian = "riscv64"
    prstatus_size = 376
    triplet = "riscv64-linux-gnu"
    page_sizes = (4096,)
    console = "ttyS0"
    syscalls = syscalls.GENERIC
    handover = DEVICE_TREE
    guarded_firmware = True  # by the processor's physical memory protection
    image_magic = b"RSC\x05"
    cmdline_limit = 1023
    instruction_step = 2
    instruction_longest = 4
    argument_register = "a0"
    fault_register = "badaddr"
    lab_series = "6.12-generic"  # Debian has this architecture since 13, without a cloud kernel
    emulated = Emulated("qemu-system-riscv64", "qemu-system-misc", "virt", "rv64", (), "qemu-efi-riscv64")

    def kernel_paging(self, info: InfoView, memory: MemoryView) -> Paging:
        del memory
        from kdump.arch.riscv64.paging import kernel_paging

        return kernel_paging(info.symbols, info.numbers, info.page_size)

    def direct_map(self, kernel: KernelView) -> int:
        numbers = kernel.vmcoreinfo.numbers
        return int(numbers["PAGE_OFFSET"] - numbers["phys_ram_base"]) & _MASK

    def module_room(self, numbers: Mapping[str, int]) -> range:
        return range(numbers.get("MODULES_VADDR", 0) & _MASK, numbers.get("MODULES_END", 0) & _MASK)

    def physical_base(self, numbers: Mapping[str, int]) -> int:
        return numbers.get("phys_ram_base", 0)

    def registers(self, note: bytes) -> Registers:
        from kdump.arch.riscv64.frames import from_prstatus

        return from_prstatus(note)

    def unwinder(self, kernel: KernelView) -> Unwinder:
        from kdump.arch.riscv64.frames import Unwinder as FrameUnwinder

        return FrameUnwinder(kernel)

    def disassembler(self) -> Any:
        import capstone

        return capstone.Cs(capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV64 | capstone.CS_MODE_RISCVC)


__capture_omits__ = ("capstone",)  # as `kdump.report.code`: a disassembler is too big for the image

RISCV64: Final = _RiscV64()
