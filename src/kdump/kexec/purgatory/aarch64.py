"""Purgatory with a device tree: the code between two kernels, and the block of parameters it reads.

aarch64.S is the source and says what it does; code_aarch64.py carries its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from kdump.kexec.purgatory import REGION, Region
from kdump.kexec.purgatory.code_aarch64 import CODE
from kdump.kexec.syscalls import SEGMENTS_MAX

SIZE = len(CODE)
MAGIC = b"KDUMPPA1"
MAGIC_AT = 8
# kernel_entry, device_tree, uart, conduit, reset_after, resets, region_count
HEAD = struct.Struct("<7Q")
HEAD_AT = 16
REGIONS_AT = HEAD_AT + HEAD.size
CHECK_AT = REGIONS_AT + SEGMENTS_MAX * REGION.size  # the check, callable as a C function
CONDUITS = {"smc": 1, "hvc": 2}  # how PSCI is called (Arm DEN0022)


class Parameters(NamedTuple):
    """The parameters of purgatory. Addresses are physical; `uart` is that of a PL011, 0 if absent.

    `conduit` is a value of CONDUITS, 0 where the firmware has no PSCI; `reset_after` in seconds, 0 stops for good.
    """

    kernel_entry: int
    device_tree: int
    uart: int = 0
    conduit: int = 0
    reset_after: int = 10
    regions: Sequence[Region] = ()


def make(parameters: Parameters) -> bytes:
    """The bytes to load, at any page-aligned address; its first byte is the entry point."""
    p = parameters
    code = bytearray(CODE)
    resets = bool(p.conduit and p.reset_after)
    HEAD.pack_into(
        code, HEAD_AT, p.kernel_entry, p.device_tree, p.uart, p.conduit, p.reset_after, resets, len(p.regions)
    )
    for index, region in enumerate(p.regions):
        REGION.pack_into(code, REGIONS_AT + index * REGION.size, *region)
    return bytes(code)
