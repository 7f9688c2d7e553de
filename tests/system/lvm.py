"""The head of an LVM physical volume with one volume group and one linear volume, written without LVM's tools.

Source: lvm2, lib/format_text/layout.h (label, pv_header, mda_header) and lvm.conf(5)'s text metadata as vgcfgbackup has
it. A root file system follows the head at once, and so is the volume's content.
"""

from __future__ import annotations

import struct
import zlib

GROUP = "system"
VOLUME = "root"
HEAD = 1 << 20  # bytes before the first extent
SECTOR = 512
EXTENT = 8192  # sectors
_CRC_START = 0xF597A6CF
_IDS = {name: name.ljust(32, "0") for name in ("pv", "vg", "lv")}
_MAGIC = b" LVM2 x[5A%r0N*>"
_METADATA = """\
{group} {{
id = "{vg}"
seqno = 1
format = "lvm2"
status = ["RESIZEABLE", "READ", "WRITE"]
flags = []
extent_size = {extent}
max_lv = 0
max_pv = 0
metadata_copies = 0
physical_volumes {{
pv0 {{
id = "{pv}"
device = "/dev/vda1"
status = ["ALLOCATABLE"]
flags = []
dev_size = {sectors}
pe_start = {start}
pe_count = {count}
}}
}}
logical_volumes {{
{volume} {{
id = "{lv}"
status = ["READ", "WRITE", "VISIBLE"]
flags = []
segment_count = 1
segment1 {{
start_extent = 0
extent_count = {count}
type = "striped"
stripe_count = 1
stripes = ["pv0", 0]
}}
}}
}}
}}
contents = "Text Format Volume Group"
version = 1
description = ""
creation_host = "test"
creation_time = 1
"""


def physical_volume(size: int) -> bytes:
    """HEAD bytes that make a volume of the `size` bytes (a multiple of the extents' size) which follow them."""
    sectors = size // SECTOR
    ids = {name: "-".join(_pieces(text)) for name, text in _IDS.items()}
    text = _METADATA.format(
        group=GROUP, volume=VOLUME, extent=EXTENT, sectors=sectors + HEAD // SECTOR, start=HEAD // SECTOR,
        count=sectors // EXTENT, **ids,
    ).encode() + b"\0"  # fmt: skip
    areas = struct.pack("<4Q", HEAD, 0, 0, 0) + struct.pack("<4Q", 4096, HEAD - 4096, 0, 0)
    label = struct.pack("<I8s32sQ", 32, b"LVM2 001", _IDS["pv"].encode(), HEAD + size) + areas
    label = label.ljust(SECTOR - 20, b"\0")
    place = struct.pack("<QQII", SECTOR, len(text), _checksum(text), 0)
    area = _MAGIC + struct.pack("<IQQ", 1, 4096, HEAD - 4096) + place
    area = area.ljust(SECTOR - 4, b"\0")
    head = bytearray(HEAD)
    head[SECTOR : 2 * SECTOR] = struct.pack("<8sQI", b"LABELONE", 1, _checksum(label)) + label
    head[4096 : 4096 + SECTOR] = struct.pack("<I", _checksum(area)) + area
    head[4096 + SECTOR : 4096 + SECTOR + len(text)] = text
    return bytes(head)


def _checksum(data: bytes) -> int:
    """CRC-32 with LVM's start value, not inverted."""
    return zlib.crc32(data, _CRC_START ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _pieces(identity: str) -> list[str]:
    """An identity as LVM writes it: groups of 6, 4, 4, 4, 4, 4 and 6 letters."""
    pieces, at = [], 0
    for length in (6, 4, 4, 4, 4, 4, 6):
        pieces.append(identity[at : at + length])
        at += length
    return pieces
