"""boot_params, the page of facts that an x86 kernel is started with, and what hangs on it.

Source: arch/x86/include/uapi/asm/bootparam.h (struct boot_params, setup_header), setup_data.h, Documentation/arch/x86/
zero-page.rst; what a kernel passes on to the next one: arch/x86/kernel/kexec-bzimage64.c.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kdump.errors import KdumpError, reason
from kdump.kexec.formats.kernel_image import SETUP_HEADER, KernelImage
from kdump.kexec.memory_map import E820_RAM, Entry
from kdump.memory.protocol import Range

SIZE = 4096

# Offsets in struct boot_params.
SCREEN_INFO = Range(0x000, 0x040)
ACPI_RSDP = 0x070
EXT_RAMDISK_IMAGE, EXT_RAMDISK_SIZE, EXT_CMD_LINE_PTR = 0x0C0, 0x0C4, 0x0C8
EDID_INFO = Range(0x140, 0x1C0)
EFI_INFO = 0x1C0
ALT_MEM_K = 0x1E0
E820_ENTRIES, EDD_ENTRIES, EDD_SIGNATURES = 0x1E8, 0x1E9, 0x1EA
SECURE_BOOT = 0x1EC
EDD_SIGNATURE_BUFFER = Range(0x290, 0x2D0)
E820_TABLE, E820_MAX = 0x2D0, 128
EDD_BUFFER = Range(0xD00, 0xEEC)

# Offsets of setup_header's fields, in boot_params as in a bzImage.
BOOT_FLAG, HEADER_MAGIC, VERSION = 0x1FE, 0x202, 0x206
TYPE_OF_LOADER, LOADFLAGS = 0x210, 0x211
RAMDISK_IMAGE, RAMDISK_SIZE, CMD_LINE_PTR = 0x218, 0x21C, 0x228
HARDWARE_SUBARCH, SETUP_DATA = 0x23C, 0x250

LOADER_UNDEFINED = 0xFF  # type_of_loader: no number assigned
OWN_HEADER_VERSION = 0x020F  # for a vmlinux, which brings no header

E820_ENTRY = struct.Struct("<QQI")  # struct boot_e820_entry
SETUP_DATA_HEAD = struct.Struct("<QII")  # struct setup_data: next, type, length
SETUP_E820_EXT, SETUP_EFI, SETUP_RNG_SEED = 1, 4, 9
RNG_SEED_LENGTH = 32  # arch/x86/include/asm/setup_data.h
# struct efi_info: loader signature, systab, memdesc size and version, memmap, its size, high halves of both addresses
EFI_INFO_FIELDS = struct.Struct("<4sIIIIIII")
EFI_SIGNATURE = b"EL64"
EFI_MEMDESC = struct.Struct("<IIQQQQ")  # efi_memory_desc_t: type, pad, physical, virtual, pages, attribute
EFI_SETUP_DATA = struct.Struct("<QQQQ64x")  # struct efi_setup_data: fw_vendor, unused, tables, smbios


class Efi(NamedTuple):
    """The data with which a kernel can go on using EFI runtime services that another kernel has mapped: see
    `read_efi`."""

    systab: int
    fw_vendor: int
    tables: int
    smbios: int
    memdesc_version: int
    memory_map: bytes


class Platform(NamedTuple):
    """Facts about the machine that the running kernel passes on to the next one."""

    boot_params: bytes  # the running kernel's own, or zeros where it does not show them
    acpi_rsdp: int
    efi: Efi | None


def read_platform(root: Path = Path("/")) -> Platform:
    """Read the running kernel's boot_params, the ACPI root pointer and the state of EFI under `root`."""
    try:
        params = (root / "sys/kernel/boot_params/data").read_bytes()[:SIZE].ljust(SIZE, b"\0")
    except OSError:
        params = bytes(SIZE)  # not x86, or hidden: the next kernel finds ACPI by itself on a BIOS machine
    systab = _systab(root)
    rsdp = struct.unpack_from("<Q", params, ACPI_RSDP)[0] or systab.get("ACPI20", 0) or systab.get("ACPI", 0)
    return Platform(params, rsdp, read_efi(root, params, systab))


def read_efi(root: Path, params: bytes, systab: dict[str, int]) -> Efi | None:
    """EFI's runtime map and addresses from sysfs; None on a machine, or a kernel, without runtime services."""
    firmware = root / "sys/firmware/efi"
    signature, low, _, version, *_, high, _ = EFI_INFO_FIELDS.unpack_from(params, EFI_INFO)
    entries = sorted((firmware / "runtime-map").glob("[0-9]*"), key=lambda path: int(path.name))
    if signature != EFI_SIGNATURE or not entries:
        return None
    try:
        names = ("type", "phys_addr", "virt_addr", "num_pages", "attribute")
        memory_map = b"".join(
            EFI_MEMDESC.pack(kind, 0, physical, virtual, count, attribute)
            for kind, physical, virtual, count, attribute in (
                [int((entry / name).read_text(), 0) for name in names] for entry in entries
            )
        )
        return Efi(
            systab=low | high << 32,
            fw_vendor=int((firmware / "fw_vendor").read_text(), 0),
            tables=int((firmware / "config_table").read_text(), 0),
            smbios=systab.get("SMBIOS", 0),
            memdesc_version=version,
            memory_map=memory_map,
        )
    except (OSError, ValueError) as error:
        raise KdumpError(
            "cannot read the state of EFI", why=reason(error), remedy="boot the new kernel with noefi"
        ) from None


