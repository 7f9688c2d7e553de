"""kdump-compressed dumps: every version and codec, split sets, excluded against absent pages, and damage."""

from __future__ import annotations

import struct
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tests.memory.writers import PAGE, kdump, note

from kdump.errors import FormatError, KdumpError, NotPresentError
from kdump.memory import open_dump
from kdump.memory.counts import count_pages
from kdump.memory.protocol import Dump, Range

RANDOM = np.random.default_rng(1)
RAM = [(1, 40), (64, 1100)]
PAGES = {pfn: (b"page %d " % pfn).ljust(PAGE, b".") for pfn in range(64, 200)}
PAGES |= {pfn: bytes(PAGE) for pfn in (5, 6, 7, 1000)} | {8: RANDOM.bytes(PAGE), 1099: b"last".ljust(PAGE)}
CODECS = {"raw": 0, "zlib": 1, "lzo": 2, "snappy": 4, "zstd": 0x20}


def opened(tmp_path: Path, *files: bytes) -> Dump:
    paths = []
    for number, data in enumerate(files):
        path = tmp_path / f"vmcore.{number}"
        path.write_bytes(data)
        paths.append(path)
    return open_dump(paths if len(paths) > 1 else paths[0])


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_every_page_reads_back(tmp_path: Path, codec: int) -> None:
    with opened(tmp_path, kdump(PAGES, ram=RAM, codec=codec)) as dump:
        for pfn, page in PAGES.items():
            assert dump.memory.view(pfn * PAGE, PAGE) == page
        assert dump.memory.view(64 * PAGE, 136 * PAGE) == b"".join(PAGES[pfn] for pfn in range(64, 200))
        assert dump.memory.view(65 * PAGE - 10, 17) == PAGES[64][-10:] + PAGES[65][:7]
        assert not dump.incomplete


@pytest.mark.parametrize("version", range(1, 7))
def test_every_header_version(tmp_path: Path, version: int) -> None:
    info, notes = b"OSRELEASE=6.1\n", note("CORE", 1, b"x" * 8) + note("VMCOREINFO", 0, b"OSRELEASE=6.1\n")
    with opened(tmp_path, kdump(PAGES, ram=RAM, version=version, vmcoreinfo=info, notes=notes)) as dump:
        assert dump.memory.ranges == [Range(PAGE, 40 * PAGE), Range(64 * PAGE, 1100 * PAGE)]
        assert bytes(dump.memory.view(1099 * PAGE, 4)) == b"last"
        assert dump.header["dump_level"] == 31
        assert dump.vmcoreinfo == (info if version >= 3 else b"")
        assert len(dump.notes) == (2 if version >= 4 else 0)
        assert dump.header["header_version"] == version
        assert dump.header["machine"] == "x86_64"


def test_larger_pages(tmp_path: Path) -> None:
    pages = {1: b"x" * 65536, 3: b"y" * 65536}
    with opened(tmp_path, kdump(pages, ram=[(0, 4)], block=65536)) as dump:
        assert dump.memory.page_size == 65536
        assert bytes(dump.memory.view(65536 * 3, 1)) == b"y"


def test_absent_pages_say_why(tmp_path: Path) -> None:
    with opened(tmp_path, kdump(PAGES, ram=RAM)) as dump:
        with pytest.raises(NotPresentError, match="excluded by the filter"):
            dump.memory.view(300 * PAGE, 1)
        with pytest.raises(NotPresentError, match="not memory of the machine"):
            dump.memory.view(50 * PAGE, 1)
        with pytest.raises(NotPresentError, match="not memory of the machine"):
            dump.memory.view(1 << 60, 8)
        with pytest.raises(NotPresentError, match=hex(200 * PAGE)):
            dump.memory.view(199 * PAGE, 2 * PAGE)


def test_present_and_counts(tmp_path: Path) -> None:
    with opened(tmp_path, kdump(PAGES, ram=RAM)) as dump:
        held = dump.memory.present(3, 1200)
        assert (np.flatnonzero(held) + 3).tolist() == sorted(PAGES)
        counts = count_pages(dump.memory)
        assert (counts.memory, counts.dumped, counts.zero, counts.excluded, counts.missing) == (1075, 138, 4, 933, 0)
        assert counts.codecs == {"raw": 1, "zstd": 137}


