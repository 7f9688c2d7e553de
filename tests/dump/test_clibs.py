"""Pages packed by C libraries: the loop in C and the one in Python give the same, and it is what the library makes."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest

from kdump import loops
from kdump.dump import clibs
from kdump.dump.clibs import LibraryCompressor
from kdump.dump.codecs import CODECS
from kdump.dump.pages import zero_pages
from kdump.errors import KdumpError
from kdump.memory.decompress import Decompressor

MAKERS = {"lzo": (clibs.lzo, 2), "snappy": (clibs.snappy, 4)}
PAGE = 4096


def pages() -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Text, zeros, noise (which does not shrink), and text again."""
    found = np.zeros((4, PAGE), np.uint8)
    text = np.frombuffer((b"the quick brown fox jumps over the lazy dog " * 100)[:PAGE], np.uint8)
    found[0] = found[3] = text
    found[2] = np.random.default_rng(1).integers(0, 256, PAGE, np.uint8)
    return found


def test_the_loops_were_built() -> None:
    assert loops.library() is not None  # there is a C compiler wherever the tests run


@pytest.mark.parametrize("name", MAKERS)
def test_both_loops_give_what_the_library_makes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, flag = MAKERS[name]
    given, rows = pages(), np.array([3, 2, 1])

    def packed() -> tuple[bytes, list[int]]:
        compress = make()
        assert compress is not None
        data, sizes = compress(given, rows)
        return bytes(data), sizes.tolist()

    data, sizes = packed()
    monkeypatch.setattr(loops, "library", lambda: None)
    assert packed() == (data, sizes)
    assert sizes[1] == PAGE and max(sizes[0], sizes[2]) < PAGE // 4
    unpack, at = Decompressor(PAGE), 0
    for row, size in zip(rows, sizes, strict=True):
        piece = data[at : at + size]
        at += size
        assert (piece if size == PAGE else bytes(unpack(memoryview(piece), flag, "", 0))) == given[row].tobytes()
    assert at == len(data)


