"""Pages packed by C libraries: the loop in C and the one in Python give the same, and it is what the library makes."""

from __future__ import annotations

import ctypes
import errno
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from kdump.dump import clibs
from kdump.dump.buffers import Buffers
from kdump.dump.clibs import LibraryCompressor
from kdump.dump.codecs import CODECS
from kdump.dump.pages import zero_pages
from kdump.errors import KdumpError
from kdump.memory.decompress import Decompressor
from kdump.native import loops

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
def test_both_loops_give_what_the_systems_library_makes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, flag = MAKERS[name]
    given, library = pages(), loops.library
    monkeypatch.setattr(loops, "library", lambda: None)
    compress = make()
    assert compress is not None

    def packed(drop_zeros: bool) -> tuple[bytes, list[int]]:
        data, sizes = compress(given, drop_zeros=drop_zeros)
        return bytes(data), sizes.tolist()

    whole, dropped = packed(False), packed(True)
    monkeypatch.setattr(loops, "library", library)
    assert packed(False) == whole and packed(True) == dropped
    for drop_zeros, (data, sizes) in ((False, whole), (True, dropped)):
        assert sizes[2] == PAGE and max(sizes[0], sizes[3]) < PAGE // 4
        assert (sizes[1] == 0) == drop_zeros and sizes[1] < PAGE // 4
        assert (
            unpacked(data, sizes, lambda piece: Decompressor(PAGE)(memoryview(piece), flag, "", 0)) == given.tobytes()
        )


@pytest.mark.parametrize("level", [1, -5])
def test_zstd_of_the_system_and_of_the_package(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = pages()

    def sizes() -> list[int]:
        data, sizes = CODECS["zstd"].make(level)(given, drop_zeros=True)
        assert (sizes < PAGE).tolist() == [True, True, False, True] and sizes[1] == 0
        unpack = Decompressor(PAGE)
        assert unpacked(data, sizes, lambda piece: unpack(memoryview(piece), 0x20, "", 0)) == given.tobytes()
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
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 5)
    refuse: Callable[..., int] = prototype(lambda *_: -1)
    if not in_c:
        monkeypatch.setattr(loops, "library", lambda: None)
    with pytest.raises(KdumpError, match="could not be compressed"):
        LibraryCompressor(refuse, lambda size: size)(pages(), drop_zeros=False)


