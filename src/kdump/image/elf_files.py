"""Facts from ELF files for the image builder: needed libraries, the interpreter, sections.

A shared library is found the way ld.so(8) finds it: DT_RPATH (without DT_RUNPATH), DT_RUNPATH, /etc/ld.so.conf's
directories, then the default ones. Nothing is executed. Source: the System V gABI, elf.h, ld.so(8).
"""

from __future__ import annotations

import contextlib
import functools
import glob
import mmap
import os
import struct
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdump import arch
from kdump.elf import (
    DT_NEEDED,
    DT_NULL,
    DT_RPATH,
    DT_RUNPATH,
    DT_SONAME,
    DT_STRTAB,
    DYN,
    EHDR,
    IDENT,
    MAGIC,
    PHDR,
    PT_DYNAMIC,
    PT_INTERP,
    PT_LOAD,
    SHDR,
    SYM,
)  # fmt: skip
from kdump.errors import FormatError, KdumpError
from kdump.files.drafts import file_version

_DEFAULT_DIRECTORIES = ("/lib", "/usr/lib", "/lib64", "/usr/lib64")
_MACHINES = {each.elf_machine: each.name for each in arch.known()}


@dataclass(frozen=True)
class Elf:
    """The loadable view of one ELF file."""

    path: Path
    machine: str
    programs: tuple[tuple[int, ...], ...]
    interpreter: str
    needed: tuple[str, ...]
    soname: str
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]


def is_elf(data: bytes | mmap.mmap) -> bool:
    """Does it start like an ELF file?"""
    return data[:4] == MAGIC


def parse(path: Path, data: bytes | None = None) -> Elf:
    """Read headers and the dynamic section. FormatError if it is not a 64-bit little-endian ELF file."""
    return _parse_file(path, file_version(path)) if data is None else _parse(path, data)


@functools.lru_cache(maxsize=512)
def _parse_file(path: Path, _version: tuple[int, ...]) -> Elf:
    with _mapped(path) as data:
        return _parse(path, data)


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[bytes | mmap.mmap]:
    """A file's content, of which only a part is looked at."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _parse(path: Path, data: bytes | mmap.mmap) -> Elf:
    header = _header(data, path)
    programs = tuple(_table(data, PHDR, (header[5], header[9], header[10]), path))
    dynamic: dict[int, list[int]] = {}
    interpreter = ""
    for kind, _, start, _, _, size, *_ in programs:
        if kind == PT_INTERP:
            interpreter = data[start : start + size].rstrip(b"\0").decode()
        elif kind == PT_DYNAMIC:
            for tag, value in DYN.iter_unpack(data[start : start + size - size % DYN.size]):
                if tag == DT_NULL:
                    break
                dynamic.setdefault(tag, []).append(value)
    table = _file_offset(programs, dynamic[DT_STRTAB][0]) if DT_STRTAB in dynamic else 0

    def strings(tag: int) -> list[str]:
        starts = (table + value for value in dynamic.get(tag, []))
        return [data[start : data.find(b"\0", start)].decode() for start in starts]

    def directories(tag: int) -> tuple[str, ...]:
        return tuple(part for value in strings(tag) for part in value.split(":") if part)

    return Elf(
        path=path,
        machine=_MACHINES.get(header[2], str(header[2])),
        programs=programs,
        interpreter=interpreter,
        needed=tuple(strings(DT_NEEDED)),
        soname="".join(strings(DT_SONAME)[:1]),
        rpath=directories(DT_RPATH),
        runpath=directories(DT_RUNPATH),
    )


def _header(data: bytes | mmap.mmap, path: str | os.PathLike[str]) -> tuple[Any, ...]:
    """The fields of the ELF header. Raises FormatError if this is not a 64-bit little-endian ELF file."""
    if not is_elf(data) or data[4:6] != IDENT[4:6] or len(data) < EHDR.size:
        raise FormatError("not a 64-bit little-endian ELF file", path=path, offset=0)
    return EHDR.unpack_from(data)


def _table(
    data: bytes | mmap.mmap, layout: struct.Struct, place: tuple[int, int, int], path: str | os.PathLike[str]
) -> list[tuple[int, ...]]:
    """The entries of a table of headers; `place` is its offset, the size of an entry, and their number.

    Raises FormatError if it lies outside the file.
    """
    offset, entry, count = place
    if count and (entry < layout.size or offset + entry * count > len(data)):
        raise FormatError("a table of headers lies outside the file", path=path, offset=offset)
    return [layout.unpack_from(data, offset + number * entry) for number in range(count)]


def _file_offset(programs: Iterable[tuple[int, ...]], address: int) -> int:
    for kind, _, offset, start, _, size, *_ in programs:
        if kind == PT_LOAD and start <= address < start + size:
            return address - start + offset
    return 0


def section(data: bytes | mmap.mmap, name: str, path: str | os.PathLike[str] = "") -> bytes | None:
    """The content of the section of that name, or None.

    Raises FormatError for an ELF file of another kind (32-bit, big-endian) and for one that is damaged.
    """
    if not is_elf(data):
        return None
    header = _header(data, path)
    count, names = header[12], header[13]
    sections = _table(data, SHDR, (header[6], header[11], count), path)
    if names >= count:
        return None
    start = sections[names][4]
    wanted = name.encode() + b"\0"
    for item in sections:
        if data[start + item[0] : start + item[0] + len(wanted)] == wanted:
            return data[item[4] : item[4] + item[5]]
    return None


@functools.cache
def system_directories() -> tuple[str, ...]:
    """Directories of /etc/ld.so.conf (and what it includes), then the default ones."""

    def read(path: str) -> Iterator[str]:
        try:
            text = Path(path).read_text()
        except OSError:
            return
        for line in text.splitlines():
            line = line.partition("#")[0].strip()  # noqa: PLW2901
            if line.startswith("include "):
                pattern = line.removeprefix("include ").strip()
                for name in sorted(glob.glob(pattern if pattern.startswith("/") else f"/etc/{pattern}")):  # noqa: PTH207
                    yield from read(name)
            elif line:
                yield line.split("=")[0].rstrip("/")

    return tuple(dict.fromkeys([*read("/etc/ld.so.conf"), *_DEFAULT_DIRECTORIES]))


@dataclass(frozen=True)
class Symbols:
    """Names in a file's dynamic symbol table, and whether its own definitions carry versions."""

    defined: frozenset[str]
    undefined: frozenset[str]
    versioned: bool


