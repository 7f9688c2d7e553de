"""EFI zboot: an EFI executable that unpacks a kernel.

Distributions install it on aarch64, riscv64 and loongarch64.

Source: drivers/firmware/efi/libstub/zboot-header.S, Makefile.zboot.
"""

from __future__ import annotations

import os
import struct

from kdump.errors import FormatError

MAGIC = b"MZ\0\0zimg"
# offset and size of the compressed data, 8 bytes kept, name of the compression
HEADER = struct.Struct("<8xII8x32s")
NAMES = {"gzip": "gzip", "zstd": "zstd", "xz": "xz", "lzma": "lzma", "lz4": "lz4", "lzo": "lzo", "zstd22": "zstd"}


def matches(data: memoryview) -> bool:
    """Whether it is one."""
    return data[: len(MAGIC)] == MAGIC


def payload(data: memoryview, path: str | os.PathLike[str] = "") -> tuple[str, memoryview]:
    """Name of the compression, and what is compressed. Raises FormatError."""
    if len(data) < HEADER.size:
        raise FormatError("the EFI zboot image is truncated", path=path, offset=len(data), field="header")
    offset, size, raw = HEADER.unpack_from(data)
    name = raw.split(b"\0", 1)[0].decode("ascii", "replace")
    if not size or offset + size > len(data):
        raise FormatError("the packed kernel lies outside the file", path=path, offset=8, field="payload_offset")
    if name not in NAMES:
        raise FormatError(f"an EFI zboot image packed with {name!r}", path=path, offset=24, field="comp_type")
    return NAMES[name], data[offset : offset + size]
