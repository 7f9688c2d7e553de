"""Stands in for NumPy's linear algebra library in the capture image.

The capture path never multiplies matrices, yet NumPy is linked against OpenBLAS: 28 MB of files with its Fortran
run-time, and threads and buffers at start-up. The stand-in is a shared object of a few kilobytes, made here, that
defines exactly the functions that NumPy's own extension modules take from the library. A call ends the process with a
message (SIGILL), except for the dot products of real vectors, which work: importing NumPy tries one.

Source of the format: the System V gABI; of the calling conventions: the System V psABI for x86_64, AAPCS64.
"""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kdump import elf
from kdump.elf import DYN, EHDR, PHDR, PT_DYNAMIC, PT_LOAD, SYM
from kdump.image.elf_files import parse, symbols

_LIBRARIES = re.compile(r"lib(scipy_)?(openblas|blas|cblas|lapack|flexiblas)\w*(-\w+)*\.so[.\d]*")
_DOT = re.compile(r"(?:scipy_)?cblas_([sd])dot(64_)?")
_GLOBAL_FUNCTION = 0x12
_DEFINED = 1  # any section index but 0, which means undefined; there are no sections
_ELF_MACHINES = {"x86_64": elf.EM_X86_64, "aarch64": elf.EM_AARCH64}
_MESSAGE = b"kdump: the capture image has no linear algebra library (BLAS), and something called it\n"


class _Code(NamedTuple):
    """Machine code of one architecture: of dot products by BLAS's letter for the type, of what makes their integers 64
    bits wide first, of what writes the message that stands behind it and ends the process; and the largest page."""

    dot: Mapping[str, bytes]
    widen: bytes
    die: bytes
    page: int


_CODE = {
    # Arguments of dot: n rdi, x rsi, increment of x rdx, y rcx, increment of y r8; the result in xmm0.
    "x86_64": _Code(
        dot={
            "s": bytes.fromhex(
                "0f57c0"  # xorps xmm0, xmm0
                "4885ff"  # test rdi, rdi
                "7e19"  # jle end
                "f30f100e"  # next: movss xmm1, [rsi]
                "f30f5909"  # mulss xmm1, [rcx]
                "f30f58c1"  # addss xmm0, xmm1
                "488d3496"  # lea rsi, [rsi + 4*rdx]
                "4a8d0c81"  # lea rcx, [rcx + 4*r8]
                "48ffcf"  # dec rdi
                "75e7"  # jnz next
                "c3"  # end: ret
            ),
            "d": bytes.fromhex(
                "0f57c0"
                "4885ff"
                "7e19"
                "f20f100e"  # the same with movsd, mulsd, addsd and steps of 8 bytes
                "f20f5909"
                "f20f58c1"
                "488d34d6"
                "4a8d0cc1"
                "48ffcf"
                "75e7"
                "c3"
            ),
        },
        widen=bytes.fromhex("4863ff4863d24d63c0"),  # movsxd rdi, edi; rdx, edx; r8, r8d
        die=b"".join(
            (
                bytes.fromhex("b801000000"),  # mov eax, 1: write(2)
                bytes.fromhex("bf02000000"),  # mov edi, 2
                bytes.fromhex("488d3509000000"),  # lea rsi, [rip + 9]: the message, behind this code
                b"\xba" + struct.pack("<I", len(_MESSAGE)),  # mov edx, its length
                bytes.fromhex("0f05"),  # syscall
                bytes.fromhex("0f0b"),  # ud2
            )
        ),
        page=0x1000,
    ),
    # Arguments of dot: n x0, x x1, increment of x x2, y x3, increment of y x4; the result in s0 or d0.
    "aarch64": _Code(
        dot={
            "s": struct.pack(
                "<13I",
                0x2F00E400,  # movi d0, #0
                0xF100001F,  # cmp x0, #0
                0x5400014D,  # b.le end
                0xD37EF442,  # lsl x2, x2, #2
                0xD37EF484,  # lsl x4, x4, #2
                0xBD400021,  # next: ldr s1, [x1]
                0xBD400062,  # ldr s2, [x3]
                0x1F020020,  # fmadd s0, s1, s2, s0
                0x8B020021,  # add x1, x1, x2
                0x8B040063,  # add x3, x3, x4
                0xF1000400,  # subs x0, x0, #1
                0x54FFFF41,  # b.ne next
                0xD65F03C0,  # end: ret
            ),
            "d": struct.pack(
                "<13I",
                0x2F00E400,
                0xF100001F,
                0x5400014D,
                0xD37DF042,  # the same with d1, d2 and steps of 8 bytes
                0xD37DF084,
                0xFD400021,
                0xFD400062,
                0x1F420020,
                0x8B020021,
                0x8B040063,
                0xF1000400,
                0x54FFFF41,
                0xD65F03C0,
            ),
        },
        widen=struct.pack("<3I", 0x93407C00, 0x93407C42, 0x93407C84),  # sxtw x0, w0; x2, w2; x4, w4
        die=struct.pack(
            "<6I",
            0xD2800040,  # mov x0, #2
            0x100000A1,  # adr x1, the message, behind this code
            0xD2800002 | len(_MESSAGE) << 5,  # mov x2, its length
            0xD2800808,  # mov x8, #64: write(2)
            0xD4000001,  # svc #0
            0,  # udf #0
        ),
        page=0x10000,
    ),
}


def can_replace(name: str, library: Path, users: Sequence[Path]) -> bool:
    """Is this a linear algebra library that only NumPy uses, and for which the stand-in serves?

    `users` are the files that need it directly. Where symbols carry versions the real library stays.
    """
    if not _LIBRARIES.fullmatch(name) or parse(library).machine not in _CODE:
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


def _code(names: list[str], own: _Code) -> tuple[bytes, list[int]]:
    """The machine code, and where in it each function starts."""
    code = bytearray((own.die + _MESSAGE).ljust(-(-len(own.die + _MESSAGE) // 4) * 4, b"\0"))
    starts = []
    for name in names:
        if found := _DOT.fullmatch(name):
            starts.append(len(code))
            code += (b"" if found[2] else own.widen) + own.dot[found[1]]
        else:
            starts.append(0)
    return bytes(code), starts


def _shared_object(soname: str, names: list[str], machine: str) -> bytes:
    own = _CODE[machine]
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
        _ELF_MACHINES[machine],
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