def test_split_set_is_one_dump(tmp_path: Path) -> None:
    parts = [kdump(PAGES, ram=RAM, split=bounds) for bounds in ((128, 512), (0, 128), (512, 1100))]
    with opened(tmp_path, *parts) as dump:
        assert not dump.incomplete
        assert dump.header["parts"] == 3
        assert len(dump.paths) == 3
        for pfn, page in PAGES.items():
            assert dump.memory.view(pfn * PAGE, PAGE) == page
        assert dump.memory.view(64 * PAGE, 136 * PAGE) == b"".join(PAGES[pfn] for pfn in range(64, 200))
        assert count_pages(dump.memory).missing == 0


def test_one_part_alone_is_incomplete(tmp_path: Path) -> None:
    with opened(tmp_path, kdump(PAGES, ram=RAM, split=(128, 512))) as dump:
        assert dump.incomplete
        assert dump.memory.view(130 * PAGE, PAGE) == PAGES[130]
        with pytest.raises(NotPresentError, match="another file"):
            dump.memory.view(64 * PAGE, 1)
        assert count_pages(dump.memory).missing == len([pfn for pfn in PAGES if not 128 <= pfn < 512])


def test_parts_of_different_dumps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="does not belong"):
        opened(tmp_path, kdump(PAGES, ram=RAM, split=(0, 128)), kdump(PAGES, ram=[(1, 2000)], split=(128, 2000)))
    with pytest.raises(FormatError, match="does not belong"):
        opened(tmp_path, kdump(PAGES, ram=RAM), kdump(PAGES, ram=RAM))
    with pytest.raises(FormatError, match="too"):
        opened(tmp_path, kdump(PAGES, ram=RAM, split=(0, 128)), kdump(PAGES, ram=RAM, split=(100, 1100)))


def test_header_says_incomplete(tmp_path: Path) -> None:
    data = kdump(PAGES, ram=RAM, status=0x28)
    with opened(tmp_path, data) as dump:
        assert dump.incomplete
    first = (1 + 1 + 2) * PAGE
    with (
        opened(tmp_path, patched(data, first + 24 * 4, bytes(24))) as dump,
        pytest.raises(NotPresentError, match="lacks"),
    ):
        dump.memory.view(64 * PAGE, 1)


def test_truncated_file_is_incomplete(tmp_path: Path) -> None:
    whole = kdump(PAGES, ram=RAM)
    with opened(tmp_path, whole[:-1]) as dump:
        assert dump.incomplete
        assert dump.memory.view(64 * PAGE, PAGE) == PAGES[64]
        with pytest.raises(NotPresentError, match="incomplete"):
            dump.memory.view(1099 * PAGE, 1)
        assert count_pages(dump.memory).missing == 1
    with opened(tmp_path, whole[: 4 * PAGE + 24 * 10]) as dump:
        assert dump.incomplete
        assert count_pages(dump.memory).missing == len(PAGES)


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


GOOD = kdump(PAGES, ram=RAM, vmcoreinfo=b"OSRELEASE=6.1\n", notes=note("CORE", 1, b"x"))


@pytest.mark.parametrize(
    ("data", "field", "text"),
    [
        (GOOD[:100], "", "no room"),
        (GOOD[:5000], "bitmap_blocks", "do not fit"),
        (patched(GOOD, 8, b"\0\0\0\6"), "header_version", "big-endian"),
        (patched(GOOD, 8, b"\xff\xff\xff\xff"), "header_version", "version -1"),
        (patched(patched(GOOD, 428, bytes(4)), 416, struct.pack("<I", PAGE)), "block_size", "32-bit"),
        (patched(GOOD, 428, struct.pack("<i", 4097)), "block_size", "4097"),
        (patched(GOOD, 432, struct.pack("<i", -1)), "sub_hdr_size", "-1"),
        (patched(GOOD, 436, struct.pack("<I", 0xFFFFFFFE)), "bitmap_blocks", "do not fit"),
        (patched(GOOD, PAGE + 96, struct.pack("<Q", 1 << 63)), "max_mapnr", "bitmap"),
        (patched(GOOD, PAGE + 40, struct.pack("<Q", 1 << 40)), "size_vmcoreinfo", "bytes"),
        (patched(GOOD, PAGE + 32, struct.pack("<q", 1 << 50)), "", "ends at"),
        (patched(GOOD, PAGE + 32, struct.pack("<q", -5)), "", "ends at"),
    ],
)
def test_damaged_headers_are_named(tmp_path: Path, data: bytes, field: str, text: str) -> None:
    with pytest.raises(FormatError, match=text) as caught:
        opened(tmp_path, data)
    assert field in caught.value.field
    assert caught.value.path


