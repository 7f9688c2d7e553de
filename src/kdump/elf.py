"""Layouts and numbers of ELF64, little endian unless said: every reader and writer of such files takes them from here.

Source: the System V gABI, chapters 4 (header, PN_XNUM, sections, symbols) and 5 (program header, notes, dynamic
section); elf.h for the machines.
"""

from __future__ import annotations

import struct
from typing import Final

MAGIC: Final[bytes] = b"\x7fELF"
IDENT: Final[bytes] = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # e_ident: 64-bit, little endian, version 1
CLASS_64: Final = 2  # e_ident[4]
LITTLE_ENDIAN, BIG_ENDIAN = 1, 2  # e_ident[5]

# ident, type, machine, version, entry, phoff, shoff, flags, ehsize, phentsize, phnum, shentsize, shnum, shstrndx
EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR: Final = struct.Struct("<IIQQQQQQ")  # type, flags, offset, vaddr, paddr, filesz, memsz, align
SHDR: Final = struct.Struct("<IIQQQQIIQQ")  # name, type, flags, addr, offset, size, link, info, addralign, entsize
SYM: Final = struct.Struct("<IBBHQQ")  # name, info, other, section index, value, size
DYN: Final = struct.Struct("<qQ")  # tag, value
NHDR: Final = struct.Struct("<III")  # namesz, descsz, type
SH_INFO: Final = 44  # offset of sh_info: the number of program headers where e_phnum is PN_XNUM


def big_endian(layout: struct.Struct) -> struct.Struct:
    """The same layout with its numbers in the other order."""
    return struct.Struct(">" + layout.format[1:])


ET_EXEC, ET_DYN, ET_CORE = 2, 3, 4
EM_PPC64, EM_S390, EM_X86_64, EM_AARCH64, EM_RISCV = 21, 22, 62, 183, 243
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE = 1, 2, 3, 4
PT_GNU_STACK = 0x6474E551
PN_XNUM = 0xFFFF
PF_X, PF_W, PF_R = 1, 2, 4
NT_PRSTATUS = 1  # of notes named CORE
DT_NULL, DT_NEEDED, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT = 0, 1, 4, 5, 6, 10, 11
DT_SONAME, DT_RPATH, DT_RUNPATH = 14, 15, 29
