"""`Kernel`: a dead or live kernel as it describes itself. Opening costs nothing: parts are read when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdump.arch import Architecture, by_machine
from kdump.errors import KdumpError
from kdump.kernel import vmcoreinfo
from kdump.kernel.remembered import remembered
from kdump.memory.protocol import Dump, Memory
from kdump.memory.virtual import VirtualMemory

if TYPE_CHECKING:
    from kdump.kernel.btf import Btf
    from kdump.kernel.kallsyms import Kallsyms
    from kdump.kernel.modules import Module, Symbolizer
    from kdump.kernel.objects import Objects
    from kdump.kernel.printk import Log


class Kernel:
    """The kernel of a dump.

    `memory` is physical, `virtual` is the kernel's address space. Whatever VMCOREINFO lacks for a part raises a
    `KdumpError` when that part is asked for, not before.
    """

    def __init__(self, dump: Dump) -> None:
        self.dump = dump
        self._own_types: Btf | None = None

    @property
    def memory(self) -> Memory:
        """Physical memory."""
        return self.dump.memory

    @remembered
    def vmcoreinfo(self) -> vmcoreinfo.VmCoreInfo:
        """The kernel's VMCOREINFO: the dump's note, else searched in memory. Raises `KdumpError` if there is none."""
        raw = self.dump.vmcoreinfo
        if not raw:
            from kdump.kernel.vmcoreinfo_scan import find_vmcoreinfo

            raw = find_vmcoreinfo(self.memory, self.arch)
        if not raw:
            raise KdumpError(
                f"{self.dump.path}: no VMCOREINFO, neither as a note nor in memory",
                why="the kernel in it cannot be interpreted without",
                remedy="dumps taken from outside a virtual machine should be made with its vmcoreinfo device",
            )
        return vmcoreinfo.parse(raw)

    @remembered
    def arch(self) -> Architecture:
        """The architecture, from the dump's header."""
        machine = self.dump.header.get("machine", "")
        return by_machine(machine if isinstance(machine, int) else str(machine))

    @remembered
    def virtual(self) -> VirtualMemory:
        """The kernel's address space, through its own page tables."""
        info = self.vmcoreinfo
        try:
            paging = self.arch.kernel_paging(info, self.memory)
        except KeyError as error:
            raise KdumpError(
                f"VMCOREINFO has no {error.args[0]}", why="without it the kernel's page tables cannot be found"
            ) from None
        return VirtualMemory(self.memory, paging, self.arch.byte_order)

    @remembered
    def symbols(self) -> Kallsyms:
        """Symbols by name and address, from the kernel's own table."""
        from kdump.kernel.kallsyms import Kallsyms

        if self.arch.byte_order != "little":
            raise KdumpError(
                f"symbols, types and objects of {self.arch.name} are not read",
                why="its numbers are big-endian",
                remedy="`kdump info` and `kdump dmesg` read it, and `kdump report` its log",
            )
        found = Kallsyms.from_kernel(self)
        if found.get("__per_cpu_offset") is None:  # it has only functions
            from kdump.kernel.exports import complete

            self._own_types = complete(self, found)
        return found

    @remembered
    def types(self) -> Btf:
        """Types, from the kernel's own BTF."""
        from kdump.kernel.btf import Btf

        self.symbols  # noqa: B018 - a kernel whose symbols are completed has its types found with them
        return self._own_types or Btf.from_kernel(self)

    @remembered
    def objects(self) -> Objects:
        """Access to the kernel's objects by their types: `objects.variable("init_task").comm`."""
        from kdump.kernel.objects import Objects

        return Objects(self)

    @remembered
    def modules(self) -> list[Module]:
        """Loaded kernel modules."""
        from kdump.kernel.modules import modules

        return modules(self.objects)

    @remembered
    def symbolizer(self) -> Symbolizer:
        """Names for addresses in the image, modules and generated code."""
        from kdump.kernel.modules import Symbolizer

        return Symbolizer(self.objects)

    def log(self) -> Log:
        """The kernel log: records oldest first, and what was lost. See `kdump.kernel.printk`.

        Kernels before 5.10 have a plain buffer instead of the ring: `kdump.kernel.log_buf`.
        """
        symbols = self.vmcoreinfo.symbols
        if "prb" not in symbols and "log_first_idx" in symbols:
            from kdump.kernel.log_buf import read_log_buf

            return read_log_buf(self)
        from kdump.kernel.printk import read_ring

        return read_ring(self)
