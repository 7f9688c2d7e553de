"""Exported symbols, types and the list of modules, out of an image whose kallsyms has only functions."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.kernel import fakes

from kdump.errors import NotPresentError
from kdump.kernel import btf
from kdump.kernel.exports import Piece, exported, find_types, module_list, per_cpu
from kdump.kernel.kallsyms import Kallsyms, UnknownSymbolError, load

BASE = 0xFFFF_8000_8000_0000
STRINGS, TABLE, TYPES = 0x1000, 0x2000, 0x4000
MODULE = 0xFFFF_8000_7A00_0000
SYMBOLS = {
    "__per_cpu_offset": 0x5000, "init_task": 0x5100, "kfree": 0x200, "numa_node": 0x7008, "panic": 0x300,
    "jiffies": 0x5200,
}  # fmt: skip


def kernel_types() -> bytes:
    out = fakes.Btf()
    integer = out.integer("unsigned int", 4)
    long = out.integer("unsigned long", 8)
    characters = out.add("", btf.ARRAY, 0, struct.pack("<III", integer, integer, 14))
    out.struct("module", 128, [("state", integer, 0, 0), ("list", long, 64, 0), ("name", characters, 192, 0)])
    variables = [
        (out.add(name, btf.VAR, long, struct.pack("<I", 1)), at) for name, at in (("runqueues", 0x40), ("numa_node", 8))
    ]
    body = b"".join(struct.pack("<III", number, at, 8) for number, at in variables)
    out.add(".data..percpu", btf.DATASEC, 0x80, body, len(variables))
    return out.build()


@pytest.fixture
def image() -> bytearray:
    """Names at 0x1000, of which one is the end of a longer one, the table at 0x2000, types at 0x4000."""
    data = bytearray(0x8000)
    places, at = {}, STRINGS
    for name in SYMBOLS:
        text = (b"dev_" if name == "panic" else b"") + name.encode() + b"\0"
        data[at : at + len(text)] = text
        places[name] = at + len(text) - len(name) - 1
        at += len(text)
    for number, (name, value) in enumerate(SYMBOLS.items()):
        entry = TABLE + 12 * number
        struct.pack_into("<iii", data, entry, value - entry, places[name] - entry - 4, 0)
    data[TYPES - 0x800 : TYPES - 0x7F8] = b"\x9f\xeb\x01\x00\x18\x00\x00\x00"  # begins as types do, and is none
    types = kernel_types()
    data[TYPES : TYPES + len(types)] = types
    return data


def functions() -> Kallsyms:
    return load(*fakes.kallsyms([("_stext", BASE, "T"), ("kfree", BASE + 0x200, "T"), ("panic", BASE + 0x300, "T")]))


def test_the_tables_are_found_by_functions_that_are_known(image: bytearray) -> None:
    pieces = [Piece(BASE - 0x10_0000, memoryview(bytes(4096))), Piece(BASE, memoryview(bytes(image)))]
    assert exported(pieces, functions()) == {name: BASE + at for name, at in SYMBOLS.items()}
    assert exported([Piece(BASE, memoryview(bytes(0x8000)))], functions()) == {}
    struct.pack_into("<i", image, TABLE + 24, 0x204 - TABLE - 24)  # the entry of kfree: not where kallsyms has it
    assert set(exported([Piece(BASE, memoryview(bytes(image)))], functions())) == set(SYMBOLS), "panic is one, too"


def test_types_and_per_cpu_variables(image: bytearray) -> None:
    piece = Piece(BASE, memoryview(bytes(image)))
    types = find_types([piece])
    assert types is not None and types.struct("module").size == 128
    symbols = functions()
    assert per_cpu(types, symbols) == {}, "nothing says where they begin"
    symbols.add(exported([piece], symbols))
    assert per_cpu(types, symbols) == {"runqueues": BASE + 0x7040, "numa_node": BASE + 0x7008}
    assert find_types([Piece(BASE, memoryview(bytes(4096)))]) is None


def test_symbols_that_are_not_known_are_not_called_absent(image: bytearray) -> None:
    symbols = functions()
    with pytest.raises(KeyError, match="slab_caches"):
        symbols.address("slab_caches")
    symbols.add({"jiffies": BASE})
    assert symbols.address("jiffies") == BASE and symbols.addresses("jiffies") == [BASE]
    assert symbols.address("kfree") == BASE + 0x200 and symbols.addresses("gone") == []
    with pytest.raises(UnknownSymbolError, match="does not say where slab_caches is"):
        symbols.address("slab_caches")


def test_the_list_of_modules_is_a_head_that_its_first_module_points_back_to(image: bytearray) -> None:
    types = btf.Btf(kernel_types())
    head, other = BASE + 0x6000, BASE + 0x6100
    struct.pack_into("<QQ", image, 0x6000, MODULE + 8, MODULE + 8)
    struct.pack_into("<Q", image, 0x6100, MODULE + 0x100 + 8)  # a list of something else: no name where one should be
    module = bytearray(0x200)
    struct.pack_into("<IIQQ", module, 0, 0, 0, head, head)
    module[24:32] = b"virtio\0\0"
    struct.pack_into("<IIQQ", module, 0x100, 7, 0, other, other)
    memory = fakes.Pieces({MODULE: bytes(module)})

    class Virtual:
        def u64(self, address: int) -> int:
            return int.from_bytes(memory.view(address, 8), "little")

        def u32(self, address: int) -> int:
            return int.from_bytes(memory.view(address, 4), "little")

        def cstring(self, address: int, limit: int) -> bytes:
            return bytes(memory.view(address, min(limit, 16))).partition(b"\0")[0]

    pieces = [Piece(BASE, memoryview(bytes(image)))]
    room = range(MODULE - 0x1000, MODULE + 0x10_0000)
    assert module_list(pieces, cast("Any", Virtual()), types, room) == head
    assert module_list(pieces, cast("Any", Virtual()), types, range(0)) is None


def test_a_part_of_the_image_that_is_not_in_the_dump_is_left_out() -> None:
    from kdump.kernel.exports import image as find_image
    from kdump.memory.virtual import Extent

    page = 4096

    def view(address: int, size: int) -> memoryview:
        if address <= BASE + page < address + size:
            raise NotPresentError(address, size, virtual=True)
        return memoryview(bytes(size))

    extents = [Extent(BASE, 0x4000_0000, 3 * page), Extent(BASE + 8 * page, 0x9000_0000, page)]
    virtual = SimpleNamespace(
        translate=lambda _: 0x4000_0000, extents=lambda *_: extents, view=view,
        memory=SimpleNamespace(page_size=page),
    )  # fmt: skip
    found = find_image(cast("Any", virtual), BASE)
    assert [(piece.start, len(piece.data)) for piece in found] == [(BASE, page), (BASE + 2 * page, page)]
