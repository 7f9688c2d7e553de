"""Fields of many objects as arrays: the same values as one by one, across pages, with holes and damage between."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.kernel import fakes
from tests.kernel.test_objects import DATA, types

from kdump.errors import NotPresentError
from kdump.kernel.objects import Objects

PAGE = 4096


class Flat:
    """Pages at DATA, page n in frame 100 - n; the memory that a column reads, by frames, and a struct, by addresses."""

    page_size = PAGE

    def __init__(self, *pages: bytes | None) -> None:
        self.pages = [None if page is None else page.ljust(PAGE, b"\0") for page in pages]

    def frames(self, numbers: NDArray[np.uint64]) -> NDArray[np.int64]:
        index = numbers.astype(np.int64) - (DATA >> 12)
        return np.where((index >= 0) & (index < len(self.pages)), 100 - index, -1)

    def view(self, address: int, size: int) -> memoryview:
        page = self.pages[100 - address // PAGE] if 0 <= 100 - address // PAGE < len(self.pages) else None
        if page is None:
            raise NotPresentError(address)
        return memoryview(page)[address % PAGE : address % PAGE + size]


def objects(*pages: bytes | None) -> Objects:
    flat = Flat(*pages)
    whole = fakes.Pieces({DATA + PAGE * n: page for n, page in enumerate(flat.pages) if page is not None})
    virtual = SimpleNamespace(view=whole.view, frames=flat.frames)
    kernel = SimpleNamespace(types=types(), symbols={}, virtual=virtual, memory=flat)
    return Objects(cast("Any", kernel))


def test_fields_are_those_of_the_structs() -> None:
    """Signed numbers, names across a boundary of words, pointers; one struct lies across two pages, in any order."""
    raw = bytearray(2 * PAGE)
    places = [0x40, PAGE - 24, 0x200]
    for number, place in enumerate(places):
        struct.pack_into("<QQi16s4xQ", raw, place, 1, 2, -number - 1, b"name %d" % number, DATA + place)
    space = objects(bytes(raw[:PAGE]), bytes(raw[PAGE:]))
    asked = [DATA + places[1], DATA + places[0], DATA + places[2], DATA + places[1]]
    table = space.columns.table("task", asked, "pid", "comm", "self", "list.prev")
    assert table.ok.all() and len(table) == 4
    assert table["pid"].tolist() == [-2, -1, -3, -2]
    assert table["comm"].tolist() == [b"name 1", b"name 0", b"name 2", b"name 1"]
    assert table["self"].tolist() == asked
    structs = [space.struct("task", address) for address in asked]
    assert [(found.pid, int(found.list.prev)) for found in structs] == list(
        zip(table["pid"].tolist(), table["list.prev"].tolist(), strict=True)
    )


def test_bit_fields() -> None:
    value = 5 | 19 << 3 | 0xABCDEF1234 << 16
    table = objects(struct.pack("<Q", value)).columns.table("bits", [DATA], "low", "high", "wide")
    assert [int(table[name][0]) & (1 << width) - 1 for name, width in (("low", 3), ("high", 5), ("wide", 40))] == [
        5, 19, 0xABCDEF1234,
    ]  # fmt: skip


def test_what_cannot_be_read_is_marked_and_zero() -> None:
    space = objects(struct.pack("<QQi", 1, 2, 7), None, struct.pack("<QQi", 1, 2, 9))
    asked = [DATA, DATA + PAGE, DATA + 2 * PAGE, DATA + 64 * PAGE, DATA + 3]
    table = space.columns.table("task", asked, "pid")
    assert table.ok.tolist() == [True, False, True, False, False]
    assert table["pid"][table.ok].tolist() == [7, 9]
    assert space.columns.table("task", [], "pid").ok.tolist() == []
    assert space.columns.pointers([DATA, 0, DATA + PAGE]).tolist() == [1, 0, 0]


@pytest.mark.parametrize(("dtype", "expected"), [("i4", -7), ("u2", 0xFFF9), ("i8", -7)])
def test_numbers_anywhere(dtype: str, expected: int) -> None:
    space = objects(bytes(8) + struct.pack("<q", -7))
    assert space.columns.numbers([[DATA + 8]], dtype).tolist() == [[expected]]


def test_strings_end_at_a_nul_or_the_limit() -> None:
    space = objects(b"...first\0" + b"x" * 100)
    assert space.columns.strings([DATA + 3, DATA + 9, 0], 8) == ["first", "x" * 8, ""]


def node(left: int, right: int) -> bytes:
    return struct.pack("<QQQ", 1, right, left)


def test_trees_whole_broken_and_endless() -> None:
    space = objects(node(DATA + 0x20, DATA + 0x40).ljust(32) + node(0, 0).ljust(32) + node(0, DATA + PAGE))
    assert sorted(space.columns.tree(DATA).tolist()) == [DATA, DATA + 0x20, DATA + 0x40, DATA + PAGE]
    assert space.problems == ["a red-black tree breaks off: some of its nodes cannot be read"]
    circle = objects(node(DATA, DATA))
    assert len(circle.columns.tree(DATA, limit=1000)) <= 1000
    assert circle.problems == ["a red-black tree does not end"]
    assert len(circle.columns.tree(0)) == 0


@pytest.mark.parametrize("many", [1, 12])
def test_chains_end_at_zero_at_odd_numbers_and_at_circles(many: int) -> None:
    """Few chains are followed one by one, many together."""
    words = [0] * 512
    words[0], words[1], words[2] = DATA + 8, DATA + 16, 0x31
    space = objects(struct.pack("<512Q", *words))
    found = space.columns.chains([DATA] * many + [0, 1])
    assert sorted(found.tolist()) == sorted([DATA, DATA + 8, DATA + 16] * many)
    words[2] = DATA
    space = objects(struct.pack("<512Q", *words))
    assert len(space.columns.chains([DATA] * many, limit=500)) <= 500 + many
    assert space.problems
