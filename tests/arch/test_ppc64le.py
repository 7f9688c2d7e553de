"""Dumps of ppc64le as QEMU writes them: big-endian headers around little-endian memory."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tests.arch.test_other_paging import SPEC, info_of_ppc, spec
from tests.memory.writers import Load, elf, kdump, note

from kdump.arch.ppc64le import PPC64LE
from kdump.arch.ppc64le.paging import PAGE_OFFSET
from kdump.elf import EM_PPC64
from kdump.errors import FormatError, KdumpError
from kdump.kernel.kernel import Kernel
from kdump.memory import open_dump
from kdump.memory.protocol import Note

SIZE = 2 << 20
NUMBERS = list(range(1000, 1048))  # 48 registers; MSR is number 33
PAGES = 4096


def prstatus(order: str, *, little: bool) -> bytes:
    numbers = [*NUMBERS[:33], 0x8000_0000_0000_1032 | little, *NUMBERS[34:]]
    return bytes(112) + struct.pack(f"{order}48Q", *numbers) + bytes(8)


def notes(order: str, *, little: bool) -> bytes:
    """Of two processors: the first one is in firmware, which is big-endian, whatever the second one runs."""
    vector = bytes(range(16)) if order == "<" else bytes(range(15, -1, -1))
    return b"".join(
        [
            note("CORE", 1, prstatus(order, little=False), order),
            note("CORE", 1, prstatus(order, little=little), order),
            note("CORE", 0x100, vector * 34, order),
            note("CORE", 0x101, bytes(140), order),
            note("VMCOREINFO", 0, b"OSRELEASE=6.12\n" + info_of_ppc(PAGES), order),
        ]
    )


@pytest.fixture(params=["elf", "kdump"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def written(path: Path, form: str, memory: bytes, order: str, *, little: bool) -> Path:
    said = notes(order, little=little)
    if form == "elf":
        path.write_bytes(elf([Load(0, memory)], said, machine=EM_PPC64, order=order))
    else:
        pages = {at // PAGES: memory[at : at + PAGES] for at in range(0, len(memory), PAGES)}
        path.write_bytes(kdump(pages, ram=[(0, SIZE // PAGES)], notes=said, machine=b"Unknown", codec=1, order=order))
    return path


def memory(pieces: dict[int, bytes]) -> bytes:
    data = bytearray(SIZE)
    for at, piece in pieces.items():
        data[at : at + len(piece)] = piece
    return bytes(data)


@pytest.mark.parametrize("order", ["<", ">"])
def test_headers_in_either_order(form: str, order: str, tmp_path: Path) -> None:
    with open_dump(written(tmp_path / "vmcore", form, memory(spec(radix=True)), order, little=True)) as dump:
        kernel = Kernel(dump)
        assert kernel.arch is PPC64LE
        assert kernel.virtual.u64(PAGE_OFFSET + SPEC) == PAGE_OFFSET + SPEC + 16
        said = {(each.name, each.type): each for each in dump.notes}
        assert [each.data for each in dump.notes if each.type == 1] == [
            prstatus("<", little=False), prstatus("<", little=True),
        ]  # fmt: skip
        assert said["CORE", 0x100] == Note("CORE", 0x100, bytes(range(16)) * 34)
        assert said["VMCOREINFO", 0].data.startswith(b"OSRELEASE=6.12\nPAGESIZE=4096")
        assert (("CORE", 0x101) in said) == (order == "<")  # its numbers are of several sizes


def test_a_big_endian_kernel_is_refused(form: str, tmp_path: Path) -> None:
    path = written(tmp_path / "vmcore", form, memory(spec(radix=True)), ">", little=False)
    with pytest.raises(FormatError, match="big-endian dumps of ppc64le are not supported: no processor"):
        open_dump(path)


def test_registers_alone_prove_nothing_to_the_kernels_memory(form: str, tmp_path: Path) -> None:
    """A program of a big-endian kernel may run little-endian."""
    turned = {at: struct.pack(">Q16xI", PAGE_OFFSET + SPEC + 16, 0x40) for at in spec(radix=True)}
    path = written(tmp_path / "vmcore", form, memory(turned), ">", little=True)
    with open_dump(path) as dump, pytest.raises(KdumpError, match="its kernel is big-endian"):
        Kernel(dump).virtual  # noqa: B018
