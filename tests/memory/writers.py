"""Small writers of dump files: what the readers are tested with, and may be damaged at will."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import zstandard

PAGE = 4096


class Load(NamedTuple):
    """A PT_LOAD: `data` at `physical`; `memory_size` larger than the data leaves a hole behind it."""

    physical: int
    data: bytes
    virtual: int = 0
    memory_size: int | None = None
    offset: int | None = None


def note(name: str, kind: int, data: bytes, order: str = "<") -> bytes:
    """One ELF note; `order` is `struct`'s character."""
    owner = name.encode() + b"\0"
    padded = owner + bytes(-len(owner) % 4)
    return struct.pack(f"{order}III", len(owner), len(data), kind) + padded + data + bytes(-len(data) % 4)


def elf(loads: Sequence[Load], notes: bytes = b"", *, machine: int = 62, xnum: bool = False, order: str = "<") -> bytes:
    """An ELF64 core; with `xnum` the count of program headers is in section header 0."""
    count = len(loads) + 1
    headers_end = 64 + 56 * count + (64 if xnum else 0)
    notes_at = headers_end
    at = (notes_at + len(notes) + PAGE - 1) // PAGE * PAGE
    headers = struct.pack(f"{order}IIQQQQQQ", 4, 0, notes_at, 0, 0, len(notes), len(notes), 0)
    body = b""
    start = at
    for load in loads:
        offset = at if load.offset is None else load.offset
        size = len(load.data) if load.memory_size is None else load.memory_size
        headers += struct.pack(f"{order}IIQQQQQQ", 1, 7, offset, load.virtual, load.physical, len(load.data), size, 0)
        if load.offset is None:
            body += load.data
            at += len(load.data)
    ident = b"\x7fELF\x02" + bytes([1 if order == "<" else 2, 1]) + bytes(9)
    section_at = 64 + 56 * count if xnum else 0
    head = ident + struct.pack(
        f"{order}HHIQQQIHHHHHH",
        4,
        machine,
        1,
        0,
        64,
        section_at,
        0,
        64,
        56,
        0xFFFF if xnum else count,
        64,
        int(xnum),
        0,
    )
    section = struct.pack(f"{order}IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, count, 0, 0) if xnum else b""
    out = head + headers + section + notes
    return out + bytes(start - len(out)) + body


def compress(page: bytes, codec: int) -> tuple[bytes, int]:
    """(data, flags) of a page: raw where compressing does not shrink it."""
    if codec == 0x01:
        data = zlib.compress(page)
    elif codec == 0x02:
        from lzallright import LZOCompressor

        data = LZOCompressor().compress(page)
    elif codec == 0x04:
        from cramjam import snappy

        data = bytes(snappy.compress_raw(page))
    elif codec == 0x20:
        data = zstandard.ZstdCompressor().compress(page)
    else:
        return page, 0
    return (data, codec) if len(data) < len(page) else (page, 0)


def kdump(
    pages: Mapping[int, bytes],
    *,
    ram: Sequence[tuple[int, int]],
    codec: int = 0x20,
    version: int = 6,
    status: int | None = None,
    split: tuple[int, int] | None = None,
    vmcoreinfo: bytes = b"",
    notes: bytes = b"",
    level: int = 31,
    block: int = PAGE,
    machine: bytes = b"x86_64",
    order: str = "<",
) -> bytes:
    """A kdump-compressed file. `pages` by pfn; `ram` are ranges of pfns [start, end); zero pages share one place."""
    max_pfn = max(end for _, end in ram)
    blocks = -(-((max_pfn + 7) // 8) // block)
    bitmaps = [bytearray(blocks * block), bytearray(blocks * block)]
    for start, end in ram:
        for pfn in range(start, end):
            bitmaps[0][pfn >> 3] |= 1 << (pfn & 7)
    for pfn in pages:
        bitmaps[1][pfn >> 3] |= 1 << (pfn & 7)
    info_at = block + 104
    notes_at = info_at + len(vmcoreinfo)
    sub_blocks = -(-(104 + len(vmcoreinfo) + len(notes)) // block)
    first, last = split or (0, max_pfn)
    mine = sorted(pfn for pfn in pages if first <= pfn < last)
    data_at = (1 + sub_blocks + 2 * blocks) * block + 24 * len(mine)
    descriptors, data, zero_at = b"", bytes(block), data_at
    for pfn in mine:
        if not any(pages[pfn]):
            descriptors += struct.pack(f"{order}qIIQ", zero_at, block, 0, 0)
            continue
        packed, flags = compress(pages[pfn], codec)
        descriptors += struct.pack(f"{order}qIIQ", data_at + len(data), len(packed), flags, 0)
        data += packed
    utsname = b"".join(
        text.ljust(65, b"\0") for text in (b"Linux", b"node", b"6.1.0-test", b"#1 SMP", machine, b"(none)")
    )
    status = codec if status is None else status
    main = struct.pack(
        f"{order}8si390s6xqqIiiII4Ii", b"KDUMP   ", version, utsname, 1_700_000_000, 0, status, block,
        sub_blocks, 2 * blocks, max_pfn, 0, 0, 0, 0, 2,
    )  # fmt: skip
    sub = struct.pack(
        f"{order}QiiQQqQqQqQQQQ", 0x1000000, level, int(split is not None), first, last, info_at if vmcoreinfo else 0,
        len(vmcoreinfo), notes_at if notes else 0, len(notes), 0, 0, first, last, max_pfn,
    )  # fmt: skip
    head = main.ljust(block, b"\0") + (sub + vmcoreinfo + notes).ljust(sub_blocks * block, b"\0")
    return head + bytes(bitmaps[0]) + bytes(bitmaps[1]) + descriptors + data


def flattened(data: bytes, *, size: int = 1000, order: Sequence[int] | None = None, end: bool = True) -> bytes:
    """`data` as a flattened file of records of `size` bytes, in `order` (of record numbers)."""
    chunks = [(at, data[at : at + size]) for at in range(0, len(data), size)]
    if order is not None:
        chunks = [chunks[index] for index in order]
    return records(chunks, end=end)


def records(chunks: Sequence[tuple[int, bytes]], *, end: bool = True) -> bytes:
    """A flattened file of these (offset, data)."""
    out = struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(PAGE, b"\0")
    out += b"".join(struct.pack(">qq", at, len(chunk)) + chunk for at, chunk in chunks)
    return out + struct.pack(">qq", -1, -1) if end else out
