"""LZO and snappy in plain Python, against the libraries that pack them."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cramjam import snappy
from lzallright import LZOCompressor

from kdump.memory import decompress, plain_lz
from kdump.memory.codecs import LZO, SNAPPY

PAGE = 4096
PACK: dict[str, tuple[Callable[[memoryview, int], bytes], Callable[[bytes], bytes]]] = {
    "lzo": (plain_lz.lzo, lambda page: bytes(LZOCompressor().compress(page))),
    "snappy": (plain_lz.snappy, lambda page: bytes(snappy.compress_raw(page))),
}


def pages() -> list[bytes]:
    """Pages that take every kind of instruction: far and near matches, long and short ones, literals of all lengths."""
    rng = random.Random(7)
    code = Path(sys.executable).resolve().read_bytes()
    found = [bytes(PAGE), rng.randbytes(PAGE), b"ab" * (PAGE // 2), bytes(range(256)) * 16]
    found += [code[at : at + PAGE] for at in range(0, 200 * PAGE, PAGE)]
    for _ in range(200):
        page = b""
        while len(page) < PAGE:
            back = rng.randrange(1, len(page) + 1) if page and rng.random() < 0.7 else 0
            size = rng.choice((1, 2, 3, 4, 5, 8, 9, 17, 33, 40, 70, 300, 1000))
            page += (page[-back:] * size)[:size] if back else rng.randbytes(size)
        found.append(page[:PAGE])
    return [page.ljust(PAGE, b"\0") for page in found]


@pytest.mark.parametrize("name", PACK)
def test_pages_come_out_as_they_were(name: str) -> None:
    unpack, pack = PACK[name]
    for page in pages():
        assert unpack(memoryview(pack(page)), PAGE) == page


@pytest.mark.parametrize("name", PACK)
def test_damage_ends_in_an_error_and_bounds_hold(name: str) -> None:
    unpack, pack = PACK[name]
    rng = random.Random(3)
    for page in pages()[::7]:
        packed = bytearray(pack(page))
        with pytest.raises((ValueError, IndexError)):
            unpack(memoryview(packed), PAGE - 1)
        for _ in range(20):
            packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
            with contextlib.suppress(ValueError, IndexError):
                assert len(unpack(memoryview(packed), PAGE)) <= PAGE
        with pytest.raises((ValueError, IndexError)):
            unpack(memoryview(packed)[:0], PAGE)


@pytest.mark.parametrize(("codec", "module", "name"), [(LZO, "lzallright", "lzo"), (SNAPPY, "cramjam", "snappy")])
def test_no_extra_is_needed(codec: int, module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    page = pages()[10]
    unpacked = decompress.Decompressor(PAGE)(memoryview(PACK[name][1](page)), codec, "vmcore", 0)
    assert bytes(unpacked) == page
