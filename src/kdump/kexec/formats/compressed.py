"""Kernels inside compressed data, as a file or as the payload of a bzImage.

The output is bounded by a multiple of the input, so that a forged file cannot take the machine's memory.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any

from kdump.errors import FormatError

MAGICS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
    b"\x02\x21\x4c\x18": "lz4",  # the legacy format: what kernels are packed in
    b"\x04\x22\x4d\x18": "lz4 frame",
    b"\x89LZO": "lzo",
    b"\x5d\0\0": "lzma",
}
RATIO_MAX = 64  # a vmlinux with debug information shrinks to a fifth
CHUNK = 1 << 20
MEMORY_MAX = 160 << 20  # bytes that xz and lzma may take to unpack; a kernel's dictionary has up to 128 MiB
ZSTD_HEADER_MAX = 18  # bytes
ZSTD_REPEATED = 1  # a block of one byte, repeated
LZ4_BLOCK = 8 << 20  # what a block of the legacy format holds unpacked; the last one may hold less


class NotUnpackable(FormatError):
    """The compression is not known here, or its library is not installed: which says nothing against the kernel."""


def container(data: memoryview) -> str:
    """Name of the compression, "" if it is not a known one."""
    return next((name for magic, name in MAGICS.items() if data[: len(magic)] == magic), "")


def unpack(data: memoryview, name: str, path: str | os.PathLike[str] = "") -> bytearray:
    """The bytes inside; what follows them is passed over.

    Raises FormatError for damage and for what grows out of bounds, NotUnpackable for what is not supported.
    """
    limit = RATIO_MAX * len(data)
    if name not in UNPACKERS:
        raise NotUnpackable(
            f"a kernel packed with {name} is not supported",
            path=path,
            remedy=f"unpack it first; {', '.join(UNPACKERS)} are unpacked here",
        )
    try:
        out = UNPACKERS[name](data, limit)
    except ValueError as error:
        raise FormatError(f"the {name} data is damaged", path=path, why=str(error)) from None
    except ImportError as error:
        raise NotUnpackable(
            f"{name} data cannot be unpacked", path=path, why=f"{error.name} is not installed"
        ) from None
    if len(out) > limit:
        raise FormatError(f"the {name} data grows to more than {RATIO_MAX} times its size", path=path)
    if container(memoryview(out)):
        raise FormatError("compressed twice", path=path, remedy="unpack it once")
    return out


def _gunzip(data: memoryview, limit: int) -> bytearray:
    import zlib

    return _stream(zlib.decompressobj(wbits=31), zlib.error, data, limit)


def _unxz(data: memoryview, limit: int) -> bytearray:
    import lzma

    return _stream(lzma.LZMADecompressor(memlimit=MEMORY_MAX), lzma.LZMAError, data, limit)


def _bunzip2(data: memoryview, limit: int) -> bytearray:
    import bz2

    return _stream(bz2.BZ2Decompressor(), OSError, data, limit)


def _stream(stream: Any, damage: type[Exception], data: memoryview, limit: int) -> bytearray:
    """By a decompressor of the standard library."""
    try:
        out = bytearray(stream.decompress(data, limit + 1))
    except damage as error:
        raise ValueError(str(error)) from None
    if not stream.eof and len(out) <= limit:
        raise ValueError("it ends early")
    return out


def _unzstd(data: memoryview, limit: int) -> bytearray:
    import zstandard

    window = 1 << max(20, min(27, limit.bit_length()))
    out = bytearray()
    try:
        frame = data[: _zstd_frame_size(data)]
        with zstandard.ZstdDecompressor(max_window_size=window).stream_reader(frame) as stream:
            while len(out) <= limit and (piece := stream.read(CHUNK)):
                out += piece
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
    return out


def _zstd_frame_size(data: memoryview) -> int:
    """Of the frame at the start: `stream_reader` would take what follows for another one, and miss an early end.

    Source: RFC 8878, 3.1.1.
    """
    import zstandard

    start = bytes(data[:ZSTD_HEADER_MAX])
    at, last = zstandard.frame_header_size(start), 0
    while not last:
        head = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = head & 1, head >> 1 & 3, head >> 3
        at += 3 + (1 if kind == ZSTD_REPEATED else size)
        if at > len(data):
            break
    at += 4 * zstandard.get_frame_parameters(start).has_checksum
    if at > len(data):
        raise ValueError("it ends early")
    return at


def _unlz4(data: memoryview, limit: int) -> bytearray:
    """Blocks behind their sizes. The last one is the first that is not full; a payload's own size may follow it."""
    from lz4 import block

    out, at = bytearray(), 4
    while at + 4 < len(data) and len(out) <= limit and len(out) % LZ4_BLOCK == 0:
        (size,) = struct.unpack_from("<I", data, at)
        at += 4
        if at + size > len(data):
            raise ValueError("it ends early")
        try:
            out += block.decompress(data[at : at + size], uncompressed_size=LZ4_BLOCK)
        except block.LZ4BlockError as error:
            raise ValueError(str(error)) from None
        at += size
    if not out:
        raise ValueError("it ends early")
    return out


UNPACKERS: dict[str, Callable[[memoryview, int], bytearray]] = {
    "gzip": _gunzip,
    "zstd": _unzstd,
    "xz": _unxz,
    "bzip2": _bunzip2,
    "lzma": _unxz,
    "lz4": _unlz4,
}
