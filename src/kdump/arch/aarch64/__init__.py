"""aarch64: pages of 4, 16 or 64 KiB, stacks by frame pointers, a device tree as the handover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from kdump.arch import syscalls
from kdump.arch.architecture import DEVICE_TREE, Architecture, Emulated, FailingCode, Fault, GdbLayout, MachineFact
from kdump.elf import EM_AARCH64

if TYPE_CHECKING:
    from kdump.arch.architecture import CoreNote
    from kdump.arch.arguments import ArgumentEngine
    from kdump.arch.paging import InfoView, MemoryView, Paging
    from kdump.arch.stacks import KernelView, Registers, Unwinder
    from kdump.arch.stand_in import StandIn


class _AArch64(Architecture):
    name = "aarch64"
    elf_machine = EM_AARCH64
    debian = "arm64"
    prstatus_size = 392
    triplet = "aarch64-linux-gnu"
    page_sizes = (4096, 16384, 65536)
    console = "ttyAMA0"
    syscalls = syscalls.GENERIC
    handover = DEVICE_TREE
    image_magic = b"ARM\x64"
    instruction_step = instruction_longest = 4
    argument_register = "x0"
    fault_register = "far"
    gdb = GdbLayout(
        "aarch64", "pc", "sp", (*((f"x{number}", 8) for number in range(31)), ("sp", 8), ("pc", 8), ("pstate", 4))
    )
    # GIC version 3 has no limit of eight CPUs. Pointers are authenticated by a cheaper algorithm than the
    # architecture's own, which takes an emulator two thirds of its time.
    emulated = Emulated(
        "qemu-system-aarch64",
        "qemu-system-arm",
        "virt,gic-version=3",
        "max,pauth-impdef=on",
        ("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd", "/usr/share/edk2/aarch64/QEMU_EFI.fd"),
        "qemu-efi-aarch64",
    )

    def blas_stand_in(self) -> StandIn:
        from kdump.arch.aarch64.blas import CODE

        return CODE

    def kernel_paging(self, info: InfoView, memory: MemoryView) -> Paging:
        del memory
        from kdump.arch.aarch64.paging import kernel_paging

        return kernel_paging(info.symbols, info.numbers, info.page_size)

    def direct_map(self, kernel: KernelView) -> int:
        numbers = kernel.vmcoreinfo.numbers
        return int(-(1 << numbers["VA_BITS"]) - numbers["PHYS_OFFSET"]) & (1 << 64) - 1

    def module_room(self, numbers: Mapping[str, int]) -> range:
        # With KASLR they may lie wherever vmalloc() has room near the image: arch/arm64/kernel/kaslr.c before 6.5.
        mask = (1 << 64) - 1
        return range(numbers.get("MODULES_VADDR", 0) & mask, numbers.get("VMALLOC_END", 0) & mask)

    def physical_base(self, numbers: Mapping[str, int]) -> int:
        return numbers.get("PHYS_OFFSET", 0)

    def registers(self, note: bytes) -> Registers:
        from kdump.arch.aarch64.frames import from_prstatus

        return from_prstatus(note)

    def unwinder(self, kernel: KernelView) -> Unwinder:
        from kdump.arch.aarch64.frames import Unwinder as FrameUnwinder

        return FrameUnwinder(kernel)

    def core_registers(self, kernel: KernelView, registers: Registers, thread: Any) -> bytes:
        from kdump.arch.aarch64.core import general

        del kernel, thread
        return general(registers)

    def core_notes(self, kernel: KernelView, thread: Any) -> list[CoreNote]:
        from kdump.arch.aarch64.core import saved

        return saved(kernel, thread)

    def arguments(self, kernel: KernelView) -> ArgumentEngine | None:
        from kdump.arch.aarch64.arguments import Engine

        return Engine(kernel)

    def disassembler(self) -> Any:
        import capstone

        return capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)

    def oops_registers(self, line: str) -> list[tuple[str, int]]:
        from kdump.arch.aarch64.oops import registers

        return registers(line)

    def explain_fault(self, line: str) -> Fault | None:
        from kdump.arch.aarch64.oops import explain_fault

        return explain_fault(line)

    def failing_code(self, line: str) -> FailingCode | None:
        from kdump.arch.aarch64.oops import failing_code

        return failing_code(line)

    def machine(self, kernel: KernelView) -> list[MachineFact]:
        from kdump.arch.aarch64.machine import machine

        return machine(kernel)


# As `kdump.report.code`: a disassembler is too big for the image; arguments take time there, and the dump has them.
__capture_omits__ = ("capstone", "kdump.arch.aarch64.arguments")

AARCH64: Final = _AArch64()
