"""Flattened files: any order of records, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.memory.writers import PAGE, Load, elf, flattened, kdump, records

from kdump.errors import FormatError
from kdump.memory import open_dump
from kdump.memory.flattened import FlattenedSource
from kdump.memory.source import FileSource

PAGES = {pfn: (b"page %d " % pfn).ljust(PAGE, b".") for pfn in range(64, 200)}
INNER = kdump(PAGES, ram=[(0, 300)])


def source(tmp_path: Path, data: bytes) -> FlattenedSource:
    path = tmp_path / "flat"
    path.write_bytes(data)
    return FlattenedSource(FileSource(path))


def test_any_order_of_records(tmp_path: Path) -> None:
    order = list(range(-(-len(INNER) // 1000)))
    random.Random(1).shuffle(order)
    path = tmp_path / "flat"
    path.write_bytes(flattened(INNER, order=order))
    with open_dump(path) as dump:
        assert dump.format == "flattened+kdump"
        assert not dump.incomplete
        for pfn, page in PAGES.items():
            assert dump.memory.view(pfn * PAGE, PAGE) == page


def test_elf_inside(tmp_path: Path) -> None:
    path = tmp_path / "flat"
    path.write_bytes(flattened(elf([Load(0x1000, b"A" * PAGE)])))
    with open_dump(path) as dump:
        assert dump.format == "flattened+elf"
        assert bytes(dump.memory.view(0x1FFF, 1)) == b"A"


def test_gaps_are_zeros_and_views_span_records(tmp_path: Path) -> None:
    inner = source(tmp_path, records([(20, b"abc"), (0, b"0123456789"), (10, b"x")]))
    assert inner.size == 23
    assert inner.view(8, 15) == b"89x" + bytes(9) + b"abc"
    assert inner.view(11, 9) == bytes(9)
    assert not inner.incomplete


def test_a_record_written_again_replaces(tmp_path: Path) -> None:
    assert bytes(source(tmp_path, records([(0, b"old"), (3, b"xyz"), (0, b"new")])).view(0, 6)) == b"newxyz"


def test_missing_end_marker_is_incomplete(tmp_path: Path) -> None:
    path = tmp_path / "flat"
    whole = flattened(INNER, end=False)
    path.write_bytes(whole[:-3000])
    with open_dump(path) as dump:
        assert dump.incomplete
        assert dump.memory.view(64 * PAGE, PAGE) == PAGES[64]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (flattened(INNER)[:100], "no room"),
        (records([(0, b"abcd"), (3, b"xyz")]), "two records hold the bytes at 0x3"),
        (records([(-7, b"abcd")]), "a record"),
        (records([(5, b"")]), "a record"),
        (records([((1 << 63) - 1, b"abcd")]), "a record"),
        (records([])[:16] + b"\0" * 16 + records([])[32:], "type 0"),
    ],
)
def test_damage_is_named(tmp_path: Path, data: bytes, text: str) -> None:
    with pytest.raises(FormatError, match=text) as caught:
        source(tmp_path, data)
    assert caught.value.path.endswith("flat")
