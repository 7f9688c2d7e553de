"""Writes an executable ELF file of sections and symbols (the System V gABI, chapter 4)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kdump import elf
from kdump.files.drafts import pwrite_all

_PROGBITS, _SYMTAB, _STRTAB, _NOTE, _NOBITS = 1, 2, 3, 7, 8
_WRITE, _ALLOC, _EXECUTE, _MERGE, _STRINGS = 1, 2, 4, 0x10, 0x20
_ABSOLUTE = 0xFFF1
_ALIGN = 4096
_OBJECT, _FUNCTION, _SECTION = 1, 2, 3
_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)


class Section(NamedTuple):
    """A section. With `size` it is memory at `address`; without `data` then, its content is not in the file.

    It has a segment of its own, unless `segment` is false.
    """

    name: str
    data: bytes
    address: int = 0
    size: int = 0
    code: bool = False
    write: bool = False
    strings: bool = False
    note: bool = False
    segment: bool = True

    @property
    def allocated(self) -> bool:
        """Whether it is part of the program's memory."""
        return self.size > 0


class SymbolRow(NamedTuple):
    """A symbol of the file."""

    name: str
    address: int
    size: int
    function: bool
    external: bool


def write(sections: list[Section], symbols: list[SymbolRow], machine: int, descriptor: int) -> int:
    """Write the file through a descriptor; its size in bytes."""
    table, strings, local = _symbols(sections, symbols)
    names = bytearray(b"\0")
    loads = [section for section in sections if (section.allocated and section.segment) or section.note]
    offset = elf.EHDR.size + elf.PHDR.size * len(loads)
    headers, programs = [elf.SHDR.pack(*(0,) * 10)], []

    def header(name: str, kind: int, flags: int, address: int, size: int, *rest: int) -> None:
        headers.append(elf.SHDR.pack(len(names), kind, flags, address, offset, size, *rest))
        names.extend(name.encode() + b"\0")

    for section in sections:
        if section.data and section.allocated:
            offset = -(-offset // _ALIGN) * _ALIGN + section.address % _ALIGN
        else:
            offset = -(-offset // 8) * 8
        size = section.size or len(section.data)
        kind = _NOTE if section.note else _PROGBITS if section.data else _NOBITS
        flags = section.write * _WRITE | section.allocated * _ALLOC | section.code * _EXECUTE
        flags |= section.strings * (_MERGE | _STRINGS)
        header(section.name, kind, flags, section.address, size, 0, 0, 8 if section.note else 1, int(section.strings))
        if section in loads:
            mode = elf.PF_R | section.write * elf.PF_W | section.code * elf.PF_X
            programs.append(
                elf.PHDR.pack(
                    elf.PT_NOTE if section.note else elf.PT_LOAD, mode, offset, section.address, section.address,
                    len(section.data), size, 4 if section.note else _ALIGN,
                )
            )  # fmt: skip
        pwrite_all(descriptor, section.data, offset)
        offset += len(section.data)
    offset = -(-offset // 8) * 8
    header(".symtab", _SYMTAB, 0, 0, len(table), len(headers) + 1, local, 8, elf.SYM.size)
    pwrite_all(descriptor, table, offset)
    offset += len(table)
    header(".strtab", _STRTAB, 0, 0, len(strings), 0, 0, 1, 0)
    pwrite_all(descriptor, strings, offset)
    offset += len(strings)
    size = len(names) + len(".shstrtab") + 1
    header(".shstrtab", _STRTAB, 0, 0, size, 0, 0, 1, 0)
    pwrite_all(descriptor, bytes(names), offset)
    offset = -(-(offset + size) // 8) * 8
    pwrite_all(descriptor, b"".join(headers), offset)
    entry = next((section.address for section in sections if section.code), 0)
    head = elf.EHDR.pack(
        elf.IDENT, elf.ET_EXEC, machine, 1, entry, elf.EHDR.size, offset, 0, elf.EHDR.size, elf.PHDR.size,
        len(programs), elf.SHDR.size, len(headers), len(headers) - 1,
    )  # fmt: skip
    pwrite_all(descriptor, head + b"".join(programs), 0)
    return offset + len(headers) * elf.SHDR.size


def _symbols(sections: list[Section], symbols: list[SymbolRow]) -> tuple[bytes, bytes, int]:
    """.symtab (locals first, as the format wants), .strtab, and the index of the first global symbol."""
    ordered = sorted(symbols, key=lambda symbol: symbol.external)
    strings = bytearray(b"\0")
    known: dict[str, int] = {}
    offsets = []
    for symbol in ordered:
        place = known.get(symbol.name)
        if place is None:
            place = known[symbol.name] = len(strings)
            strings += symbol.name.encode("utf-8", "replace") + b"\0"
        offsets.append(place)
    table = np.zeros(len(ordered) + 1, _SYMBOL)
    rows = table[1:]
    rows["name"] = offsets
    rows["value"] = np.array([symbol.address for symbol in ordered], np.uint64)
    rows["size"] = np.array([symbol.size for symbol in ordered], np.uint64)
    external = np.array([symbol.external for symbol in ordered], np.uint8)
    function = np.array([symbol.function for symbol in ordered], np.bool_)
    rows["info"] = external << 4 | np.where(function, _FUNCTION, _OBJECT).astype(np.uint8)
    rows["section"] = _ABSOLUTE
    marks = np.zeros(sum(section.allocated for section in sections), _SYMBOL)  # crash finds .rodata by its symbol
    for number, section in enumerate(sections, 1):
        if section.allocated:
            start, end = np.uint64(section.address), np.uint64(section.address + section.size)
            rows["section"][(rows["value"] >= start) & (rows["value"] <= end) & (rows["section"] == _ABSOLUTE)] = number
    allocated = [(number, section) for number, section in enumerate(sections, 1) if section.allocated]
    marks["info"] = _SECTION
    marks["section"] = [number for number, _ in allocated]
    marks["value"] = np.array([section.address for _, section in allocated], np.uint64)
    local = int(np.count_nonzero(external == 0)) + 1 + len(marks)
    return table[:1].tobytes() + marks.tobytes() + rows.tobytes(), bytes(strings), local