@pytest.mark.parametrize(
    ("descriptor", "text"),
    [
        ((-4096, 100, 0x20, 0), "names"),
        ((5000, 5000, 0x20, 0), "names"),
        ((5000, 0, 0, 0), "names"),
        ((5000, 100, 0x20, 0), "does not decompress"),
        ((5000, 100, 0x01, 0), "does not decompress"),
        ((5000, 100, 0x02, 0), "decompress"),
        ((5000, 100, 0x04, 0), "decompress"),
        ((5000, 100, 0x03, 0), "no such compression"),
        ((5000, 100, 0, 0), "raw page"),
        ((1 << 62, 100, 0x20, 0), "incomplete"),
    ],
)
def test_damaged_descriptors_are_named(tmp_path: Path, descriptor: tuple[int, ...], text: str) -> None:
    at = (1 + 1 + 2) * PAGE + 24 * 4
    with opened(tmp_path, patched(GOOD, at, struct.pack("<qIIQ", *descriptor))) as dump:
        with pytest.raises(KdumpError, match=text):
            dump.memory.view(64 * PAGE, 1)
        assert dump.memory.view(66 * PAGE, PAGE) == PAGES[66]


@pytest.mark.parametrize("codec", [1, 2, 4, 0x20])
@pytest.mark.parametrize("size", [PAGE - 1, PAGE + 1, 20 * PAGE])
def test_a_page_of_another_size_is_refused(tmp_path: Path, codec: int, size: int) -> None:
    data = kdump(PAGES | {1098: b"z" * PAGE}, ram=RAM, codec=codec)
    packed = {1: _zlib, 2: _lzo, 4: _snappy, 0x20: _zstd}[codec](b"z" * size)
    at = (1 + 1 + 2) * PAGE + 24 * (len(PAGES) - 1)
    data = patched(data, at, struct.pack("<qIIQ", len(data), len(packed), codec, 0)) + packed
    with opened(tmp_path, data) as dump, pytest.raises(FormatError, match="decompress"):
        dump.memory.view(1098 * PAGE, 1)


def _zlib(data: bytes) -> bytes:
    import zlib

    return zlib.compress(data)


def _lzo(data: bytes) -> bytes:
    from lzallright import LZOCompressor

    packed: bytes = LZOCompressor().compress(data)
    return packed


def _snappy(data: bytes) -> bytes:
    from cramjam import snappy

    return bytes(snappy.compress_raw(data))


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize(("codec", "library"), [(2, "lzallright"), (4, "cramjam")])
def test_a_library_that_is_missing_is_done_without(
    codec: int, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = kdump(PAGES, ram=RAM, codec=codec)
    monkeypatch.setitem(sys.modules, library, None)
    with opened(tmp_path, data) as dump:
        assert dump.memory.view(64 * PAGE, PAGE) == PAGES[64]


def test_threads_share_a_dump(tmp_path: Path) -> None:
    wrong: list[int] = []

    def read(dump: Dump, seed: int) -> None:
        for pfn in np.random.default_rng(seed).choice(list(PAGES), 2000).tolist():
            if dump.memory.view(pfn * PAGE, PAGE) != PAGES[pfn]:
                wrong.append(pfn)

    with opened(tmp_path, GOOD) as dump:
        threads = [threading.Thread(target=read, args=(dump, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
