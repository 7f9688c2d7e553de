"""Purgatory: the shipped bytes come from the shipped source, and its digest check is SHA-256.

The check runs here, in this process: the code is position-independent, so it is mapped executable and called.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdump.kexec import purgatory
from kdump.kexec.purgatory import Parameters, Region
from kdump.kexec.purgatory.code import CODE

TOOL = Path(__file__).parents[2] / "tools/purgatory"
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="runs x86_64 code")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc and binutils to rebuild")
def test_the_shipped_bytes_are_what_the_source_gives() -> None:
    subprocess.run([TOOL, "--check"], check=True)


def test_the_layout_is_where_the_source_puts_it() -> None:
    assert CODE[purgatory.MAGIC_AT : purgatory.MAGIC_AT + 8] == purgatory.MAGIC
    assert CODE[purgatory.CHECK_AT] in (0xE9, 0xEB)  # the jump behind the last region
    assert len(CODE) <= 4096


def check(pieces: list[bytes], digests: list[bytes]) -> int | None:
    """Index of the region that the code finds damaged, or None."""
    buffers = [ctypes.create_string_buffer(piece, len(piece)) for piece in pieces]
    regions = [
        Region(ctypes.addressof(buffer), len(piece), digest)
        for buffer, piece, digest in zip(buffers, pieces, digests, strict=True)
    ]
    code = purgatory.make(Parameters(0, 0, regions=regions))
    with mmap.mmap(-1, 8192, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as memory:
        memory.write(code)
        view = (ctypes.c_char * 8192).from_buffer(memory)
        base = ctypes.addressof(view)
        found = ctypes.CFUNCTYPE(ctypes.c_void_p)(base + purgatory.CHECK_AT)()
        del view
    return None if found is None else (found - base - purgatory.REGIONS_AT) // purgatory.REGION.size


BLOCKS = st.integers(0, 5).flatmap(lambda n: st.binary(min_size=64 * n, max_size=64 * n))


@x86_64
@settings(deadline=None, max_examples=50)
@given(pieces=st.lists(BLOCKS, max_size=16))
def test_it_agrees_with_hashlib(pieces: list[bytes]) -> None:
    assert check(pieces, [hashlib.sha256(piece).digest() for piece in pieces]) is None


@x86_64
@settings(deadline=None, max_examples=50)
@given(pieces=st.lists(BLOCKS.filter(bool), min_size=1, max_size=16), data=st.data())
def test_one_flipped_bit_is_found_where_it_is(pieces: list[bytes], data: st.DataObject) -> None:
    digests = [hashlib.sha256(piece).digest() for piece in pieces]
    index = data.draw(st.integers(0, len(pieces) - 1))
    bit = data.draw(st.integers(0, 8 * len(pieces[index]) - 1))
    damaged = bytearray(pieces[index])
    damaged[bit // 8] ^= 1 << bit % 8
    pieces[index] = bytes(damaged)
    assert check(pieces, digests) == index


def test_the_message_goes_to_the_last_serial_console() -> None:
    assert purgatory.serial_port("console=tty0 console=ttyS1,115200n8 quiet") == 0x2F8
    assert purgatory.serial_port("console=hvc0") == 0