@pytest.mark.parametrize("level", [None, *range(4)])
@pytest.mark.parametrize("in_c", [True, False])
def test_zlib(level: int | None, in_c: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By deflate.c, and by ISA-L's package where a level is asked for or there is no libkdump.so."""
    given = np.concatenate([pages(), pages(), noise(300)])
    found = loops.find_noise(given, np.arange(len(given)))
    assert found.sum() > 200 and not found[0]
    if not in_c:
        monkeypatch.setattr(loops, "library", lambda: None)
    assert (clibs.zlib() is not None) == in_c
    data, sizes = CODECS["zlib"].make(level)(given, drop_zeros=False)
    assert set(sizes[found]) == {PAGE}
    assert sizes[~found].max() < PAGE + 1 and np.median(sizes[~found]) < PAGE // 4
    assert unpacked(data, sizes, zlib.decompress) == given.tobytes()


def grown(seed: int, kind: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """A page: noise of few or many bytes, runs, repeats at any distance, bytes that need the longest codes."""
    random = np.random.default_rng(seed)
    few = random.integers(0, random.integers(1, 257), size).astype(np.uint8)
    if kind == 0:
        return few
    if kind == 1:
        return few * (random.random(size) < random.random() / 4).astype(np.uint8)
    if kind == 2:  # Fibonacci's numbers as counts make the deepest tree
        counts = [1, 1]
        while sum(counts) < size:
            counts.append(counts[-1] + counts[-2])
        return random.permutation(np.repeat(random.permutation(256)[: len(counts)], counts)[:size]).astype(np.uint8)
    page = bytearray(few[:16].tobytes())
    while len(page) < size:
        begin = int(random.integers(0, len(page)))
        page += page[begin : begin + int(random.integers(1, 400))] + random.bytes(int(random.integers(0, 6)))
    return np.frombuffer(bytes(page[:size]), np.uint8)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.integers(0, 1 << 32), st.integers(0, 3), st.sampled_from([256, PAGE, PAGE, 1 << 14, 1 << 16]))
def test_any_page_is_what_zlib_reads(seed: int, kind: int, size: int) -> None:
    page = grown(seed, kind, size).copy()
    page[-1] |= 1  # one of zeros would be left out
    compress = clibs.zlib()
    assert compress is not None
    rows = np.stack([page, np.zeros(size, np.uint8), page])
    data, sizes = compress(rows, drop_zeros=True)
    first, last = bytes(data[: sizes[0]]), bytes(data[sizes[0] :])
    assert sizes[1] == 0 and first == last  # whatever was packed before
    assert (first if len(first) == size else zlib.decompress(first)) == page.tobytes()


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(
    st.sampled_from(sorted(MAKERS)), st.integers(0, 1 << 32), st.integers(0, 3),
    st.sampled_from([64, 256, PAGE, PAGE, 1 << 14, 1 << 16]),
)  # fmt: skip
def test_any_page_is_what_lzo_and_snappy_read(name: str, seed: int, kind: int, size: int) -> None:
    """By their libraries' own decoders."""
    page = grown(seed, kind, size).copy()
    page[-1] |= 1  # one of zeros would be left out
    make, _ = MAKERS[name]
    compress = make()
    assert compress is not None
    rows = np.stack([page, np.zeros(size, np.uint8), page])
    data, sizes = compress(rows, drop_zeros=True)
    first, last = bytes(data[: sizes[0]]), bytes(data[sizes[0] :])
    assert sizes[1] == 0 and first == last  # whatever was packed before
    assert (first if len(first) == size else by_library(name, first, size)) == page.tobytes()


def by_library(name: str, packed: bytes, size: int) -> bytes:
    """A page, unpacked by the system's library."""
    page, length = ctypes.create_string_buffer(size), ctypes.c_size_t(size)
    library = ctypes.CDLL(clibs.LIBRARIES[name])
    given = (packed, ctypes.c_size_t(len(packed)), page, ctypes.byref(length))
    if name == "snappy":
        assert library.snappy_uncompress(*given) == 0
    else:
        assert library.lzo1x_decompress_safe(*given, None) == 0
    assert length.value == size
    return page.raw


@pytest.mark.parametrize("name", MAKERS)
def test_text_becomes_no_larger_than_by_the_systems_library(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, _ = MAKERS[name]
    text = b"".join(path.read_bytes() for path in sorted(Path(clibs.__file__).parent.glob("*.py")))
    given = np.frombuffer(text[: len(text) // PAGE * PAGE], np.uint8).reshape(-1, PAGE)
    ours = make()
    monkeypatch.setattr(loops, "library", lambda: None)
    theirs = make()
    assert ours and theirs
    sizes = theirs(given, drop_zeros=False)[1]
    monkeypatch.undo()
    assert ours(given, drop_zeros=False)[1].sum() <= sizes.sum()


@pytest.mark.parametrize("name", CODECS)
def test_pages_of_a_file_are_packed_as_those_in_memory(name: str, tmp_path: Path) -> None:
    """In pieces of any length, in any order; a page that is stored as it is may follow one that is not."""
    given = np.concatenate([pages(), noise(70), pages(), noise(3), pages()])
    (tmp_path / "file").write_bytes(bytes(100) + given.tobytes())
    order = np.array([*range(40), *range(60, 85), 3, 2, 1, 0, *range(41, 60)])
    compress = CODECS[name].make(None)
    with (tmp_path / "file").open("rb") as file:
        for drop_zeros in (False, True):
            packed = compress.of_file(file.fileno(), order * PAGE + 100, PAGE, drop_zeros=drop_zeros)
            if name == "none":
                assert packed is None
                continue
            expected = compress(given[order], drop_zeros=drop_zeros)
            assert packed is not None
            assert packed.sizes.tolist() == expected.sizes.tolist()
            assert bytes(packed.data) == bytes(expected.data)
        beyond = np.array([0, len(given) - 1, len(given)]) * PAGE + 100
        assert compress.of_file(file.fileno(), beyond, PAGE, drop_zeros=True) is None
    assert compress.of_file(-1, order * PAGE, PAGE, drop_zeros=True) is None


@pytest.mark.parametrize("in_c", [True, False])
def test_large_writes_are_whole_or_an_error(in_c: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not in_c:
        monkeypatch.setattr(loops, "library", lambda: None)
    data = memoryview(np.random.default_rng(5).bytes((1 << 20) + 5))
    with (tmp_path / "file").open("wb") as file:
        assert loops.pwrite_all(file.fileno(), data, 7) == len(data)
    assert (tmp_path / "file").read_bytes() == bytes(7) + data
    with Path("/dev/full").open("wb") as full, pytest.raises(OSError, match="No space left") as caught:
        loops.pwrite_all(full.fileno(), data, 0)
    assert caught.value.errno == errno.ENOSPC


def test_a_page_of_no_such_size_is_refused() -> None:
    compress = clibs.zlib()
    assert compress is not None
    with pytest.raises(KdumpError, match="could not be compressed"):
        compress(np.ones((1, 100), np.uint8), drop_zeros=False)


def test_large_pages_take_zlib_too() -> None:
    given = np.random.default_rng(3).integers(0, 3, (2, 1 << 16)).astype(np.uint8)
    data, sizes = CODECS["zlib"].make(None)(given, drop_zeros=True)
    assert zlib.decompress(bytes(data[: sizes[0]])) == given[0].tobytes()
    assert zlib.decompress(bytes(data[sizes[0] :])) == given[1].tobytes()


def test_zstd_stores_noise_as_it_would_have_without_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    given = np.concatenate([noise(100), pages()])
    by_library = CODECS["zstd"].make(None)(given, drop_zeros=False)
    monkeypatch.setattr(loops, "library", lambda: None)
    by_package = CODECS["zstd"].make(None)(given, drop_zeros=False)
    assert (by_library.sizes == by_package.sizes).all()
    assert (by_library.sizes[:100] == PAGE).all() and (by_library.sizes[101] < PAGE)


def test_what_was_packed_stays_while_it_is_held() -> None:
    given = noise(64)
    compress = CODECS["snappy"].make(None)
    held = [compress(given[start:], drop_zeros=False) for start in range(8)]
    for start, packed in enumerate(held):
        assert bytes(packed.data) == given[start:].tobytes()


def test_memory_that_nothing_holds_is_used_again() -> None:
    buffers = Buffers()
    compress = CODECS["snappy"].make(None, buffers)
    given = noise(8)
    data = compress(given, drop_zeros=False).data
    piece = data[PAGE : 2 * PAGE]
    del data
    data = compress(given[::-1].copy(), drop_zeros=False).data
    assert bytes(piece) == given[1].tobytes()  # a part of what was packed keeps it all
    assert len(buffers) == 2
    del piece, data
    other = CODECS["snappy"].make(None, buffers)  # as another thread's
    for each in (compress, other, compress):
        each(given, drop_zeros=False)
    assert len(buffers) == 2
    compress(noise(9), drop_zeros=False)  # too small and unused ones go
    assert len(buffers) == 1


def test_pieces_that_come_twice_at_any_distance_are_no_noise() -> None:
    # As in ends of compressed files that were seen in real memory: evenly spread bytes, and yet zstd saves a hundred.
    given = noise(50)
    for page in given:
        for at, before, size in ((2682, 1940, 38), (3103, 2350, 77), (3203, 2446, 28), (3520, 2010, 62)):
            page[at : at + size] = page[before : before + size]
    sizes = CODECS["zstd"].make(None)(given, drop_zeros=False).sizes
    assert (sizes < PAGE).all()


def test_what_can_be_made_smaller_is_no_noise() -> None:
    given = noise(6)
    given[0, 2048:] = given[0, :2048]  # the same twice
    given[1, -1024:] = 0
    given[2] &= 0x7F
    given[3, ::2] = 0
    given[4] = 0
    assert loops.find_noise(given, np.arange(6)).tolist() == [False] * 5 + [True]


def unpacked(
    data: bytes | memoryview, sizes: Sequence[int] | np.ndarray, unpack: Callable[[bytes], bytes | memoryview]
) -> bytes:  # fmt: skip
    """The pages again, by an independent reader."""
    found, at = [], 0
    for size in map(int, sizes):
        piece = bytes(data[at : at + size])
        at += size
        found.append(bytes(PAGE) if not size else piece if size == PAGE else bytes(unpack(piece)))
    assert at == len(data)
    return b"".join(found)


def noise(count: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.random.default_rng(2).integers(0, 256, (count, PAGE), np.uint8)
