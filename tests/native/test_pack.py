"""Pages packed by either engine are what independent decoders read; what does not shrink is stored as it is."""

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

from kdump.dump.buffers import Buffers
from kdump.dump.codecs import compressor
from kdump.errors import KdumpError
from kdump.memory.codecs import CODECS
from kdump.memory.decompress import Decompressor
from kdump.native import compiled, plain
from kdump.native.engine import engine
from kdump.native.interface import Engine, Packer

LIBRARIES = {"lzo": "liblzo2.so.2", "snappy": "libsnappy.so.1"}  # whose decoders judge
ENGINES: list[Engine] = [compiled, plain]
PAGE = 4096


def pages() -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Text, zeros, noise (which does not shrink), and text again."""
    found = np.zeros((4, PAGE), np.uint8)
    text = np.frombuffer((b"the quick brown fox jumps over the lazy dog " * 100)[:PAGE], np.uint8)
    found[0] = found[3] = text
    found[2] = np.random.default_rng(1).integers(0, 256, PAGE, np.uint8)
    return found


def make(name: str, buffers: Buffers | None = None) -> Packer:
    """The codec as dumps are packed with it."""
    return compressor(CODECS[name], 0, buffers)


def take(size: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.empty(size, np.uint8)


def test_the_engine_is_the_compiled_one() -> None:
    assert engine.NAME == "compiled"  # there is a C compiler wherever the tests run


@pytest.mark.parametrize("each", ENGINES, ids=lambda each: each.NAME)
@pytest.mark.parametrize(("codec", "level", "flag"), [("zstd", 1, 0x20), ("zstd", -5, 0x20), ("zlib", None, 1)])
@pytest.mark.parametrize("drop_zeros", [True, False])
def test_engines_pack_what_is_read_back(
    each: Engine, codec: str, level: int | None, flag: int, drop_zeros: bool
) -> None:
    given = pages()
    data, sizes = each.packer(codec, level, take)(given, drop_zeros=drop_zeros)
    assert (sizes < PAGE).tolist() == [True, True, False, True] and (sizes[1] == 0) == drop_zeros
    unpack = Decompressor(PAGE)
    assert unpacked(data, sizes, lambda piece: unpack(memoryview(piece), flag, "", 0)) == given.tobytes()


@pytest.mark.parametrize("name", LIBRARIES)
def test_lzo_and_snappy_need_the_compiled_engine(name: str) -> None:
    given = pages()
    data, sizes = compiled.packer(name, None, take)(given, drop_zeros=False)
    assert sizes[2] == PAGE and max(sizes[0], sizes[1], sizes[3]) < PAGE // 4
    assert unpacked(data, sizes, lambda piece: by_library(name, piece, PAGE)) == given.tobytes()
    with pytest.raises(KdumpError, match=f"{name} is not available"):
        plain.packer(name, None, take)


@pytest.mark.parametrize("each", ENGINES, ids=lambda each: each.NAME)
def test_zeros_are_found(each: Engine) -> None:
    given = np.zeros((70, PAGE), np.uint8)
    for row, place in enumerate([0, 7, 8, 63, 64, 4095]):
        given[10 * row, place] = 1
    assert np.flatnonzero(~each.zero_pages(given)).tolist() == [0, 10, 20, 30, 40, 50]


Refuse = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 5)


def test_a_page_that_the_library_refuses_is_an_error_and_noise_is_not_tried() -> None:
    refuse = Refuse(lambda *_: -1)
    with pytest.raises(KdumpError, match="could not be compressed"):
        compiled.Packer(refuse, lambda size: size, None, take)(pages(), drop_zeros=False)
    given = noise(300)
    with pytest.raises(KdumpError, match="could not be compressed"):
        compiled.Packer(refuse, lambda size: size, None, take)(given, drop_zeros=False)
    untried = 0
    for page in given:
        try:
            data, sizes = compiled.Packer(refuse, lambda size: size, None, take, skip_noise=True)(
                page[None], drop_zeros=False
            )
        except KdumpError:
            continue
        assert bytes(data) == page.tobytes() and sizes.tolist() == [PAGE]
        untried += 1
    assert untried > 200  # chance makes some look uneven


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


@hypothesis.settings(max_examples=300)
@hypothesis.given(st.integers(0, 1 << 32), st.integers(0, 3), st.sampled_from([256, PAGE, PAGE, 1 << 14, 1 << 16]))
def test_any_page_is_what_zlib_reads(seed: int, kind: int, size: int) -> None:
    page = grown(seed, kind, size).copy()
    page[-1] |= 1  # one of zeros would be left out
    compress = make("zlib")
    rows = np.stack([page, np.zeros(size, np.uint8), page])
    data, sizes = compress(rows, drop_zeros=True)
    first, last = bytes(data[: sizes[0]]), bytes(data[sizes[0] :])
    assert sizes[1] == 0 and first == last  # whatever was packed before
    assert (first if len(first) == size else zlib.decompress(first)) == page.tobytes()


@hypothesis.settings(max_examples=300)
@hypothesis.given(
    st.sampled_from(sorted(LIBRARIES)), st.integers(0, 1 << 32), st.integers(0, 3),
    st.sampled_from([64, 256, PAGE, PAGE, 1 << 14, 1 << 16]),
)  # fmt: skip
def test_any_page_is_what_lzo_and_snappy_read(name: str, seed: int, kind: int, size: int) -> None:
    """By their libraries' own decoders."""
    page = grown(seed, kind, size).copy()
    page[-1] |= 1  # one of zeros would be left out
    compress = make(name)
    rows = np.stack([page, np.zeros(size, np.uint8), page])
    data, sizes = compress(rows, drop_zeros=True)
    first, last = bytes(data[: sizes[0]]), bytes(data[sizes[0] :])
    assert sizes[1] == 0 and first == last  # whatever was packed before
    assert (first if len(first) == size else by_library(name, first, size)) == page.tobytes()


