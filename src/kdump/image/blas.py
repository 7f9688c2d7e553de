"""Stands in for NumPy's linear algebra library in the capture image.

The capture path never multiplies matrices, yet NumPy is linked against OpenBLAS: 28 MB of files with its Fortran
run-time, and threads and buffers at start-up. The stand-in is a shared object of a few kilobytes, made here, that
defines exactly the functions that NumPy's own extension modules take from the library. A call ends the process with a
message (SIGILL), except for the dot products of real vectors, which work: importing NumPy tries one.

Source of the format: the System V gABI; of the calling conventions: `kdump.arch`.
"""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from kdump import arch, elf
from kdump.arch.stand_in import MESSAGE, StandIn
from kdump.elf import DYN, EHDR, PHDR, PT_DYNAMIC, PT_LOAD, SYM
from kdump.image.elf_files import parse, symbols

_LIBRARIES = re.compile(r"lib(scipy_)?(openblas|blas|cblas|lapack|flexiblas)\w*(-\w+)*\.so[.\d]*")
_DOT = re.compile(r"(?:scipy_)?cblas_([sd])dot(64_)?")
_GLOBAL_FUNCTION = 0x12
_DEFINED = 1  # any section index but 0, which means undefined; there are no sections


def _code_of(machine: str) -> StandIn | None:
    return next((each.blas_stand_in() for each in arch.known() if each.name == machine), None)


def can_replace(name: str, library: Path, users: Sequence[Path]) -> bool:
    """Is this a linear algebra library that only NumPy uses, and for which the stand-in serves?

    `users` are the files that need it directly. Where symbols carry versions the real library stays.
    """
    if not _LIBRARIES.fullmatch(name) or not _code_of(parse(library).machine):
        return False
    only_numpy = bool(users) and all("numpy" in path.parts for path in users)
    return only_numpy and not symbols(library).versioned


def stand_in(name: str, library: Path, users: Iterable[Path]) -> bytes:
    """A shared object for `name` defining what `users` (NumPy's extension modules) take from `library`."""
    wanted = {symbol for user in users for symbol in symbols(user).undefined}
    return _shared_object(name, sorted(wanted & symbols(library).defined), parse(library).machine)


def serves(name: str, library: Path, user: Path) -> bool:
    """Whether the NumPy that `user` belongs to imports with a stand-in: some versions multiply matrices for a check.

    All of NumPy is imported, so the stand-in has what all of NumPy takes. The loader prefers a library that is there
    already, by its name, to the one that NumPy brings.
    """
    package = next(parent for parent in user.parents if parent.name == "numpy")
    users = [path for path in package.rglob("*.so") if name in parse(path).needed]
    code = f"import sys; sys.path.insert(0, {str(package.parent)!r}); import numpy"
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(stand_in(name, library, users))
        file.flush()
        command = [sys.executable, "-ISBc", code]
        done = subprocess.run(command, env={"LD_PRELOAD": file.name}, capture_output=True, timeout=60, check=False)
    return done.returncode == 0


def _code(names: list[str], own: StandIn) -> tuple[bytes, list[int]]:
    """The machine code, and where in it each function starts."""
    code = bytearray((own.die + MESSAGE).ljust(-(-len(own.die + MESSAGE) // 4) * 4, b"\0"))
    starts = []
    for name in names:
        if found := _DOT.fullmatch(name):
            starts.append(len(code))
            code += (b"" if found[2] else own.widen) + own.dot[found[1]]
        else:
            starts.append(0)
    return bytes(code), starts


def _shared_object(soname: str, names: list[str], machine: str) -> bytes:
    own = _code_of(machine)
    assert own  # else nothing is replaced
    page = own.page
    code, starts = _code(names, own)
    strings = bytearray(b"\0")
    offsets = []
    for text in [soname, *names]:
        offsets.append(len(strings))
        strings += text.encode() + b"\0"
    # One hash bucket (gABI): nbucket, nchain, the bucket, then the chain through all symbols.
    count = len(names) + 1
    table = struct.pack(f"<3I{count}I", 1, count, 1 if names else 0, 0, *range(2, count), *([0] if names else []))
    headers = EHDR.size + 4 * PHDR.size
    hash_start = headers
    symbol_start = hash_start + len(table) + -len(table) % 8
    string_start = symbol_start + SYM.size * count
    code_start = -(-(string_start + len(strings)) // 16) * 16
    records = [SYM.pack(0, 0, 0, 0, 0, 0)]
    for offset, start in zip(offsets[1:], starts, strict=True):
        records.append(SYM.pack(offset, _GLOBAL_FUNCTION, 0, _DEFINED, code_start + start, 0))
    end = code_start + len(code)
    dynamic_start = -(-end // page) * page
    entries = [
        (elf.DT_SONAME, offsets[0]),
        (elf.DT_HASH, hash_start),
        (elf.DT_STRTAB, string_start),
        (elf.DT_SYMTAB, symbol_start),
        (elf.DT_STRSZ, len(strings)),
        (elf.DT_SYMENT, SYM.size),
        (elf.DT_NULL, 0),
    ]
    dynamic = b"".join(DYN.pack(tag, value) for tag, value in entries)
    read, write, execute = elf.PF_R, elf.PF_W, elf.PF_X
    programs = [
        (PT_LOAD, read | execute, 0, 0, 0, end, end, page),
        (PT_LOAD, read | write, dynamic_start, dynamic_start, dynamic_start, len(dynamic), len(dynamic), page),
        (PT_DYNAMIC, read | write, dynamic_start, dynamic_start, dynamic_start, len(dynamic), len(dynamic), 8),
        (elf.PT_GNU_STACK, read | write, 0, 0, 0, 0, 0, 16),
    ]
    result = bytearray(dynamic_start + len(dynamic))
    head = (
        elf.IDENT,
        elf.ET_DYN,
        arch.by_machine(machine).elf_machine,
        1,
        0,
        EHDR.size,
        0,
        0,
        EHDR.size,
        PHDR.size,
        len(programs),
        0,
        0,
        0,
    )
    EHDR.pack_into(result, 0, *head)
    for number, program in enumerate(programs):
        PHDR.pack_into(result, EHDR.size + number * PHDR.size, *program)
    for start, part in (
        (hash_start, table),
        (symbol_start, b"".join(records)),
        (string_start, strings),
        (code_start, code),
        (dynamic_start, dynamic),
    ):
        result[start : start + len(part)] = part
    return bytes(result)