def symbols(path: Path) -> Symbols:
    """The dynamic symbols of an ELF file that still has its section headers."""
    return _symbols(path, file_version(path))


@functools.lru_cache(maxsize=64)
def _symbols(path: Path, _version: tuple[int, ...]) -> Symbols:
    with _mapped(path) as data:
        content, strings = section(data, ".dynsym", path) or b"", section(data, ".dynstr", path) or b""
        versioned = section(data, ".gnu.version_d", path) is not None
    found: tuple[set[str], set[str]] = (set(), set())
    for name, _, _, index, _, _ in SYM.iter_unpack(content):
        if name:
            found[index == 0].add(strings[name : strings.index(b"\0", name)].decode())
    return Symbols(frozenset(found[0]), frozenset(found[1]), versioned)


def strip(data: bytes) -> bytes:
    """The file without what no segment loads: sections' headers, symbols, debug information.

    Nothing is moved, so nothing that aligns or patches a library's segments can break; a hole between segments is
    zeroed, what lies behind the last one is cut off.
    """
    header = list(EHDR.unpack_from(data))
    offset, entry, count = header[5], header[9], header[10]
    header[6] = header[11] = header[12] = header[13] = 0
    covered = [(0, EHDR.size), (offset, offset + entry * count)]
    for number in range(count):
        kind, _, start, _, _, size, *_ = PHDR.unpack_from(data, offset + number * entry)
        if kind == PT_LOAD:
            covered.append((start, start + size))
    result = bytearray(max(end for _, end in covered))
    for start, end in covered:
        result[start:end] = data[start:end]
    EHDR.pack_into(result, 0, *header)
    return bytes(result)


def resolve(
    files: Iterable[Elf], provided: Container[str] = (), directories: Sequence[str] | None = None
) -> dict[str, Path]:
    """Every shared library that these ELF files need, transitively: the name it is asked for by, and its file here.

    As in a running process, a name is looked for once, whoever needs it. Names in `provided` are taken care of
    elsewhere. `directories` are searched instead of this system's (the files are another's). KdumpError names a library
    that is not found and who needs it.
    """
    found: dict[str, Path] = {}
    pending: list[tuple[Elf, tuple[str, ...]]] = [(elf, ()) for elf in files]
    while pending:
        elf, inherited = pending.pop(0)
        rpath = (*(() if elf.runpath else _expand(elf, elf.rpath)), *inherited)
        for name in elf.needed:
            if name not in found and name not in provided:
                found[name] = _search(elf, name, rpath, system_directories() if directories is None else directories)
                pending.append((parse(found[name]), rpath))
    return found


def _expand(elf: Elf, directories: Iterable[str]) -> Iterator[str]:
    origin = str(elf.path.resolve().parent)
    for directory in directories:
        yield directory.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)


def _search(elf: Elf, name: str, rpath: Iterable[str], directories: Sequence[str]) -> Path:
    places = [*rpath, *_expand(elf, elf.runpath), *directories]
    for path in [Path(name)] if "/" in name else [Path(place, name) for place in places]:
        if path.is_file() and parse(path).machine == elf.machine:
            return path
    raise KdumpError(f"the library {name} was not found", why=f"{elf.path} needs it")