def by_library(name: str, packed: bytes, size: int) -> bytes:
    """A page, unpacked by the system's library."""
    page, length = ctypes.create_string_buffer(size), ctypes.c_size_t(size)
    library = ctypes.CDLL(LIBRARIES[name])
    given = (packed, ctypes.c_size_t(len(packed)), page, ctypes.byref(length))
    if name == "snappy":
        assert library.snappy_uncompress(*given) == 0
    else:
        assert library.lzo1x_decompress_safe(*given, None) == 0
    assert length.value == size
    return page.raw


@pytest.mark.parametrize("name", LIBRARIES)
def test_text_becomes_no_larger_than_by_the_systems_library(name: str) -> None:
    text = b"".join(path.read_bytes() for path in sorted(Path(compiled.__file__).parent.parent.glob("dump/*.py")))
    given = np.frombuffer(text[: len(text) // PAGE * PAGE], np.uint8).reshape(-1, PAGE)
    system = ctypes.CDLL(LIBRARIES[name])
    function = system.lzo1x_1_compress if name == "lzo" else system.snappy_compress
    theirs = compiled.Packer(function, lambda size: 67 + size + size // 6, np.empty(16384 * 8, np.uint8), take)
    assert make(name)(given, drop_zeros=False)[1].sum() <= theirs(given, drop_zeros=False)[1].sum()


@pytest.mark.parametrize("name", CODECS)
def test_pages_of_a_file_are_packed_as_those_in_memory(name: str, tmp_path: Path) -> None:
    """In pieces of any length, in any order; a page that is stored as it is may follow one that is not."""
    given = np.concatenate([pages(), noise(70), pages(), noise(3), pages()])
    (tmp_path / "file").write_bytes(bytes(100) + given.tobytes())
    order = np.array([*range(40), *range(60, 85), 3, 2, 1, 0, *range(41, 60)])
    compress = make(name)
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


@pytest.mark.parametrize("each", ENGINES, ids=lambda each: each.NAME)
def test_large_writes_are_whole_or_an_error(each: Engine, tmp_path: Path) -> None:
    data = memoryview(np.random.default_rng(5).bytes((1 << 20) + 5))
    with (tmp_path / "file").open("wb") as file:
        assert each.pwrite_all(file.fileno(), data, 7) == len(data)
    assert (tmp_path / "file").read_bytes() == bytes(7) + data
    with Path("/dev/full").open("wb") as full, pytest.raises(OSError, match="No space left") as caught:
        each.pwrite_all(full.fileno(), data, 0)
    assert caught.value.errno == errno.ENOSPC


def test_a_page_of_no_such_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1000))
    for name in ("zlib", "zstd", "lzo", "snappy"):
        compress = make(name)
        with pytest.raises(KdumpError, match="could not be compressed"):
            compress(np.ones((1, 100), np.uint8), drop_zeros=False)
        with (tmp_path / "file").open("rb") as file, pytest.raises(KdumpError, match="could not be compressed"):
            compress.of_file(file.fileno(), np.array([0]), 100, drop_zeros=True)
    with pytest.raises(ValueError, match="100 bytes"):
        compiled.zero_pages(np.ones((1, 100), np.uint8))


def test_large_pages_take_zlib_too() -> None:
    given = np.random.default_rng(3).integers(0, 3, (2, 1 << 16)).astype(np.uint8)
    data, sizes = make("zlib")(given, drop_zeros=True)
    assert zlib.decompress(bytes(data[: sizes[0]])) == given[0].tobytes()
    assert zlib.decompress(bytes(data[sizes[0] :])) == given[1].tobytes()


def test_zstd_stores_noise_as_it_would_have_without_looking() -> None:
    given = np.concatenate([noise(100), pages()])
    found = [each.packer("zstd", None, take)(given, drop_zeros=False).sizes for each in ENGINES]
    assert np.allclose(found[0], found[1], rtol=0.2)  # two versions of zstd
    assert (found[0][:100] == PAGE).all() and (found[0][101] < PAGE)


def test_what_was_packed_stays_while_it_is_held() -> None:
    given = noise(64)
    compress = make("snappy")
    held = [compress(given[start:], drop_zeros=False) for start in range(8)]
    for start, packed in enumerate(held):
        assert bytes(packed.data) == given[start:].tobytes()


def test_memory_that_nothing_holds_is_used_again() -> None:
    buffers = Buffers()
    compress = make("snappy", buffers)
    given = noise(8)
    data = compress(given, drop_zeros=False).data
    piece = data[PAGE : 2 * PAGE]
    del data
    data = compress(given[::-1].copy(), drop_zeros=False).data
    assert bytes(piece) == given[1].tobytes()  # a part of what was packed keeps it all
    assert len(buffers) == 2
    del piece, data
    other = make("snappy", buffers)  # as another thread's
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
    sizes = make("zstd")(given, drop_zeros=False).sizes
    assert (sizes < PAGE).all()


def test_what_can_be_made_smaller_is_no_noise() -> None:
    given = noise(6)
    given[0, 2048:] = given[0, :2048]  # the same twice
    given[1, -1024:] = 0
    given[2] &= 0x7F
    given[3, ::2] = 0
    given[4] = 0
    sizes = make("zstd")(given, drop_zeros=False).sizes
    assert (sizes < PAGE).tolist() == [True] * 5 + [False]


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
