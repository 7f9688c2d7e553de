"""Symbols and types of a kernel whose kallsyms has only functions (built without CONFIG_KALLSYMS_ALL).

What the kernel exports to modules is in tables of its own: for each symbol where it is and where its name is, both
relative to the entry. Entries of functions that kallsyms knows show where the tables are. BTF is found by its first
bytes; its section of per-CPU variables says where each lies in the kernel's per-CPU area, and those that are exported
say where the area is.

Source: include/linux/export-internal.h, include/asm-generic/export.h before 6.4 (struct kernel_symbol with
CONFIG_HAVE_ARCH_PREL32_RELOCATIONS), include/asm-generic/vmlinux.lds.h (`__ksymtab`, `__ksymtab_gpl`, `.BTF`),
include/uapi/linux/btf.h (struct btf_header, BTF_KIND_DATASEC).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from kdump.errors import FormatError, NotPresentError
from kdump.kernel import btf
from kdump.memory.virtual import VirtualMemory

if TYPE_CHECKING:
    from kdump.kernel.kallsyms import Kallsyms
    from kdump.kernel.kernel import Kernel

_REACH = 256 << 20  # bytes from the first function on in which an image ends
_ALIGNED = 64 << 10  # an image begins at a multiple of it, a little before its first function
_STATES = 4  # of a module: enum module_state
_BTF_HEAD = b"\x9f\xeb\x01\x00\x18\x00\x00\x00"  # magic, version 1, no flags, header of 24 bytes
_PER_CPU = ".data..percpu"
_ANCHORS = ("_printk", "printk", "kfree", "register_chrdev_region", "panic", "schedule", "vfs_read")
_ENTRY = 3  # words of an entry: where it is, its name, its namespace
_NAME = re.compile(rb"[A-Za-z_.$][\w.$]{0,511}")
_MAX_ENTRIES = 1 << 17


class Piece(NamedTuple):
    """A part of the image that is mapped without holes: where it begins, and its bytes."""

    start: int
    data: memoryview


def complete(kernel: Kernel, functions: Kallsyms) -> btf.Btf | None:
    """Add to the functions what else can be found; the kernel's types, None if they are not found either."""
    info = kernel.vmcoreinfo
    functions.add(info.symbols)
    first = functions.get("_stext")
    if first is None:
        return None
    pieces = image(kernel.virtual, first & -_ALIGNED)
    functions.add(exported(pieces, functions))
    types = find_types(pieces)
    if types is None:
        return None
    functions.add(per_cpu(types, functions))
    if functions.get("modules") is None and types.has_struct("module"):
        head = module_list(pieces, kernel.virtual, types, kernel.arch.module_room(info.numbers))
        functions.add({"modules": head} if head is not None else {})
    return types


def image(virtual: VirtualMemory, first: int) -> list[Piece]:
    """The kernel's image around the address `first`: what is mapped behind it at the same distance from memory."""
    distance = first - virtual.translate(first)
    pieces = []
    for each in virtual.extents(first, _REACH):
        if each.virtual - each.physical != distance:
            continue
        try:
            pieces.append(Piece(each.virtual, virtual.view(each.virtual, each.size)))
        except (NotPresentError, FormatError):
            pieces += _readable(virtual, each.virtual, each.size)
    return pieces


def _readable(virtual: VirtualMemory, start: int, size: int) -> list[Piece]:
    """Pieces of a part of which the dump lacks pages."""
    page = virtual.memory.page_size
    held: list[bytearray] = []
    starts: list[int] = []
    for at in range(start, start + size, page):
        try:
            data = virtual.view(at, min(page, start + size - at))
        except (NotPresentError, FormatError):
            continue
        if held and starts[-1] + len(held[-1]) == at:
            held[-1] += data
        else:
            starts.append(at)
            held.append(bytearray(data))
    return [Piece(at, memoryview(data)) for at, data in zip(starts, held, strict=True)]


