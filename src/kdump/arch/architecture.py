"""The interface of an architecture to the rest of kdump: one class, with an instance in each package beside this
module.

Facts are class variables; what costs time to import (unwinders, page tables as arrays) is imported by the method that
hands it out. What an architecture does not offer raises a `KdumpError` that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

from kdump.errors import KdumpError

if TYPE_CHECKING:  # the loader wants only facts from here
    from kdump.arch.arguments import ArgumentEngine
    from kdump.arch.paging import InfoView, MemoryView, Paging
    from kdump.arch.stacks import KernelView, Registers, Unwinder, Unwound
    from kdump.arch.stand_in import StandIn


CoreNote = tuple[str, int, bytes]  # owner, type, content
ByteOrder = Literal["little", "big"]
BOOT_PARAMS, DEVICE_TREE = "boot_params", "device tree"


class Emulated(NamedTuple):
    """How QEMU plays a machine of an architecture: program, the Debian package it is in, values of -machine and -cpu.

    `firmware` are places of a UEFI image in one piece, as -bios takes it; `firmware_package` is the Debian package that
    has one.
    """

    program: str
    package: str
    machine: str
    cpu: str
    firmware: tuple[str, ...]
    firmware_package: str


class SyscallNumbers(NamedTuple):
    """Numbers of system calls that Python and the C library do not wrap."""

    kexec_load: int
    kexec_file_load: int
    finit_module: int
    bpf: int


class MachineFact(NamedTuple):
    """Something about the machine for the report: a key for programs, a title and a text for people."""

    key: str
    title: str
    text: str


class Fault(NamedTuple):
    """A failed access, as the processor describes it: "read", "write" or "instruction fetch", and the reason."""

    access: str
    reason: str


class FailingCode(NamedTuple):
    """Instructions that an oops shows, and at which byte of them the one begins that failed."""

    raw: bytes
    fault: int


class GdbLayout(NamedTuple):
    """GDB's name of an architecture, and its order of registers: our names, sizes in bytes.

    `pc` and `sp` are our names of the program counter and the stack pointer.
    """

    name: str
    pc: str
    sp: str
    registers: tuple[tuple[str, int], ...]


class PageEntry(NamedTuple):
    """An entry of the last level of a page table: where the page is and its flags, or where it was swapped to.

    `swap` is the swap area's number and the page's place in it, None if the entry is neither present nor of swap.
    """

    value: int
    present: bool
    physical: int = 0
    flags: tuple[str, ...] = ()
    swap: tuple[int, int] | None = None


class Architecture:
    """One architecture. Instances have no state: compare them with `is`, or by `name`."""

    name: str  # as `uname -m` prints it
    elf_machine: int  # e_machine of its ELF files (elf.h); kexec_load's flags take the same number
    debian: str  # as dpkg names it
    triplet: str  # directory of its libraries (Debian's multiarch tuple)
    byte_order: ByteOrder = "little"  # of the kernel's numbers
    # Notes of dumps whose headers may be in the other byte order (memory/turned.py): n_type, bytes of each number.
    turned_notes: Mapping[int, int] = MappingProxyType({})
    prstatus_size: int = 0  # bytes of an NT_PRSTATUS note, where QEMU's dumps do not name the machine
    page_sizes: tuple[int, ...]  # in bytes, the usual one first
    console: str  # the kernel's name of the first serial port
    syscalls: SyscallNumbers
    globals: Mapping[str, str] = MappingProxyType({})  # variables of its own that the report reads, with their types
    instruction_step: int = 1  # instructions begin at multiples of it
    instruction_longest: int  # in bytes
    argument_register: str = ""  # the register of a function's first argument, as an oops names it
    fault_register: str = ""  # the register that keeps the address of a failed access
    gdb: GdbLayout | None = None
    capture_options: tuple[tuple[str, str], ...] = ()  # options that its capture kernels get, each with the reason

    handover: str = ""  # how a kernel is told of its machine: BOOT_PARAMS, DEVICE_TREE; "" where kdump does not load
    guarded_firmware: bool = False  # firmware has a part of RAM that the kernel sees and may not read
    kernel_text: range | None = None  # virtual addresses at which the kernel's image is always mapped
    image_magic: bytes = b""  # in the header of its Image (kexec/formats/flat_image.py)
    cmdline_limit: int = 2047  # bytes of a command line (COMMAND_LINE_SIZE - 1)
    nmi: bool = False  # whether the lab's machines can be sent a non-maskable interrupt, a machine check
    lab_series: str = "6.12"  # the oldest of Debian's kernels that says all of itself

    def blas_stand_in(self) -> StandIn | None:
        """Machine code of the capture image's stand-in for BLAS, or None."""
        return None

    @property
    def emulated(self) -> Emulated:
        """How QEMU plays a machine of it, where the lab knows that."""
        self._refuse("virtual machines")

    def kernel_paging(self, info: InfoView, memory: MemoryView) -> Paging:
        """The kernel's page tables from VMCOREINFO, and from memory what that does not say.

        Raises `KeyError` with the name of what is missing.
        """
        self._refuse("the kernel's address space cannot be read")

    def page_entry(self, value: int) -> PageEntry:
        """The meaning of an entry of the last level of page tables."""
        self._refuse("entries of page tables are not explained")

    def direct_map(self, kernel: KernelView) -> int:
        """The virtual address of physical address 0 in the kernel's direct mapping, modulo 2**64.

        Raises `KdumpError` or `KeyError` where the kernel does not tell.
        """
        self._refuse("the direct mapping is not known")

    def module_room(self, numbers: Mapping[str, int]) -> range:
        """Virtual addresses of modules, from VMCOREINFO's NUMBER table; empty if it does not tell."""
        del numbers
        return range(0)

    def physical_base(self, numbers: Mapping[str, int]) -> int:
        """The phys_base of a kdump-compressed header, from VMCOREINFO's NUMBER table."""
        return numbers.get("phys_base", 0)

    def registers(self, note: bytes) -> Registers:
        """Registers of an NT_PRSTATUS note. Raises `FormatError` if it is too short."""
        self._refuse("registers cannot be read")

    def ran_in_own_order(self, note: bytes) -> bool:
        """Whether the processor of an NT_PRSTATUS note, written in the other order, ran in this one."""
        del note
        return False

    def unwinder(self, kernel: KernelView) -> Unwinder:
        """The unwinder of a kernel's stacks. Raises `KdumpError` if the kernel lacks the information for it."""
        self._refuse("stacks cannot be unwound")

    def core_registers(self, kernel: KernelView, registers: Registers, thread: Any) -> bytes:
        """pr_reg of an NT_PRSTATUS note in a process's core: user mode's registers, and what thread_struct has."""
        self._refuse("registers of processes are not known")

    def core_notes(self, kernel: KernelView, thread: Any) -> list[CoreNote]:
        """More notes of a task that was not running, from its thread_struct; empty if they are not known."""
        del kernel, thread
        return []

    def arguments(self, kernel: KernelView) -> ArgumentEngine | None:
        """The engine that follows the arguments of functions; None if this architecture has none yet.

        Raises `ImportError` if there is no disassembler.
        """
        del kernel
        return None

    def disassembler(self) -> Any:
        """A `capstone.Cs`. Raises `ImportError` if there is none, `KdumpError` where it does not know the processor."""
        self._refuse("instructions cannot be disassembled")

    def oops_registers(self, line: str) -> list[tuple[str, int]]:
        """Registers that a line of an oops shows, as the report names them."""
        del line
        return []

    def explain_fault(self, line: str) -> Fault | None:
        """The failed access that a line of an oops describes, or None."""
        del line
        return None

    def failing_code(self, line: str) -> FailingCode | None:
        """The bytes after "Code:" in an oops; None if the architecture writes them in another way."""
        del line
        return None

    def machine(self, kernel: KernelView) -> list[MachineFact]:
        """The processor, and the hypervisor if the kernel knows it."""
        del kernel
        return []

    def cpu_interrupts(self, kernel: KernelView) -> dict[str, int]:
        """How often interrupts came that CPUs have of their own, where they are not among the numbered ones."""
        del kernel
        return {}

    def debug_frame(self, kernel: KernelView, shift: Callable[[int], int], stacks: Sequence[Unwound] = ()) -> bytes:
        """DWARF's .debug_frame of a kernel's unwind tables; empty where there are none.

        `shift` turns an address of the dump into one of the file that it is for. `stacks` are of this dump: where one
        of them passes code that the tables leave out, what it shows is added.
        """
        del kernel, shift, stacks
        return b""

    def _refuse(self, what: str) -> NoReturn:
        raise KdumpError(f"{what}: not supported on {self.name}")
