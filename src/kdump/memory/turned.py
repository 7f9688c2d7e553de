"""Dumps whose headers are in another byte order than the memory that they describe, as QEMU writes them.

It takes the order of headers and notes of a ppc64 machine from a register of the processor, and looks at one that a
machine of type pseries does not use: they are big-endian around the memory of a little-endian kernel.
Source: QEMU, target/ppc/arch_dump.c, cpu_get_dump_info(); ppc_interrupts_little_endian() in target/ppc/cpu.h.
"""

from __future__ import annotations

from collections.abc import Sequence

from kdump.arch import Architecture, in_dump, known
from kdump.arch.architecture import ByteOrder
from kdump.elf import NT_PRSTATUS
from kdump.errors import FormatError
from kdump.memory.protocol import Note

UNNAMED = "unknown"  # ELF_MACHINE_UNAME in QEMU's dump/dump.c, in lower case


def readable(arch: Architecture | None, order: ByteOrder) -> bool:
    """Whether headers in that order may be of a machine that is read; if they are turned, its notes must prove it."""
    return arch is not None and (arch.byte_order == order or bool(arch.turned_notes))


def of_machine(name: str, notes: Sequence[Note]) -> Architecture | None:
    """The architecture of a kdump-compressed dump; None if it is not supported.

    QEMU writes the name "Unknown" for some, and for these it is told by the size of its processors' registers.
    """
    if name.lower() != UNNAMED:
        return in_dump(name)
    sizes = {len(note.data) for note in notes if note.name == "CORE" and note.type == NT_PRSTATUS}
    return next((arch for arch in known() if arch.prstatus_size in sizes), None)


def own_notes(notes: Sequence[Note], arch: Architecture | None, order: ByteOrder, path: str) -> tuple[Note, ...]:
    """Notes that were written in `order`, with their numbers in the order of the machine's memory.

    Notes whose numbers are of an unknown size are left out. Raises `FormatError` unless the registers of a processor
    say that it ran in the architecture's order.
    """
    if arch is None or arch.byte_order == order:
        return tuple(notes)
    if not any(note.type == NT_PRSTATUS and arch.ran_in_own_order(note.data) for note in notes):
        raise FormatError(
            f"{order}-endian dumps of {arch.name} are not supported",
            path=path,
            why=f"no processor in it ran {arch.byte_order}-endian, or their registers (NT_PRSTATUS) are missing",
        )
    texts = [note for note in notes if note.name == "VMCOREINFO"]
    numbers = [note for note in notes if note.name == "CORE" and note.type in arch.turned_notes]
    return (*(note._replace(data=_turned(note.data, arch.turned_notes[note.type])) for note in numbers), *texts)


def _turned(data: bytes, width: int) -> bytes:
    return b"".join(data[at : at + width][::-1] for at in range(0, len(data), width))
