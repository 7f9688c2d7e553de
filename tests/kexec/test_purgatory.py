"""Purgatory: the shipped bytes come from the shipped source, and what it checks by is the checksum of its definition.

The check runs here, in this process: the code is position-independent, so it is mapped executable and called.
"""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import platform
import shutil
import subprocess
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from kdump.kexec import checksum as checksums
from kdump.kexec import purgatory
from kdump.kexec.checksum import checksum
from kdump.kexec.purgatory import Parameters, Region
from kdump.kexec.purgatory.code import CODE
from kdump.native.library import library

TOOL = Path(__file__).parents[2] / "tools/purgatory"
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="runs x86_64 code")
toolchain = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc and binutils to rebuild")
PAGE = 4096
WORDS = 1 << 64


@toolchain
def test_the_shipped_bytes_are_what_the_source_gives() -> None:
    subprocess.run([TOOL, "--check"], check=True)


def test_the_layout_is_where_the_source_puts_it() -> None:
    assert CODE[purgatory.MAGIC_AT : purgatory.MAGIC_AT + 8] == purgatory.MAGIC
    assert CODE[purgatory.CHECK_AT] in (0xE9, 0xEB)  # the jump behind the last region


@toolchain
def test_what_is_written_has_a_page_of_its_own_behind_the_code(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_loader("tool", SourceFileLoader("tool", str(TOOL)))
    assert spec and spec.loader
    tool: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    with tool.link(tool.PACKAGE / "purgatory.S", tmp_path).open("rb") as file:
        sections = {section.name: section for section in ELFFile(file).iter_sections() if section["sh_flags"] & 2}
        assert sections.keys() == {".text", ".bss"}  # SHF_ALLOC: nothing else is in memory
        text, bss = sections[".text"], sections[".bss"]
        assert (text["sh_addr"], text["sh_size"]) == (0, len(CODE)) and len(CODE) <= PAGE
        assert bss["sh_type"] == "SHT_NOBITS" and bss["sh_addr"] == PAGE
        assert PAGE + bss["sh_size"] <= purgatory.SIZE


def by_definition(data: bytes) -> int:
    """SplitMix64's mix (Steele, Lea, Flood, 2014) of each word and its number's multiple of the step, summed up."""
    total = 0
    for number in range(1, -(-len(data) // 8) + 1):
        z = int.from_bytes(data[8 * number - 8 : 8 * number], "little") + number * 0x9E3779B97F4A7C15
        z %= WORDS
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORDS
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORDS
        total += z ^ (z >> 31)
    return total % WORDS


def test_of_zeros_it_is_the_sum_of_what_splitmix64_gives() -> None:
    """Its first outputs from the seed 0, as published with it: a mistake in the definition above would show here."""
    given = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B]
    for count in range(len(given) + 1):
        assert checksum(bytes(8 * count)) == sum(given[:count]) % WORDS


@pytest.fixture(params=["C", "NumPy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With libkdump.so, and without it."""
    if request.param == "NumPy":
        monkeypatch.setattr(checksums, "library", lambda: None)
    else:
        assert library() is not None  # there is a C compiler wherever the tests run
    return str(request.param)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 16, 63, 1000])
def test_the_checksum_is_that_of_its_definition(size: int, way: str) -> None:
    data = bytes(range(1, 256)) * 4
    for kind in (bytes, bytearray, memoryview):
        assert checksum(kind(data[:size])) == by_definition(data[:size]), way
    assert checksum(memoryview(bytearray(data))[3 : 3 + size]) == by_definition(data[3 : 3 + size]), way


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_both_ways_give_the_same_for_anything(data: bytes) -> None:
    found = checksum(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checksums, "library", lambda: None)
        assert checksum(data) == found == by_definition(data)


def test_batches_go_on_counting(way: str) -> None:
    """NumPy's way works in batches: words are numbered through."""
    size = 2 * checksums._BATCH + 24
    data = (b"kdump" * (size // 5 + 1))[:size]
    assert checksum(data) == by_definition(data), way


@settings(max_examples=100)
@given(data=st.binary(min_size=1, max_size=200), draw=st.data())
def test_one_changed_bit_and_another_order_are_found(data: bytes, draw: st.DataObject) -> None:
    bit = draw.draw(st.integers(0, 8 * len(data) - 1))
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    assert checksum(damaged) != checksum(data)
    words = [data[at : at + 8].ljust(8, b"\0") for at in range(0, len(data), 8)]
    turned = words[1:] + words[:1]
    assert (checksum(b"".join(turned)) == checksum(data)) == (turned == words)


def check(pieces: list[bytes], sums: list[int]) -> int | None:
    """Index of the region that the code finds damaged, or None."""
    buffers = [ctypes.create_string_buffer(piece, len(piece)) for piece in pieces]
    regions = [
        Region(ctypes.addressof(buffer), len(piece), number)
        for buffer, piece, number in zip(buffers, pieces, sums, strict=True)
    ]
    code = purgatory.make(Parameters(0, 0, regions=regions))
    with mmap.mmap(-1, purgatory.SIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as memory:
        memory.write(code)
        view = (ctypes.c_char * purgatory.SIZE).from_buffer(memory)
        base = ctypes.addressof(view)
        found = ctypes.CFUNCTYPE(ctypes.c_void_p)(base + purgatory.CHECK_AT)()
        del view
    return None if found is None else (found - base - purgatory.REGIONS_AT) // purgatory.REGION.size


PIECES = st.integers(0, 40).flatmap(lambda n: st.binary(min_size=8 * n, max_size=8 * n))


@x86_64
@settings(max_examples=50)
@given(pieces=st.lists(PIECES, max_size=16))
def test_purgatory_agrees_with_the_definition(pieces: list[bytes]) -> None:
    assert check(pieces, [by_definition(piece) for piece in pieces]) is None


@x86_64
@settings(max_examples=50)
@given(pieces=st.lists(PIECES.filter(bool), min_size=1, max_size=16), data=st.data())
def test_one_flipped_bit_is_found_where_it_is(pieces: list[bytes], data: st.DataObject) -> None:
    sums = [by_definition(piece) for piece in pieces]
    index = data.draw(st.integers(0, len(pieces) - 1))
    bit = data.draw(st.integers(0, 8 * len(pieces[index]) - 1))
    damaged = bytearray(pieces[index])
    damaged[bit // 8] ^= 1 << bit % 8
    pieces[index] = bytes(damaged)
    assert check(pieces, sums) == index


def test_the_message_goes_to_the_last_serial_console() -> None:
    assert purgatory.serial_port("console=tty0 console=ttyS1,115200n8 quiet") == 0x2F8
    assert purgatory.serial_port("console=hvc0") == 0
