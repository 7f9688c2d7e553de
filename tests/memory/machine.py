"""A small machine in memory: physical pages, page tables over them, VMCOREINFO; written as a dump by `writers`."""

from __future__ import annotations

import struct

from tests.memory.writers import PAGE, Load, elf, kdump, note

KERNEL_MAP = 0xFFFFFFFF80000000
PRESENT = 0x63  # present, writable, accessed, dirty
HUGE = 0x80


class Machine:
    """`size` bytes of memory from 0. Pages are handed out upwards, the PGD first, mapped as the kernel maps it."""

    def __init__(self, size: int = 8 << 20, *, five_levels: bool = False, phys_base: int = 0x200000) -> None:
        self.memory = bytearray(size)
        self.shifts = (48, 39, 30, 21, 12) if five_levels else (39, 30, 21, 12)
        self.next = PAGE
        self.phys_base = phys_base
        self.root = self.allocate()
        self.root_virtual = KERNEL_MAP + self.root - phys_base & (1 << 64) - 1
        self.sme_mask = 0
        self.extra: list[str] = []
        self.map(self.root_virtual, self.root)

    def allocate(self, size: int = PAGE) -> int:
        """The physical address of `size` fresh zero bytes."""
        at = self.next
        self.next += (size + PAGE - 1) // PAGE * PAGE
        assert self.next <= len(self.memory)
        return at

    def write(self, physical: int, data: bytes) -> None:
        """Set physical memory."""
        self.memory[physical : physical + len(data)] = data

    def entry(self, virtual: int, shift: int) -> int:
        """The physical address of the entry that resolves `virtual` from bit `shift`; makes the tables above it."""
        table = self.root
        for level in self.shifts:
            at = table + 8 * (virtual >> level & 511)
            if level == shift:
                return at
            (value,) = struct.unpack_from("<Q", self.memory, at)
            if not value:
                value = self.allocate() | PRESENT
                self.write(at, struct.pack("<Q", value))
            table = value & ~0xFFF
        raise AssertionError(shift)

    def map(self, virtual: int, physical: int, *, shift: int = 12, flags: int = PRESENT) -> None:
        """Map one page of 2^shift bytes."""
        value = physical | flags | (HUGE if shift > 12 else 0)
        self.write(self.entry(virtual, shift), struct.pack("<Q", value))

    def place(self, virtual: int, data: bytes) -> None:
        """Put data at a virtual address, on fresh pages that are physically apart."""
        start = virtual & ~(PAGE - 1)
        for page in range(start, virtual + len(data), PAGE):
            physical = self.allocate(2 * PAGE)
            self.map(page, physical)
            part = data[max(page - virtual, 0) : page + PAGE - virtual]
            self.write(physical + max(virtual - page, 0), part)

    @property
    def vmcoreinfo(self) -> bytes:
        """The text of the note."""
        lines = [
            "OSRELEASE=6.1.0-test",
            "BUILD-ID=0123456789abcdef",
            "PAGESIZE=4096",
            f"SYMBOL(init_top_pgt)={self.root_virtual:x}",
            f"NUMBER(phys_base)={self.phys_base}",
            f"NUMBER(pgtable_l5_enabled)={int(len(self.shifts) == 5)}",
            f"NUMBER(sme_mask)={self.sme_mask}",
            "KERNELOFFSET=0",
            *self.extra,
        ]
        return ("\n".join(lines) + "\n").encode()

    def elf(self, *, with_note: bool = True) -> bytes:
        """The machine as an ELF core."""
        notes = note("VMCOREINFO", 0, self.vmcoreinfo) if with_note else b""
        return elf([Load(0, bytes(self.memory))], notes)

    def kdump(self, *, codec: int = 0x20, drop: frozenset[int] = frozenset()) -> bytes:
        """The machine as a kdump-compressed dump, less the pages `drop`."""
        count = len(self.memory) // PAGE
        pages = {pfn: bytes(self.memory[pfn * PAGE :][:PAGE]) for pfn in range(count) if pfn not in drop}
        return kdump(pages, ram=[(0, count)], codec=codec, vmcoreinfo=self.vmcoreinfo)
