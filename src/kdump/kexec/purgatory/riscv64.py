"""Purgatory with a device tree and SBI firmware: the code between two kernels, and the block of parameters it reads.

riscv64.S is the source and says what it does; code_riscv64.py carries its bytes. Console and reset are the firmware's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from kdump.arch.riscv64 import RISCV64
from kdump.kexec.devicetree import DeviceTree
from kdump.kexec.purgatory import HEAD_AT, Entry, Region, filled
from kdump.kexec.purgatory.code_riscv64 import CODE

ARCHITECTURE: Final = RISCV64
SIZE = len(CODE)
MAGIC = b"KDUMPPR1"
# kernel_entry, device_tree, reset_ticks, resets, region_count
HEAD = struct.Struct("<5Q")
REGIONS_AT = HEAD_AT + HEAD.size


class Parameters(NamedTuple):
    """The parameters of purgatory. Addresses are physical.

    `reset_ticks` are ticks of the time register before the machine resets itself; it stops for good unless `resets`.
    """

    kernel_entry: int
    device_tree: int
    reset_ticks: int = 0
    resets: bool = True
    regions: Sequence[Region] = ()


def make(parameters: Parameters) -> bytes:
    """The bytes to load, at any page-aligned address; its first byte is the entry point."""
    p = parameters
    return filled(CODE, HEAD, p.kernel_entry, p.device_tree, p.reset_ticks, p.resets, regions=p.regions)


def for_machine(entry: Entry, tree: DeviceTree, root: Path = Path("/")) -> bytes:
    """The bytes to load on the machine that `tree` describes."""
    del root
    return make(
        Parameters(
            entry.kernel,
            entry.device_tree,
            reset_ticks=entry.reset_after * ticks(tree),
            resets=bool(entry.reset_after),
            regions=entry.regions,
        )
    )


def ticks(tree: DeviceTree) -> int:
    """Ticks of the time register in a second; 0 if the tree does not tell (with ACPI), so a reset comes at once."""
    cpus = tree.find("/cpus")
    return cpus.cell("timebase-frequency", 0) if cpus else 0
