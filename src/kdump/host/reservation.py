"""The machine's memory as crashkernel= sees it, and giving back what is reserved beyond need.

What is reserved at the moment is in `kdump.kexec.state`.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from kdump.errors import KdumpError
from kdump.host.crashkernel import Ranges
from kdump.kexec.state import read_state
from kdump.units import size_text

SYSTEM_RAM: Final = "System RAM"


def system_ram(root: Path = Path("/")) -> Ranges:
    """The physical ranges of RAM in /proc/iomem under `root`; together what memblock_phys_mem_size() counts at boot.

    Raises KdumpError if addresses are hidden (all zero), as they are for everyone but root.
    """
    text = (root / "proc/iomem").read_text()
    ranges = sorted(ram_ranges(text))
    if any(end == 1 for _start, end in ranges):
        raise KdumpError("/proc/iomem hides its addresses", why="only root may see them", remedy="run as root")
    return tuple(ranges)


def ram_ranges(iomem: str) -> list[tuple[int, int]]:
    """(start, end) of each top-level "System RAM" line in the text of /proc/iomem, end exclusive."""
    ranges = []
    for line in iomem.splitlines():
        place, _, name = line.partition(" : ")
        if name == SYSTEM_RAM and not line.startswith(" "):
            start, _, last = place.partition("-")
            ranges.append((int(start, 16), int(last, 16) + 1))
    return ranges


def shrink(size: int, root: Path = Path("/")) -> int:
    """Give back to the running system what is reserved beyond `size` bytes; returns what is reserved now.

    Only while no capture kernel is loaded; it cannot grow again before a reboot. Raises KdumpError.
    """
    what = f"cannot shrink the reservation to {size_text(size)}"
    before = read_state(root).crash_size or 0
    if size >= before:
        more = "more memory takes crashkernel= and a reboot" if size > before else ""
        raise KdumpError(what, why=f"{size_text(before)} are reserved", remedy=more)
    try:
        (root / "sys/kernel/kexec_crash_size").write_text(str(size))
    except PermissionError:
        raise KdumpError(what, why="only root may", remedy="run as root") from None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EBUSY):  # crash_shrink_memory() in kernel/crash_core.c
            raise KdumpError(what, why="a capture kernel is loaded", remedy="`kdump unload` first") from None
        raise
    return read_state(root).crash_size or 0
