"""x86_64: 4 KiB pages of four or five levels, stacks by ORC tables, boot_params and purgatory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from kdump.arch import syscalls
from kdump.arch.architecture import BOOT_PARAMS, Architecture, Emulated, FailingCode, GdbLayout, MachineFact
from kdump.elf import EM_X86_64

if TYPE_CHECKING:
    from kdump.arch.architecture import CoreNote, PageEntry
    from kdump.arch.arguments import ArgumentEngine
    from kdump.arch.paging import InfoView, MemoryView, Paging
    from kdump.arch.stacks import KernelView, Registers, Unwinder, Unwound
    from kdump.arch.stand_in import StandIn


class _X8664(Architecture):
    name = "x86_64"
    elf_machine = EM_X86_64
    debian = "amd64"
    triplet = "x86_64-linux-gnu"
    page_sizes = (4096,)
    console = "ttyS0"
    syscalls = syscalls.X86_64
    handover = BOOT_PARAMS
    kernel_text = range(0xFFFF_FFFF_8000_0000, 0xFFFF_FFFF_C000_0000)  # __START_KERNEL_map to MODULES_VADDR
    nmi = True
    lab_series = "6.1"
    globals = MappingProxyType({"boot_cpu_data": "struct cpuinfo_x86"})
    instruction_longest = 15
    argument_register = "rdi"
    fault_register = "cr2"
    gdb = GdbLayout(
        "i386:x86-64",
        "ip",
        "sp",
        (
            *((name, 8) for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")),
            *((f"r{number}", 8) for number in range(8, 16)),
            ("ip", 8),
            *((name, 4) for name in ("flags", "cs", "ss", "ds", "es", "fs", "gs")),
        ),
    )
    emulated = Emulated(
        "qemu-system-x86_64",
        "qemu-system-x86",
        "q35,graphics=off",
        "max",
        (  # Debian and Ubuntu (ovmf), Fedora (edk2-ovmf), SUSE (qemu-ovmf)
            "/usr/share/ovmf/OVMF.fd",
            "/usr/share/qemu/OVMF.fd",
            "/usr/share/edk2/ovmf/OVMF.stateless.fd",
            "/usr/share/qemu/ovmf-x86_64.bin",
        ),
        "ovmf",
    )

    capture_options = (("mce=off", "a broadcast machine check must not meet half a machine"),)

    def blas_stand_in(self) -> StandIn:
        from kdump.arch.x86_64.blas import CODE

        return CODE

    def kernel_paging(self, info: InfoView, memory: MemoryView) -> Paging:
        del memory
        from kdump.arch.x86_64.paging import kernel_paging

        return kernel_paging(info.symbols, info.numbers)

    def page_entry(self, value: int) -> PageEntry:
        from kdump.arch.x86_64.paging import page_entry

        return page_entry(value)

    def direct_map(self, kernel: KernelView) -> int:
        return kernel.virtual.u64(kernel.symbols.address("page_offset_base"))

    def module_room(self, numbers: Mapping[str, int]) -> range:
        return range(0xFFFF_FFFF_A000_0000, 0xFFFF_FFFF_FF00_0000)  # page_64_types.h, the larger one with KASLR

    def registers(self, note: bytes) -> Registers:
        from kdump.arch.x86_64.orc import from_prstatus

        return from_prstatus(note)

    def unwinder(self, kernel: KernelView) -> Unwinder:
        from kdump.arch.x86_64.orc import Unwinder as OrcUnwinder

        return OrcUnwinder(kernel)

    def core_registers(self, kernel: KernelView, registers: Registers, thread: Any) -> bytes:
        from kdump.arch.x86_64.core import general

        del kernel
        return general(registers, thread)

    def core_notes(self, kernel: KernelView, thread: Any) -> list[CoreNote]:
        from kdump.arch.x86_64.core import floating_point

        return floating_point(kernel, thread)

    def arguments(self, kernel: KernelView) -> ArgumentEngine:
        from kdump.arch.x86_64.arguments import Engine

        return Engine(kernel)

    def disassembler(self) -> Any:
        import capstone

        engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        engine.syntax = capstone.CS_OPT_SYNTAX_ATT
        return engine

    def oops_registers(self, line: str) -> list[tuple[str, int]]:
        from kdump.arch.x86_64.oops import registers

        return registers(line)

    def failing_code(self, line: str) -> FailingCode | None:
        from kdump.arch.x86_64.oops import failing_code

        return failing_code(line)

    def machine(self, kernel: KernelView) -> list[MachineFact]:
        from kdump.arch.x86_64.machine import machine

        return machine(kernel)

    def cpu_interrupts(self, kernel: KernelView) -> dict[str, int]:
        from kdump.arch.x86_64.machine import cpu_interrupts

        return cpu_interrupts(kernel)

    def debug_frame(self, kernel: KernelView, shift: Callable[[int], int], stacks: Sequence[Unwound] = ()) -> bytes:
        from kdump.arch.x86_64.cfi import completed, debug_frame, rows
        from kdump.arch.x86_64.orc import OrcTable

        table = OrcTable(kernel)
        return debug_frame(completed(rows(table), table, stacks), shift)


__capture_omits__ = ("capstone",)  # as `kdump.report.code`: a disassembler is too big for the image

X86_64: Final = _X8664()
