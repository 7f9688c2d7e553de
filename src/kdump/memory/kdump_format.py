"""The kdump-compressed format, header versions 1 to 6: what reader and writer share.

Source: makedumpfile's diskdump_mod.h and IMPLEMENTATION, QEMU's include/sysemu/dump.h; checked on real dumps.
Block 0 is the main header, block 1 on the sub header with VMCOREINFO and notes behind it, then two bitmaps (one bit a
page, least significant first): memory that existed, and pages that have a descriptor. Descriptors follow in the
order of pfns, then page data. Numbers have the byte order of the machine.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from kdump.arch import in_dump
from kdump.arch.architecture import ByteOrder
from kdump.elf import big_endian
from kdump.errors import FormatError
from kdump.memory.source import Source
from kdump.memory.turned import UNNAMED, readable

MAGIC = b"KDUMP   "
MAIN = struct.Struct("<8si390s6xqqIiiII4Ii")  # struct disk_dump_header, 64-bit
SUB = struct.Struct("<QiiQQqQqQqQQQQ")  # struct kdump_sub_header, 64-bit
# Fields of the sub header, and the header version that each came with.
SUB_FIELDS = (
    ("phys_base", 0), ("dump_level", 1), ("split", 2), ("start_pfn", 2), ("end_pfn", 2), ("offset_vmcoreinfo", 3),
    ("size_vmcoreinfo", 3), ("offset_note", 4), ("size_note", 4), ("offset_eraseinfo", 5), ("size_eraseinfo", 5),
    ("start_pfn_64", 6), ("end_pfn_64", 6), ("max_mapnr_64", 6),
)  # fmt: skip
DESCRIPTOR = np.dtype([("offset", "<i8"), ("size", "<u4"), ("flags", "<u4"), ("page_flags", "<u8")])  # page_desc_t
DESCRIPTOR_FIELDS = struct.Struct("<qIIQ")  # the same

STATUS_INCOMPLETE = 0x08
COMPRESSION = 0x27  # bits of status and of a descriptor's flags that name a codec

VERSIONS = 100  # what header_version is below, read in the right byte order
BLOCK_SIZES = (4096, 8192, 16384, 32768, 65536)


class Header(NamedTuple):
    """Both headers: the main header's fields, and those of the sub header that this version has (others 0)."""

    version: int
    utsname: tuple[str, ...]
    timestamp: int
    status: int
    block_size: int
    sub_blocks: int
    bitmap_blocks: int
    max_mapnr: int
    nr_cpus: int
    order: ByteOrder
    sub: dict[str, int]


def read_header(source: Source) -> Header:
    """Both headers. Raises `FormatError` if it is not a kdump-compressed dump, is 32-bit, or is big-endian and of an
    architecture of which such dumps are not read.
    """

    def wrong(what: str, field: str, offset: int) -> FormatError:
        return FormatError(what, path=source.path, offset=offset, field=field)

    if source.size < MAIN.size:
        raise FormatError(f"only {source.size} bytes: no room for a header", path=source.path)
    raw = source.view(0, MAIN.size)
    if raw[: len(MAGIC)] != MAGIC:
        raise wrong("not a kdump-compressed dump", "signature", 0)
    order: ByteOrder = "big" if 0 < int.from_bytes(raw[8:12], "big") < VERSIONS else "little"
    main, sub_header = (MAIN, SUB) if order == "little" else (big_endian(MAIN), big_endian(SUB))
    (_, version, names, seconds, _, status, block, sub_blocks, bitmap_blocks, max_mapnr, *_, cpus) = main.unpack(raw)
    utsname = tuple(
        names[at : at + 65].split(b"\0", 1)[0].decode("utf-8", "replace") for at in range(0, len(names), 65)
    )
    machine = utsname[4].lower()
    if order == "big" and machine != UNNAMED and not readable(in_dump(machine), order):
        machine = machine or "an unknown machine"
        raise wrong(f"big-endian dumps of {machine} are not supported", "header_version", 8)
    if not 0 <= version < VERSIONS:
        raise wrong(f"version {version}", "header_version", 8)
    if block not in BLOCK_SIZES:
        if int.from_bytes(raw[416:420], order) in BLOCK_SIZES:
            raise wrong("32-bit dumps are not supported", "block_size", 416)
        raise wrong(f"pages of {block} bytes", "block_size", 428)
    if sub_blocks < 1:
        raise wrong(f"{sub_blocks} blocks of sub header", "sub_hdr_size", 432)
    if source.size < block + SUB.size:
        raise wrong("ends before the sub header", "sub_hdr_size", 432)
    values = sub_header.unpack(source.view(block, SUB.size))
    sub = {name: value if version >= since else 0 for (name, since), value in zip(SUB_FIELDS, values, strict=True)}
    return Header(version, utsname, seconds, status, block, sub_blocks, bitmap_blocks, max_mapnr, cpus, order, sub)