@pytest.mark.parametrize("level", [1, -5])
def test_zstd_of_the_system_and_of_the_package(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given, rows = pages(), np.array([3, 2, 1])
    unpack = Decompressor(PAGE)

    def sizes() -> list[int]:
        data, sizes = CODECS["zstd"].make(level)(given, rows)
        assert (sizes < PAGE).tolist() == [True, False, True]
        ends = np.cumsum(sizes).tolist()
        for row, size, end in zip(rows, sizes.tolist(), ends, strict=True):
            piece = memoryview(data)[end - size : end]
            assert bytes(piece if size == PAGE else unpack(piece, 0x20, "", 0)) == given[row].tobytes()
        assert ends[-1] == len(data)
        return list(sizes)

    compressor = clibs.zstd(level)
    assert compressor is not None
    by_library = sizes()
    monkeypatch.setattr(loops, "library", lambda: None)
    assert clibs.zstd(level) is None
    assert np.allclose(sizes(), by_library, rtol=0.2)  # two versions of zstd


def test_zeros_are_found_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    given = np.zeros((70, PAGE), np.uint8)
    for row, place in enumerate([0, 7, 8, 63, 64, 4095]):
        given[10 * row, place] = 1
    quick = zero_pages(given)
    assert np.flatnonzero(~quick).tolist() == [0, 10, 20, 30, 40, 50]
    monkeypatch.setattr(loops, "library", lambda: None)
    assert (zero_pages(given) == quick).all()


@pytest.mark.parametrize("in_c", [True, False])
def test_a_page_that_the_library_refuses_is_an_error(in_c: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    prototype = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 5)
    refuse: Callable[..., int] = prototype(lambda *_: -1)
    if not in_c:
        monkeypatch.setattr(loops, "library", lambda: None)
    with pytest.raises(KdumpError, match="could not be compressed"):
        LibraryCompressor(refuse, lambda size: size)(pages(), np.array([0]))


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("in_one_call", [True, False])
def test_zlib_with_isal(level: int, in_one_call: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the loop in C and by the package: what zlib reads, and noise stored as it is."""
    given = np.concatenate([pages(), pages(), noise(300)])
    rows = np.flatnonzero(np.arange(len(given)) % 5 != 4)
    found = loops.find_noise(given, rows)
    assert found.sum() > 200 and not found[0]
    if not in_one_call:
        monkeypatch.setattr(loops, "library", lambda: None)
    assert (clibs.zlib(level) is not None) == in_one_call
    data, sizes = CODECS["zlib"].make(level)(given, rows)
    assert set(sizes[found]) == {PAGE}
    assert sizes[~found].max() < PAGE + 1 and np.median(sizes[~found]) < PAGE // 4
    ends = np.cumsum(sizes).tolist()
    for row, size, end in zip(rows, sizes.tolist(), ends, strict=True):
        piece = bytes(data[end - size : end])
        assert (piece if size == PAGE else zlib.decompress(piece)) == given[row].tobytes()
    assert ends[-1] == len(data)


def test_large_pages_take_zlib_too() -> None:
    given = np.random.default_rng(3).integers(0, 3, (2, 1 << 16)).astype(np.uint8)
    data, sizes = CODECS["zlib"].make(None)(given, np.array([1, 0]))
    assert zlib.decompress(bytes(data[: sizes[0]])) == given[1].tobytes()
    assert zlib.decompress(bytes(data[sizes[0] :])) == given[0].tobytes()


def test_zstd_stores_noise_as_it_would_have_without_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    given, rows = np.concatenate([noise(100), pages()]), np.arange(104)
    by_library = CODECS["zstd"].make(None)(given, rows)
    monkeypatch.setattr(loops, "library", lambda: None)
    by_package = CODECS["zstd"].make(None)(given, rows)
    assert (by_library.sizes == by_package.sizes).all()
    assert (by_library.sizes[:100] == PAGE).all() and (by_library.sizes[101] < PAGE)


def test_what_was_packed_stays_while_it_is_held() -> None:
    given, rows = noise(64), np.arange(64)
    compress = CODECS["snappy"].make(None)
    held = [compress(given[start:], rows[: 64 - start]) for start in range(8)]
    for start, packed in enumerate(held):
        assert bytes(packed.data) == given[start:].tobytes()


def test_memory_that_nothing_holds_is_used_again() -> None:
    library = clibs.snappy()
    assert library is not None
    given, rows = noise(8), np.arange(8)
    data, _sizes = library(given, rows)
    piece, first = data[PAGE : 2 * PAGE], library.buffers
    del data
    data, _sizes = library(given[::-1].copy(), rows)
    assert bytes(piece) == given[1].tobytes()  # a part of what was packed keeps it all
    assert library.buffers == first + 1
    del piece, data
    for _ in range(3):
        library(given, rows)
    assert library.buffers == first + 1


def test_pieces_that_come_twice_at_any_distance_are_no_noise() -> None:
    # As in ends of compressed files that were seen in real memory: evenly spread bytes, and yet zstd saves a hundred.
    given = noise(50)
    for page in given:
        for at, before, size in ((2682, 1940, 38), (3103, 2350, 77), (3203, 2446, 28), (3520, 2010, 62)):
            page[at : at + size] = page[before : before + size]
    sizes = CODECS["zstd"].make(None)(given, np.arange(50)).sizes
    assert (sizes < PAGE).all()


def test_what_can_be_made_smaller_is_no_noise() -> None:
    given = noise(6)
    given[0, 2048:] = given[0, :2048]  # the same twice
    given[1, -1024:] = 0
    given[2] &= 0x7F
    given[3, ::2] = 0
    given[4] = 0
    assert loops.find_noise(given, np.arange(6)).tolist() == [False] * 5 + [True]


def noise(count: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.random.default_rng(2).integers(0, 256, (count, PAGE), np.uint8)
