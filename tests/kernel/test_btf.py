"""Type sections written by a small writer, read by ours; damage and hostility bounded."""

from __future__ import annotations

import random
import struct

import pytest
from tests.kernel import fakes

from kdump.errors import FormatError, KdumpError
from kdump.kernel import btf


def section() -> fakes.Btf:
    out = fakes.Btf()
    integer = out.integer("unsigned int", 4)
    signed = out.integer("int", 4, signed=True)
    long = out.integer("unsigned long", 8)
    inner = out.struct("", 16, [("next", long, 0, 0), ("prev", long, 64, 0)])
    union = out.struct("", 16, [("", inner, 0, 0), ("private", long, 64, 0)], kind=btf.UNION)
    out.struct("page", 64, [("flags", long, 0, 0), ("", union, 64, 0), ("refs", signed, 192, 0)])
    out.struct("orc", 6, [("sp", integer, 32, 4), ("bp", integer, 36, 4), ("kind", integer, 40, 3)])
    out.add("list", btf.TYPEDEF, inner)
    page = out.add("page", btf.FWD, 0)  # a declaration without body must not hide the struct
    out.add("", btf.PTR, page)
    out.add("", btf.ARRAY, 0, struct.pack("<III", long, integer, 7))
    names = [("RED", 0), ("BLUE", 0xFFFFFFFF)]
    body = b"".join(struct.pack("<II", out.string(name), value) for name, value in names)
    out.add("colour", btf.ENUM, 4, body, 2, flag=True)
    out.add("wide", btf.ENUM64, 8, struct.pack("<III", out.string("HUGE"), 1, 2), 1)
    prototype = out.add("", btf.FUNC_PROTO, 0, struct.pack("<II", out.string("count"), long), 1)
    out.add("do_it", btf.FUNC, prototype, length=1)
    variable = out.add("current_task", btf.VAR, long, struct.pack("<I", 1))
    out.add(".data..percpu", btf.DATASEC, 64, struct.pack("<III", variable, 8, 8), 1)
    out.add("double", btf.FLOAT, 8)
    out.add("tag", btf.DECL_TAG, variable, struct.pack("<i", -1))
    out.add("user", btf.TYPE_TAG, long)
    return out


def test_structs() -> None:
    types = btf.Btf(section().build())
    page = types.struct("page")
    assert (page.size, page.kind) == (64, btf.STRUCT)
    assert [page.offset(name) for name in ("flags", "next", "prev", "private", "refs")] == [0, 8, 16, 16, 24]
    assert page.has("prev") and not page.has("prev.next") and not page.has("gone")
    assert page.first("gone", "private") == page.member("private")
    with pytest.raises(KeyError, match="page has no member 'gone'"):
        page.offset("gone")
    assert types.struct("list").size == 16
    with pytest.raises(KeyError, match="no struct nothing"):
        types.struct("nothing")
    orc = types.struct("orc")
    assert [(m.offset, m.bits, m.shift) for m in orc.members.values()] == [(4, 4, 0), (4, 4, 4), (4, 3, 8)]


def test_everything_else() -> None:
    types = btf.Btf(section().build())
    assert types.enum("colour") == {"RED": 0, "BLUE": -1}
    assert types.enumerator("HUGE") == 2 << 32 | 1
    assert types.enumerator("BLUE") == -1
    with pytest.raises(KeyError, match="no enumerator page"):
        types.enumerator("page")
    function = types.find("do_it", btf.FUNC)
    assert function is not None
    assert [(name, kind.describe()) for name, kind in function.parameters()] == [("count", "unsigned long")]
    variable = types.find("current_task", btf.VAR)
    assert variable is not None and types.by_id(variable.target).describe() == "unsigned long"
    array = next(kind for kind in map(types.by_id, range(1, types.limit)) if kind.kind == btf.ARRAY)
    assert (array.sizeof(), array.length, array.describe()) == (56, 7, "unsigned long [7]")
    signed = types.find("int", btf.INT)
    assert signed is not None and types.int_encoding(signed) == (True, False, False)


def test_split_section_stands_on_its_base() -> None:
    base = btf.Btf(section().build())
    writer = fakes.Btf(base.limit, len(section().strings))
    page = base.struct("page")
    writer.struct("mine", 80, [("page", page.id, 0, 0), ("extra", 3, 512, 0)])
    split = btf.Btf(writer.build(), base)
    assert split.struct("mine").offset("page.private") == 16
    assert split.struct("page") == page
    assert split.enumerator("RED") == 0
    with pytest.raises(KeyError, match="no struct mine"):
        base.struct("mine")


def test_cycles_end() -> None:
    out = fakes.Btf()
    out.add("a", btf.TYPEDEF, 2)
    out.add("b", btf.TYPEDEF, 1)
    out.struct("own", 8, [("", 3, 0, 0), ("x", 3, 0, 0)])
    out.add("", btf.PTR, 5)
    out.add("", btf.CONST, 4)
    types = btf.Btf(out.build())
    for call in (lambda: types.by_id(1).resolve(), lambda: types.by_id(1).sizeof(), lambda: types.by_id(4).describe()):
        with pytest.raises(FormatError, match="without end"):
            call()
    assert list(types.struct("own").members) == ["x"]
    with pytest.raises(FormatError, match="there is no type 99"):
        types.by_id(99)


def test_unknown_kind_names_itself() -> None:
    out = fakes.Btf()
    out.add("new", 25, 0)
    with pytest.raises(FormatError, match="kind 25 is unknown"):
        btf.Btf(out.build())


def test_damage_never_escapes_as_anything_but_our_errors() -> None:
    raw = section().build()
    chance = random.Random(1)
    refused = 0
    for _ in range(400):
        damaged = bytearray(raw)
        for _ in range(chance.randrange(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        if chance.random() < 0.3:
            del damaged[chance.randrange(len(damaged)) :]
        try:
            types = btf.Btf(bytes(damaged))
            for number in range(1, types.limit):
                kind = types.by_id(number)
                kind.describe(), kind.sizeof(), kind.members, kind.enumerators(), kind.parameters()
        except KdumpError:
            refused += 1
    assert 0 < refused < 400
