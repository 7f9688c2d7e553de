"""Writers of small synthetic kernels: enough structure for the parsers, nothing to run."""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import random
import struct
from collections.abc import Callable

import zstandard
from lz4 import block

from kdump.elf import EHDR, EM_X86_64, ET_EXEC, IDENT, PHDR, PT_LOAD
from kdump.kexec.formats import bzimage as bz
from kdump.kexec.formats import compressed, uki


def bzimage(*, payload: bytes = b"\x90" * 0x800, release: str = "6.1.0-test", **fields: int) -> bytes:
    """A bzImage with one setup sector; keywords replace fields of the setup header."""
    image = bytearray(0x400)
    image[bz.BOOT_FLAG_AT : bz.BOOT_FLAG_AT + 2] = bz.BOOT_FLAG
    image[bz.MAGIC_AT : bz.MAGIC_AT + 4] = bz.MAGIC
    image[bz.JUMP_LENGTH_AT] = 0x6A
    image[0x300 : 0x300 + len(release) + 8] = release.encode() + b" (test)\0"
    values = {
        "setup_sects": 1,
        "version": 0x020F,
        "kernel_version": 0x100,
        "loadflags": bz.LOADED_HIGH,
        "kernel_alignment": 0x200000,
        "relocatable_kernel": 1,
        "xloadflags": bz.KERNEL_64 | bz.ABOVE_4G | bz.FIVE_LEVEL,
        "cmdline_size": 2047,
        "pref_address": 0x1000000,
        "init_size": 0x100000,
    }
    for name, value in (values | fields).items():
        struct.pack_into(bz.FIELDS[name].code, image, bz.FIELDS[name].offset, value)
    return bytes(image) + payload


def elf(loads: list[tuple[int, bytes, int]], *, entry: int = 0x1000000, machine: int = EM_X86_64) -> bytes:
    """A vmlinux with a PT_LOAD for each (physical address, bytes, size in memory)."""
    offset = 64 + len(loads) * PHDR.size
    table, body = b"", b""
    for address, data, size in loads:
        table += PHDR.pack(PT_LOAD, 7, offset + len(body), 0, address, len(data), size, 0x200000)
        body += data
    head = EHDR.pack(IDENT, ET_EXEC, machine, 1, entry, 64, 0, 0, 64, PHDR.size, len(loads), 0, 0, 0)
    return head + table + body


VMLINUX = elf([(0x1000000, b"Linux version 6.1.0-test (x) " + b"\x90" * 99, 0x3000), (0x1200000, b"data", 0x1000)])


def lz4(data: bytes) -> bytes:
    """The legacy format: its magic number, and blocks behind their sizes."""
    packed = b"\x02\x21\x4c\x18"
    for at in range(0, len(data), compressed.LZ4_BLOCK):
        piece = block.compress(data[at : at + compressed.LZ4_BLOCK], store_size=False)
        packed += struct.pack("<I", len(piece)) + piece
    return packed


def zstd(data: bytes) -> bytes:
    """As the zstd command packs what comes through a pipe, and so Linux: with a checksum and without the size."""
    return zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(data)


# What packs, by what `compressed` calls it.
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": functools.partial(gzip.compress, mtime=0),
    "zstd": zstd,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "lz4": lz4,
}


def packed(data: bytes, name: str, *, size: int | None = None) -> bytes:
    """The payload of a bzImage: packed, and behind that the size of what is in it (gzip ends with that by itself)."""
    told = struct.pack("<I", len(data) if size is None else size)
    body = PACKERS[name](data)
    return body[:-4] + told if name == "gzip" else body + told


def packed_bzimage(payload: bytes, **fields: int) -> bytes:
    """A bzImage with that payload, between code before and behind it."""
    before = b"\x90" * 0x300
    place = {"payload_offset": len(before), "payload_length": len(payload)}
    return bzimage(payload=before + payload + bytes(64), release="6.1.0-test", **place | fields)


def pe(sections: dict[str, bytes], *, machine: int = uki.MACHINES[0]) -> bytes:
    """A PE file with those sections, one after another."""
    head = bytearray(0x40)
    head[:2] = uki.MAGIC
    struct.pack_into("<I", head, uki.PE_POINTER_AT, 0x40)
    head += uki.PE_MAGIC + uki.COFF.pack(machine, len(sections), 0, 0, 0, 0, 0)
    offset = len(head) + len(sections) * uki.SECTION.size
    body = b""
    for name, data in sections.items():
        head += uki.SECTION.pack(name.encode(), len(data), 0, len(data), offset + len(body))
        body += data
    return bytes(head) + body


def flat_image(*, magic: bytes = b"ARM\x64", size: int = 0x300000, flags: int = 0xA, text_offset: int = 0) -> bytes:
    """An Image of aarch64: its header, and a banner."""
    head = struct.pack("<IIQQQ24x4sI", 0xFA405A4D, 0x14000000, text_offset, size, flags, magic, 0)
    return head + b"Linux version 6.12.0-test (x) " + random.Random(1).randbytes(0x2001)


def zboot(kernel: bytes, compression: bytes = b"gzip") -> bytes:
    """An EFI zboot image."""
    payload = gzip.compress(kernel)
    return struct.pack("<8sII8x32s", b"MZ\0\0zimg", 64, len(payload), compression).ljust(64, b"\0") + payload
