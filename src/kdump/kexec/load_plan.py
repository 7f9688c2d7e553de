"""A load as a whole: what kexec_load(2) is given, and where it may lie."""

from __future__ import annotations

from typing import NamedTuple

from kdump.errors import KdumpError
from kdump.kexec import elfcore, purgatory
from kdump.kexec.checksum import WORD, checksum
from kdump.kexec.cmdline import option_name, split
from kdump.kexec.memory_map import Entry, MemoryMap
from kdump.kexec.syscalls import Segment
from kdump.memory.protocol import Range
from kdump.units import integer

RESET_AFTER = 10  # seconds, unless the command line's panic= says otherwise


class Placed(NamedTuple):
    """A segment in its place: `name`, physical `address`, `size` in memory (whole pages) and `data`.

    `checked` tells whether purgatory checks it (not the one the kernel rewrites, nor purgatory itself).
    """

    name: str
    address: int
    size: int
    data: bytes | bytearray | memoryview
    checked: bool = True

    @property
    def range(self) -> Range:
        """Its place in physical memory."""
        return Range(self.address, self.address + self.size)


class Plan(NamedTuple):
    """A complete load: entry point, segments, where they were allowed to be, and what the new kernel is told."""

    entry: int
    segments: tuple[Placed, ...]
    space: tuple[Range, ...]
    e820: tuple[Entry, ...]
    cmdline: str
    core_headers: tuple[elfcore.Header, ...]

    def for_syscall(self) -> list[Segment]:
        """As kexec_load(2) takes them."""
        return [Segment(placed.data, placed.address, placed.size) for placed in self.segments]


def main_reservation(memory_map: MemoryMap) -> Range:
    """The part of the reservation that segments may lie in: the high one, if there is a low one beside it.

    The kernel takes panic segments in crashk_res only; with crashkernel=…,high its companion below 4 GiB is for DMA.
    """
    if not memory_map.reservation:
        raise KdumpError("no memory is reserved for a capture kernel", remedy="see `kdump load --help`")
    return memory_map.reservation[-1]


def region(placed: Placed) -> purgatory.Region:
    """The data, and zeros up to a whole word: the kernel clears the rest of a page."""
    return purgatory.Region(placed.address, -(-len(placed.data) // WORD) * WORD, checksum(placed.data))


def reset_after(cmdline: str) -> int:
    """Seconds until a machine with a damaged capture kernel resets itself: as its panic= says, 0 for never."""
    seconds = RESET_AFTER
    for option in split(cmdline):
        value = integer(option.partition("=")[2]) if option_name(option) == "panic" else None
        seconds = seconds if value is None else value
    return max(0, seconds)
