"""bzImage: the compressed x86 kernel with its setup header.

Source: Documentation/arch/x86/boot.rst, arch/x86/include/uapi/asm/bootparam.h (struct setup_header).
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from kdump import arch
from kdump.errors import FormatError
from kdump.kexec.formats.kernel_image import SETUP_HEADER, KernelImage, Part

SECTOR = 512
BOOT_FLAG_AT, BOOT_FLAG = 0x1FE, b"\x55\xaa"
MAGIC_AT, MAGIC = 0x202, b"HdrS"
JUMP_LENGTH_AT = 0x201  # the jump's distance is where the header ends, counted from 0x202
HEADER_MIN = 0x268  # up to and with init_size and handover_offset
OLDEST = 0x020C  # the first protocol with xloadflags, so with a 64-bit entry point that is promised
ENTRY_64 = 0x200

LOADED_HIGH = 1 << 0  # loadflags
KERNEL_64, ABOVE_4G, FIVE_LEVEL = 1 << 0, 1 << 1, 1 << 5  # xloadflags
UNPACKED_SIZE = struct.Struct("<I")  # behind the packed vmlinux, arch/x86/boot/compressed/mkpiggy.c
REMEDY = "give /boot/vmlinuz-* of a kernel for PCs"


class Field(NamedTuple):
    """A field of the setup header: offset in the file and its struct code."""

    offset: int
    code: str


FIELDS = {
    "setup_sects": Field(0x1F1, "<B"),
    "version": Field(0x206, "<H"),
    "kernel_version": Field(0x20E, "<H"),
    "loadflags": Field(0x211, "<B"),
    "kernel_alignment": Field(0x230, "<I"),
    "relocatable_kernel": Field(0x234, "<B"),
    "xloadflags": Field(0x236, "<H"),
    "cmdline_size": Field(0x238, "<I"),
    "payload_offset": Field(0x248, "<I"),
    "payload_length": Field(0x24C, "<I"),
    "pref_address": Field(0x258, "<Q"),
    "init_size": Field(0x260, "<I"),
}


def matches(data: memoryview) -> bool:
    """Whether it carries a setup header."""
    return data[MAGIC_AT : MAGIC_AT + 4] == MAGIC and data[BOOT_FLAG_AT : BOOT_FLAG_AT + 2] == BOOT_FLAG


def parse(data: memoryview, path: str | os.PathLike[str] = "") -> KernelImage:
    """Read the setup header. Raises FormatError for what cannot be loaded by the 64-bit protocol."""

    def fail(what: str, field: str, why: str = "") -> FormatError:
        return FormatError(what, path=path, offset=FIELDS[field].offset, field=field, why=why, remedy=REMEDY)

    if len(data) < HEADER_MIN:
        raise FormatError("the bzImage is truncated", path=path, offset=len(data), remedy=REMEDY)
    h = _fields(data)
    if h["version"] < OLDEST:
        found = f"{h['version'] >> 8}.{h['version'] & 255:02}"
        raise fail(f"boot protocol {found} is too old", "version", "the 64-bit entry point came with 2.12")
    if not h["loadflags"] & LOADED_HIGH:
        raise fail("a zImage cannot be loaded", "loadflags")
    if not h["xloadflags"] & KERNEL_64:
        raise fail("not a 64-bit kernel", "xloadflags")
    start = _setup_size(h)
    if len(data) <= start:
        raise fail(
            "the bzImage is truncated", "setup_sects", f"it ends at {len(data):#x}, its kernel begins at {start:#x}"
        )
    payload = data[start:]
    align = h["kernel_alignment"]
    if align < 4096 or align & (align - 1) or align > 1 << 30:
        raise fail("the kernel's alignment makes no sense", "kernel_alignment", f"{align:#x}")
    if not len(payload) <= h["init_size"] <= 1 << 31:
        raise fail("the memory the kernel asks for makes no sense", "init_size", f"{h['init_size']:#x}")
    if not h["relocatable_kernel"]:
        raise fail("the kernel is not relocatable", "relocatable_kernel", "it runs only where the dead kernel lies")
    end = MAGIC_AT + data[JUMP_LENGTH_AT]
    if end <= FIELDS["init_size"].offset + 4:
        raise FormatError(
            "the setup header is too short", path=path, offset=JUMP_LENGTH_AT, field="jump", remedy=REMEDY
        )
    return KernelImage(
        kind="bzImage",
        release=_release(data, h["kernel_version"]),
        parts=(Part(0, payload, h["init_size"]),),
        span=h["init_size"],
        align=align,
        lowest=max(h["pref_address"] if h["pref_address"] < 1 << 32 else 0, 1 << 20),
        entry=ENTRY_64,
        setup_header=bytes(data[SETUP_HEADER:end]),
        cmdline_limit=h["cmdline_size"],
        five_level=bool(h["xloadflags"] & FIVE_LEVEL),
        file=data,
        machine=arch.by_boot_params().name,
    )


def payload(data: memoryview, path: str | os.PathLike[str] = "") -> memoryview:
    """The packed vmlinux in a bzImage that `parse` takes, with its UNPACKED_SIZE as the last bytes.

    What follows it belongs to the code that unpacks it. It is empty if the header does not tell.
    Raises FormatError if it lies outside the file.
    """
    h = _fields(data)
    start = _setup_size(h) + h["payload_offset"]
    end = start + h["payload_length"]
    if end > len(data):
        place = FIELDS["payload_offset"].offset
        raise FormatError("its payload lies outside the file", path=path, offset=place, field="payload_offset")
    return data[start:end]


def _fields(data: memoryview) -> dict[str, int]:
    return {name: struct.unpack_from(field.code, data, field.offset)[0] for name, field in FIELDS.items()}


def _setup_size(h: dict[str, int]) -> int:
    return ((h["setup_sects"] or 4) + 1) * SECTOR


def _release(data: memoryview, pointer: int) -> str:
    """The version string's first word: `kernel_version` points at it, counted from 0x200."""
    if not pointer:
        return ""
    text = bytes(data[pointer + SECTOR : pointer + SECTOR + 128]).split(b"\0", 1)[0]
    return text.decode("ascii", "replace").partition(" ")[0]
