"""Typed access to objects in a small made-up memory, intact and damaged."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.kernel import fakes

from kdump.errors import KdumpError, NotPresentError
from kdump.kernel import btf
from kdump.kernel.kallsyms import load as load_symbols
from kdump.kernel.objects import MissingMemberError, NoNumberError, Objects

TEXT = 0xFFFFFFFF81000000
DATA = 0xFFFF888000000000


def types() -> btf.Btf:
    out = fakes.Btf()
    integer, long, char = out.integer("int", 4, signed=True), out.integer("unsigned long", 8), out.integer("char", 1)
    node = out.struct("list_head", 16, [("next", 5, 0, 0), ("prev", 5, 64, 0)])
    pointer = out.add("", btf.PTR, node)
    assert pointer == 5
    comm = out.add("", btf.ARRAY, 0, struct.pack("<III", char, integer, 16))
    out.struct(
        "task", 64, [("list", node, 0, 0), ("pid", integer, 128, 0), ("comm", comm, 160, 0), ("self", 9, 320, 0)]
    )
    forward = out.add("task", btf.FWD, 0)
    assert out.add("", btf.PTR, forward) == 9
    out.struct("bits", 8, [("low", integer, 0, 3), ("high", integer, 3, 5), ("wide", long, 16, 40)])
    rb = out.add("", btf.PTR, 12)
    assert (
        out.struct("rb_node", 24, [("__rb_parent_color", long, 0, 0), ("rb_right", rb, 64, 0), ("rb_left", rb, 128, 0)])
        == 12
    )
    out.struct("rb_root", 8, [("rb_node", rb, 0, 0)])
    out.struct("item", 32, [("node", 12, 0, 0), ("key", long, 192, 0)])
    slots = out.add("", btf.ARRAY, 0, struct.pack("<III", long, integer, 4))
    out.struct("xa_node", 40, [("shift", char, 0, 0), ("slots", slots, 64, 0)])
    out.struct("xarray", 8, [("xa_head", long, 0, 0)])
    return btf.Btf(out.build())


def objects(**memory: bytes) -> Objects:
    """Objects over pages at DATA + the number in each name ("at_0", "at_1000" in hex)."""
    pieces = {DATA + int(name.removeprefix("at_"), 16): data.ljust(4096, b"\0") for name, data in memory.items()}
    symbols = load_symbols(
        *fakes.kallsyms([("_stext", TEXT, "T"), ("init_task", TEXT + 16, "D"), ("end", TEXT + 64, "D")])
    )
    view = fakes.Pieces(pieces)

    def cstring(address: int, limit: int = 256) -> bytes:
        return bytes(view.view(address, limit)).split(b"\0")[0]

    virtual = SimpleNamespace(view=view.view, cstring=cstring)
    return Objects(cast("Any", SimpleNamespace(types=types(), symbols=symbols, virtual=virtual)))


def task(address: int, following: int, previous: int, pid: int, name: bytes) -> bytes:
    return struct.pack("<QQi16s4xQ", following, previous, pid, name, address).ljust(64, b"\0")


def three(last: int = DATA) -> Objects:
    """A list head at DATA and tasks at +0x100, +0x200; the last links to `last`."""
    page = bytearray(4096)
    one, two = DATA + 0x100, DATA + 0x200
    page[0:16] = struct.pack("<QQ", one, two)
    page[0x100:0x140] = task(one, two, DATA, -7, b"first")
    page[0x200:0x240] = task(two, last, one, 9, b"second\xff\x1b")
    return objects(at_0=bytes(page))


def test_members_pointers_and_strings() -> None:
    space = three()
    first = space.struct("task", DATA + 0x100)
    assert (first.pid, space.string(first.comm)) == (-7, "first")
    assert first.self.self.pid == -7  # through the forward declaration
    assert first.list.next == DATA + 0x200 and bool(first.list.next)
    assert first.self[2].pid == 0  # pointer arithmetic in units of the struct
    assert len(first.comm) == 16 and first.comm[0] == ord("f")
    assert space.string(space.struct("task", DATA + 0x200).comm) == "second\ufffd\x1b"
    assert space.container(DATA + 0x110, "task", "pid").pid == -7
    with pytest.raises(AttributeError, match="struct task of this kernel has no member 'gone'"):
        first.gone  # noqa: B018 - read for what it raises
    assert space.has(first, "list.next") and not space.has(first, "gone")
    with pytest.raises(NotPresentError, match="cannot be read"):
        space.struct("task", DATA + 0x5000).pid  # noqa: B018


def test_bit_fields() -> None:
    space = objects(at_0=struct.pack("<HIH", 0b10101_011, 0x89ABCDEF, 0x00F1))
    bits = space.struct("bits", DATA)
    assert (bits.low, bits.high, bits.wide) == (3, 0b10101 - 32, 0xF189ABCDEF)


def test_lists() -> None:
    space = three()
    assert [found.pid for found in space.list(DATA, "task", "list")] == [-7, 9]
    assert space.problems == []


@pytest.mark.parametrize(
    ("last", "problem"),
    [(DATA + 0x100, "runs in a circle"), (0xDEAD000000000100, "breaks off"), (DATA + 0x9000, "breaks off")],
)
def test_damaged_lists_end_with_a_note(last: int, problem: str) -> None:
    space = three(last)
    found = []
    for member in space.list(DATA, "task", "list"):
        try:
            found.append(member.pid)
        except KdumpError:
            break
    assert found == [-7, 9]
    list(space.list(DATA, "task", "list"))
    assert any(problem in text for text in space.problems), space.problems
    limited = three(DATA + 0x100)
    assert len(list(limited.nodes(DATA, 1))) == 1
    assert "more than 1 entries" in limited.problems[0]


def test_trees() -> None:
    page = bytearray(4096)

    def node(offset: int, left: int, right: int, key: int) -> None:
        page[offset : offset + 32] = struct.pack("<QQQQ", 1, right, left, key)

    page[0:8] = struct.pack("<Q", DATA + 0x100)
    node(0x100, DATA + 0x200, DATA + 0x300, 2)
    node(0x200, 0, 0, 1)
    node(0x300, 0, 0, 3)
    space = objects(at_0=bytes(page))
    root = space.struct("rb_root", DATA)
    assert [item.key for item in space.rbtree(root, "item", "node")] == [1, 2, 3]
    node(0x300, DATA + 0x100, 0, 3)
    circular = objects(at_0=bytes(page))
    assert len(list(circular.rbtree(circular.struct("rb_root", DATA), "item", "node"))) <= 3
    assert "does not end" in circular.problems[0]


def test_xarrays() -> None:
    page = bytearray(8192)
    inner = DATA + 0x1000
    page[0:8] = struct.pack("<Q", inner | 2)
    page[0x1000:0x1028] = struct.pack("<B7xQQQQ", 2, 0, DATA + 0x1100 | 2, DATA + 0x500, 6)
    page[0x1100:0x1128] = struct.pack("<B7xQQQQ", 0, DATA + 0x600, 0, 0, DATA + 0x700)
    space = objects(at_0=bytes(page))
    space.kernel.virtual.view = fakes.Pieces({DATA: bytes(page)}).view  # type: ignore[method-assign]
    space = Objects(space.kernel)
    entries = list(space.xarray(space.struct("xarray", DATA)))
    assert entries == [(4, DATA + 0x600), (7, DATA + 0x700), (8, DATA + 0x500)]


def test_numbers_and_symbols() -> None:
    space = three()
    assert space.number("missing") is None
    with pytest.raises(KeyError, match="missing"):
        space.variable("missing", "task")
    assert space.signed(DATA + 0x110) == -7 and space.unsigned(DATA + 0x110, 4) == (1 << 32) - 7


def test_a_struct_where_a_number_is_expected_is_the_dumps_error() -> None:
    found = three().struct("task", DATA + 0x100)
    uses: list[Callable[[Any], object]] = [
        int,
        lambda it: it + 1,
        lambda it: 2 & it,
        lambda it: it < 3,
        [0].__getitem__,
    ]
    for value in (found.list, found.comm):
        for use in uses:
            with pytest.raises(NoNumberError, match="is not a number in this kernel"):
                use(value)
    with pytest.raises(MissingMemberError, match="has no member 'nonsense'"):
        _ = found.nonsense
    assert not hasattr(found, "nonsense")
