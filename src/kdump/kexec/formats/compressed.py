"""Kernels inside a compressed file: gzip and zstd are unpacked, others are named and refused.

The output is bounded by a multiple of the input, so that a forged file cannot take the machine's memory.
"""

from __future__ import annotations

import os
import zlib

from kdump.errors import FormatError

GZIP, ZSTD = "gzip", "zstd"
MAGICS = {
    b"\x1f\x8b": GZIP,
    b"\x28\xb5\x2f\xfd": ZSTD,
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x02\x21\x4c\x18": "lz4",
    b"\x89LZO": "lzo",
    b"\x5d\0\0": "lzma",
}
RATIO_MAX = 64  # a vmlinux with debug information shrinks to a fifth
CHUNK = 1 << 20


def container(data: memoryview) -> str:
    """Name of the compression, "" if it is none that is known."""
    return next((name for magic, name in MAGICS.items() if data[: len(magic)] == magic), "")


def unpack(data: memoryview, name: str, path: str | os.PathLike[str] = "") -> bytes:
    """The bytes inside. Raises FormatError for damage, for what is not supported and for what grows out of bounds."""
    limit = RATIO_MAX * len(data)
    try:
        if name == GZIP:
            out = _gunzip(data, limit)
        elif name == ZSTD:
            out = _unzstd(data, limit)
        else:
            raise FormatError(
                f"a kernel packed with {name} is not supported",
                path=path,
                remedy="unpack it first; gzip and zstd are unpacked here",
            )
    except ValueError as error:
        raise FormatError(f"the {name} data is damaged", path=path, why=str(error)) from None
    if len(out) > limit:
        raise FormatError(f"the {name} data grows to more than {RATIO_MAX} times its size", path=path)
    if container(memoryview(out)):
        raise FormatError("compressed twice", path=path, remedy="unpack it once")
    return out


def _gunzip(data: memoryview, limit: int) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    try:
        out = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not stream.eof and len(out) <= limit:
        raise ValueError("it ends early")
    return out


def _unzstd(data: memoryview, limit: int) -> bytes:
    import zstandard

    window = 1 << max(20, min(27, limit.bit_length()))
    out = bytearray()
    try:
        expected = zstandard.get_frame_parameters(bytes(data[:18])).content_size
        with zstandard.ZstdDecompressor(max_window_size=window).stream_reader(data) as stream:
            while len(out) <= limit and (piece := stream.read(CHUNK)):
                out += piece
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
    if len(out) < min(expected, limit) and expected != zstandard.CONTENTSIZE_UNKNOWN:
        raise ValueError("it ends early")
    return bytes(out)