def find_types(pieces: list[Piece]) -> btf.Btf | None:
    """The kernel's types, None if no section in the image makes sense as such."""
    for piece in pieces:
        raw = bytes(piece.data)
        at = raw.find(_BTF_HEAD)
        while at >= 0:
            head, types_at, types_size, strings_at, strings_size = np.frombuffer(raw, "<u4", 5, at + 4).tolist()
            size = head + max(types_at + types_size, strings_at + strings_size)
            if at + size <= len(raw) and types_size and strings_size:
                try:
                    return btf.Btf(raw[at : at + size])
                except FormatError:
                    pass
            at = raw.find(_BTF_HEAD, at + 1)
    return None


def exported(pieces: list[Piece], functions: Kallsyms) -> dict[str, int]:
    """Addresses of everything that the kernel exports, by name; empty if the tables are not found."""
    for piece in pieces:
        raw = bytes(piece.data)
        words = np.frombuffer(raw, "<i4", len(raw) // 4)
        targets = np.arange(0, 4 * len(words), 4, dtype=np.int32)  # in place: the image has tens of MB
        targets += words
        for name in _ANCHORS:
            address = functions.get(name)
            if address is None:
                continue
            for entry in _entries_of(raw, targets, name, address - piece.start):
                return _table(piece.start, raw, targets, entry)
    return {}


def _entries_of(raw: bytes, targets: npt.NDArray[np.int32], name: str, value: int) -> list[int]:
    """Words at which an entry of that name and that value (relative to the piece) begins."""
    text = name.encode() + b"\0"  # the linker may have made it the end of a longer one
    at, found = raw.find(text), []
    while at >= 0:
        places = np.flatnonzero(targets == at) - 1
        found += places[(places >= 0) & (targets[places] == value)].tolist()
        at = raw.find(text, at + 1)
    return found


def _table(base: int, raw: bytes, targets: npt.NDArray[np.int32], entry: int) -> dict[str, int]:
    """All entries around one: before and behind it, as long as they have names."""
    found: dict[str, int] = {}
    for step in (_ENTRY, -_ENTRY):
        at = entry
        while 0 <= at < len(targets) - 1 and len(found) < _MAX_ENTRIES:
            name = _name(raw, int(targets[at + 1]))
            if not name:
                break
            found.setdefault(name, base + int(targets[at]) & (1 << 64) - 1)
            at += step
    return found


def _name(raw: bytes, at: int) -> str:
    """The string there, if it can be a name."""
    match = _NAME.match(raw, at) if 0 <= at < len(raw) else None
    return match[0].decode() if match and raw[match.end() : match.end() + 1] == b"\0" else ""


def per_cpu(types: btf.Btf, known: Kallsyms) -> dict[str, int]:
    """Addresses of all per-CPU variables; empty if no exported one says where they begin."""
    section = types.find(_PER_CPU, btf.DATASEC)
    if section is None:
        return {}
    offsets = dict(types.section(section))
    bases = [place - offset for name, offset in offsets.items() if (place := known.get(name)) is not None]
    if not bases:
        return {}
    base = max(set(bases), key=bases.count)
    return {name: base + offset for name, offset in offsets.items()}


def module_list(pieces: list[Piece], virtual: VirtualMemory, types: btf.Btf, room: range) -> int | None:
    """The list of modules: the only list head in the image whose first node is in a struct module of `room`."""
    layout = types.struct("module")
    list_at, name_at, state_at = layout.offset("list"), layout.offset("name"), layout.offset("state")
    first, end = (np.uint64(place) for place in (pieces[0].start, pieces[-1].start + len(pieces[-1].data)))
    for piece in pieces:
        words = np.frombuffer(piece.data, "<u8", len(piece.data) // 8)
        inside = (words >= np.uint64(room.start)) & (words < np.uint64(room.stop)) & (words & np.uint64(7) == 0)
        inside &= (words < first) | (words >= end)
        for place in np.flatnonzero(inside).tolist():
            head, node = piece.start + 8 * place, int(words[place])
            try:
                if virtual.u64(node + 8) != head or virtual.u32(node - list_at + state_at) >= _STATES:
                    continue
                if _NAME.fullmatch(virtual.cstring(node - list_at + name_at, 64)):
                    return head
            except NotPresentError:
                continue
    return None
