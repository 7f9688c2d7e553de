"""Unified kernel image: a PE executable that carries a kernel, an image, a command line and os-release as sections.

Source: the UAPI group's specification of unified kernel images; PE/COFF (Microsoft's specification), section table.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

from kdump.errors import FormatError
from kdump.kexec.formats.kernel_image import KernelImage

MAGIC = b"MZ"
PE_POINTER_AT = 0x3C
PE_MAGIC = b"PE\0\0"
COFF = struct.Struct(
    "<HHIIIHH"
)  # machine, number of sections, time, symbols, symbol count, optional header size, flags
SECTION = struct.Struct("<8sIIII16x")  # name, virtual size, virtual address, raw size, raw pointer
MACHINES = (0x8664, 0xAA64, 0x5064)  # IMAGE_FILE_MACHINE_AMD64, ARM64, RISCV64
TEXT_MAX = 1 << 16  # .cmdline and .osrel are texts


def matches(data: memoryview) -> bool:
    """Whether it is a PE file (a bzImage, an Image and EFI zboot are such too: ask there first)."""
    return data[:2] == MAGIC


def parse(
    data: memoryview, path: str | os.PathLike[str], inside: Callable[[memoryview, str], KernelImage]
) -> KernelImage:
    """Read the sections, and the kernel in .linux by `inside`. Raises FormatError."""
    found = sections(data, path)
    if ".linux" not in found:
        raise FormatError(
            "a PE file without a kernel (.linux)", path=path, why=f"it has {', '.join(found) or 'nothing'}"
        )
    kernel = inside(found[".linux"], f"{os.fspath(path)}:.linux")
    return kernel._replace(
        kind="unified kernel image",
        initrd=found.get(".initrd"),
        cmdline=_text(found, ".cmdline"),
        os_release=_text(found, ".osrel"),
    )


def sections(data: memoryview, path: str | os.PathLike[str] = "") -> dict[str, memoryview]:
    """Sections by name, as views. Raises FormatError for what lies outside the file."""

    def fail(what: str, offset: int, field: str) -> FormatError:
        return FormatError(what, path=path, offset=offset, field=field, remedy="the file is damaged; build it again")

    if len(data) < PE_POINTER_AT + 4:
        raise fail("the PE file is truncated", len(data), "e_lfanew")
    (at,) = struct.unpack_from("<I", data, PE_POINTER_AT)
    if at + 4 + COFF.size > len(data) or data[at : at + 4] != PE_MAGIC:
        raise fail("no PE header", at, "signature")
    machine, count, _, _, _, optional, _ = COFF.unpack_from(data, at + 4)
    if machine not in MACHINES:
        raise fail(f"a PE file of another architecture ({machine:#x})", at + 4, "machine")
    table = at + 4 + COFF.size + optional
    if table + count * SECTION.size > len(data):
        raise fail("the section table lies outside the file", table, "sections")
    found: dict[str, memoryview] = {}
    for index in range(count):
        raw, virtual_size, _, raw_size, pointer = SECTION.unpack_from(data, table + index * SECTION.size)
        name = raw.rstrip(b"\0").decode("ascii", "replace")
        size = min(virtual_size, raw_size) if virtual_size else raw_size
        if size and pointer + size > len(data):
            raise fail(f"section {name} lies outside the file", pointer, name)
        found.setdefault(name, data[pointer : pointer + size])
    return found


def _text(found: dict[str, memoryview], name: str) -> str | None:
    if name not in found:
        return None
    return bytes(found[name][:TEXT_MAX]).rstrip(b"\0").decode("utf-8", "replace").strip()
