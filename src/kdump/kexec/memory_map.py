"""The machine's physical memory map, from /proc/iomem and /sys/firmware/memmap.

iomem is the running kernel's view (reservations, hotplug); the firmware's map is what the machine was started with.
Source: kernel/resource.c, arch/x86/kernel/e820.c (e820_type_to_string), drivers/firmware/memmap.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from kdump.errors import KdumpError
from kdump.kexec.state import CRASH_KERNEL
from kdump.memory.protocol import Range

SYSTEM_RAM = "System RAM"
KERNEL_CODE = "Kernel code"
RESERVED = ("reserved", "Reserved")  # of aarch64, of riscv64

# e820 types, arch/x86/include/asm/e820/types.h
E820_RAM, E820_RESERVED, E820_ACPI, E820_NVS, E820_UNUSABLE, E820_PMEM = 1, 2, 3, 4, 5, 7
E820_TYPES = {
    SYSTEM_RAM: E820_RAM,
    "ACPI Tables": E820_ACPI,
    "ACPI Non-volatile Storage": E820_NVS,
    "Unusable memory": E820_UNUSABLE,
    "Persistent Memory": E820_PMEM,
    "Persistent Memory (legacy)": 12,  # E820_TYPE_PRAM
}
HIDDEN = "run it as root: the kernel shows zeros in /proc/iomem to everybody else"


class Region(NamedTuple):
    """One line of /proc/iomem: range of addresses, name, and depth in the tree (0 is the top)."""

    range: Range
    name: str
    depth: int


class Entry(NamedTuple):
    """One entry of an e820 map: range of addresses and type."""

    range: Range
    type: int


class MemoryMap(NamedTuple):
    """The memory map for the loader: RAM (with the reservation), reservation, everything else that has a type.

    `reserved` is RAM that the firmware or the kernel keeps (kernels without an e820 map name it).
    """

    ram: tuple[Range, ...]
    reservation: tuple[Range, ...]
    firmware: tuple[Entry, ...]
    kernel_code: Range | None
    reserved: tuple[Range, ...] = ()

    @property
    def free_ram(self) -> tuple[Range, ...]:
        """RAM that a kernel to reboot into may be put in: the running one has no further use for it by then."""
        return subtract(self.ram, [*self.reservation, *self.reserved])

    @property
    def crash_ram(self) -> tuple[Range, ...]:
        """RAM that belongs in the dump: all of it but the reservation."""
        return subtract(self.ram, self.reservation)


def read_memory_map(root: Path = Path("/")) -> MemoryMap:
    """Read the map under `root`. Raises KdumpError when the kernel hides the addresses."""
    try:
        text = (root / "proc/iomem").read_text()
    except OSError as error:
        raise KdumpError("cannot read /proc/iomem", why=error.strerror or str(error)) from None
    regions = parse_iomem(text)
    if regions and all(region.range == Range(0, 1) for region in regions):
        raise KdumpError("the kernel hides physical addresses", why="/proc/iomem shows zeros", remedy=HIDDEN)
    code = [region.range for region in regions if region.name == KERNEL_CODE]
    return MemoryMap(
        ram=merge(region.range for region in regions if region.name == SYSTEM_RAM and region.depth == 0),
        reservation=tuple(sorted(region.range for region in regions if region.name == CRASH_KERNEL)),
        firmware=read_firmware_map(root) or from_iomem(regions),
        kernel_code=code[0] if code else None,
        reserved=merge(region.range for region in regions if region.name in RESERVED and region.depth),
    )


def parse_iomem(text: str) -> list[Region]:
    """Lines of /proc/iomem. What is not such a line is left out; an end is made exclusive."""
    regions = []
    for line in text.splitlines():
        place, colon, name = line.partition(" : ")
        start, dash, last = place.strip().partition("-")
        if not colon or not dash:
            continue
        try:
            region = Range(int(start, 16), int(last, 16) + 1)
        except ValueError:
            continue
        if region.size > 0:
            regions.append(Region(region, name.strip(), (len(place) - len(place.lstrip())) // 2))
    return regions


def read_firmware_map(root: Path) -> tuple[Entry, ...]:
    """/sys/firmware/memmap as e820 entries, sorted; empty where the kernel does not have it."""
    entries = []
    for directory in (root / "sys/firmware/memmap").glob("[0-9]*"):
        try:
            start, last = (int((directory / name).read_text(), 16) for name in ("start", "end"))
            name = (directory / "type").read_text().strip()
        except (OSError, ValueError):
            continue  # an entry that is going away with its memory
        entries.append(Entry(Range(start, last + 1), E820_TYPES.get(name, E820_RESERVED)))
    return tuple(sorted(entries))


def from_iomem(regions: Iterable[Region]) -> tuple[Entry, ...]:
    """The firmware's map as far as iomem repeats it, for kernels without CONFIG_FIRMWARE_MEMMAP."""
    names = {**E820_TYPES, "Reserved": E820_RESERVED, "reserved": E820_RESERVED}
    return tuple(
        sorted(
            Entry(region.range, names[region.name]) for region in regions if region.depth == 0 and region.name in names
        )
    )


def capture_e820(memory_map: MemoryMap, keep_out: Sequence[Range]) -> list[Entry]:
    """The capture kernel's e820 map: low memory and the reservation as RAM, the firmware's other entries as they are.

    `keep_out` (core headers, backup region) is left out of the RAM, so that the capture kernel does not overwrite it.
    RAM outside the reservation is not listed at all: it is the dead kernel's.
    """
    low = [Range(part.start, min(part.end, LOW_END)) for part in memory_map.ram if part.start < LOW_END]
    usable = subtract([*low, *memory_map.reservation], keep_out)
    entries = [Entry(part, E820_RAM) for part in whole_pages(usable)]
    entries += [entry for entry in memory_map.firmware if entry.type != E820_RAM]
    return sorted(entries)


LOW_END = 0x100000  # real-mode memory; the capture kernel needs some of it to start CPUs


def merge(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Sorted ranges, those that touch or overlap joined."""
    merged: list[Range] = []
    for part in sorted(ranges):
        if merged and part.start <= merged[-1].end:
            merged[-1] = Range(merged[-1].start, max(merged[-1].end, part.end))
        else:
            merged.append(part)
    return tuple(merged)


def subtract(ranges: Iterable[Range], holes: Iterable[Range]) -> tuple[Range, ...]:
    """The parts of `ranges` outside `holes`."""
    left = list(merge(ranges))
    for hole in holes:
        left = [
            piece
            for part in left
            for piece in (Range(part.start, min(part.end, hole.start)), Range(max(part.start, hole.end), part.end))
            if piece.start < piece.end
        ]
    return tuple(left)


def whole_pages(ranges: Iterable[Range], page: int = 4096) -> list[Range]:
    """Ranges shrunk to whole pages; what holds none is dropped."""
    shrunk = (Range(-(-part.start // page) * page, part.end // page * page) for part in ranges)
    return [part for part in shrunk if part.size > 0]