def _systab(root: Path) -> dict[str, int]:
    """/sys/firmware/efi/systab: NAME=address lines."""
    try:
        lines = (root / "sys/firmware/efi/systab").read_text().split()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines)
    return {name: int(value, 16) for name, _, value in pairs if value.startswith("0x")}


def build(
    address: int,
    kernel: KernelImage,
    cmdline: str,
    *,
    initrd: Range | None,
    e820: Sequence[Entry],
    platform: Platform,
) -> bytes:
    """boot_params for `kernel` at physical `address`, followed by the command line, setup_data and the EFI map."""
    block = bytearray(SIZE)
    running = platform.boot_params
    for part in (SCREEN_INFO, EDID_INFO, EDD_SIGNATURE_BUFFER, EDD_BUFFER):
        block[part.start : part.end] = running[part.start : part.end]
    for offset in (EDD_ENTRIES, EDD_SIGNATURES, SECURE_BOOT):
        block[offset] = running[offset]
    _put_header(block, kernel, running)
    struct.pack_into("<Q", block, ACPI_RSDP, platform.acpi_rsdp)

    cmdline_at = address + len(block)
    block += cmdline.encode() + b"\0"
    struct.pack_into("<I", block, CMD_LINE_PTR, cmdline_at & 0xFFFFFFFF)
    struct.pack_into("<I", block, EXT_CMD_LINE_PTR, cmdline_at >> 32)
    if initrd:
        struct.pack_into("<II", block, RAMDISK_IMAGE, initrd.start & 0xFFFFFFFF, initrd.size & 0xFFFFFFFF)
        struct.pack_into("<II", block, EXT_RAMDISK_IMAGE, initrd.start >> 32, initrd.size >> 32)

    _put_e820(block, address, e820)
    if platform.efi:
        _put_efi(block, address, platform.efi)
    _add_setup_data(block, address, SETUP_RNG_SEED, os.urandom(RNG_SEED_LENGTH))
    return bytes(block)


def _put_header(block: bytearray, kernel: KernelImage, running: bytes) -> None:
    if kernel.setup_header:
        block[SETUP_HEADER : SETUP_HEADER + len(kernel.setup_header)] = kernel.setup_header
    else:
        block[BOOT_FLAG : BOOT_FLAG + 2] = b"\x55\xaa"
        block[HEADER_MAGIC : HEADER_MAGIC + 4] = b"HdrS"
        struct.pack_into("<H", block, VERSION, OWN_HEADER_VERSION)
    block[TYPE_OF_LOADER] = LOADER_UNDEFINED
    block[LOADFLAGS] = 0
    struct.pack_into("<Q", block, SETUP_DATA, 0)
    block[HARDWARE_SUBARCH : HARDWARE_SUBARCH + 4] = running[HARDWARE_SUBARCH : HARDWARE_SUBARCH + 4]


def _put_e820(block: bytearray, address: int, entries: Sequence[Entry]) -> None:
    packed = [E820_ENTRY.pack(entry.range.start, entry.range.size, entry.type) for entry in entries]
    block[E820_ENTRIES] = min(len(packed), E820_MAX)
    table = b"".join(packed[:E820_MAX])
    block[E820_TABLE : E820_TABLE + len(table)] = table
    if len(packed) > E820_MAX:
        _add_setup_data(block, address, SETUP_E820_EXT, b"".join(packed[E820_MAX:]))
    above = [
        entry.range for entry in entries if entry.type == E820_RAM and entry.range.start <= 1 << 20 < entry.range.end
    ]
    if above:  # what BIOS calls once answered: KiB of RAM above the first MiB
        struct.pack_into("<I", block, ALT_MEM_K, min((above[0].end - (1 << 20)) >> 10, 0xFFFFFFFF))


def _put_efi(block: bytearray, address: int, efi: Efi) -> None:
    block += bytes(-len(block) % 16)
    memmap = address + len(block)
    block += efi.memory_map
    EFI_INFO_FIELDS.pack_into(
        block, EFI_INFO, EFI_SIGNATURE, efi.systab & 0xFFFFFFFF, EFI_MEMDESC.size, efi.memdesc_version,
        memmap & 0xFFFFFFFF, len(efi.memory_map), efi.systab >> 32, memmap >> 32,
    )  # fmt: skip
    setup = EFI_SETUP_DATA.pack(efi.fw_vendor, 0, efi.tables, efi.smbios)
    _add_setup_data(block, address, SETUP_EFI, setup)


def _add_setup_data(block: bytearray, address: int, kind: int, data: bytes) -> None:
    """Append a node and put it at the head of the list."""
    block += bytes(-len(block) % 16)
    (following,) = struct.unpack_from("<Q", block, SETUP_DATA)
    struct.pack_into("<Q", block, SETUP_DATA, address + len(block))
    block += SETUP_DATA_HEAD.pack(following, kind, len(data)) + data
