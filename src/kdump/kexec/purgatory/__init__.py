"""Purgatory: the code between the dead kernel and the capture kernel, and the block of parameters it reads.

purgatory.S is the source and says what it does; code.py carries its bytes. The layout below is that of `parameters`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from kdump.kexec.purgatory.code import CODE
from kdump.kexec.syscalls import SEGMENTS_MAX

MAGIC = b"KDUMPPG2"
MAGIC_AT = 8
# kernel_entry, boot_params, backup_from, backup_to, backup_size, serial_port, use_vga, reset_after, region_count
HEAD = struct.Struct("<QQQQQIIQQ")
HEAD_AT = 16
REGION = struct.Struct("<QQQ")  # address, size, checksum
REGIONS_AT = HEAD_AT + HEAD.size
CHECK_AT = REGIONS_AT + SEGMENTS_MAX * REGION.size  # the check, callable as a C function
SIZE = 8192  # in memory: the code, and behind it a page that it writes

SERIAL_PORTS = {"ttyS0": 0x3F8, "ttyS1": 0x2F8, "ttyS2": 0x3E8, "ttyS3": 0x2E8}  # arch/x86/include/asm/serial.h


class Region(NamedTuple):
    """A checked piece of memory: physical address, size (a multiple of 8) and checksum (see `checksum.py`)."""

    address: int
    size: int
    checksum: int


class Entry(NamedTuple):
    """What a purgatory with a device tree is told on every architecture: physical addresses, seconds, what to check."""

    kernel: int
    device_tree: int
    reset_after: int
    regions: Sequence[Region]


class Parameters(NamedTuple):
    """The parameters of purgatory. Addresses are physical, sizes in bytes; `reset_after` in seconds, 0 stops for
    good."""

    kernel_entry: int
    boot_params: int
    backup_from: int = 0
    backup_to: int = 0
    backup_size: int = 0
    serial_port: int = 0
    use_vga: bool = True
    reset_after: int = 10
    regions: Sequence[Region] = ()


def make(parameters: Parameters) -> bytes:
    """The bytes to load, at any page-aligned address; its first byte is the entry point."""
    p = parameters
    return filled(
        CODE, HEAD, p.kernel_entry, p.boot_params, p.backup_from, p.backup_to, p.backup_size, p.serial_port,
        p.use_vga, p.reset_after * 1_000_000, regions=p.regions,
    )  # fmt: skip


def filled(code: bytes, head: struct.Struct, *values: int, regions: Sequence[Region]) -> bytes:
    """The code of any purgatory with its parameters: the head, which ends with the number of regions, and these."""
    out = bytearray(code)
    head.pack_into(out, HEAD_AT, *values, len(regions))
    for index, region in enumerate(regions):
        REGION.pack_into(out, HEAD_AT + head.size + index * REGION.size, *region)
    return bytes(out)


def serial_port(cmdline: str) -> int:
    """I/O port of the last serial console that a command line names, 0 if it names none."""
    port = 0
    for option in cmdline.split():
        name, _, value = option.partition("=")
        if name == "console":
            port = SERIAL_PORTS.get(value.partition(",")[0], port)
    return port
