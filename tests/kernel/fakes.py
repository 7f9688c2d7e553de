"""Small writers of the tables a kernel keeps in its memory: enough to test readers without a dump."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from kdump.errors import NotPresentError
from kdump.kernel.vmcoreinfo import VmCoreInfo


class Pieces:
    """Virtual memory made of a few pieces; what is between them is not present."""

    def __init__(self, pieces: Mapping[int, bytes]) -> None:
        self.pieces = dict(pieces)

    def view(self, address: int, size: int) -> memoryview:
        for start, data in self.pieces.items():
            if start <= address and address + size <= start + len(data):
                return memoryview(data)[address - start : address - start + size]
        raise NotPresentError(address, size, virtual=True)


def kallsyms(
    symbols: Sequence[tuple[str, int, str]],
    *,
    encoding: str = "absolute-percpu",
    wide: bool = True,
    where: int = 0x1000000,
) -> tuple[Pieces, VmCoreInfo]:
    """The tables of scripts/kallsyms.c for (name, address, type letter) sorted by address; "__" becomes a token."""
    tokens = {code: bytes([code]) if 33 <= code < 127 else b"" for code in range(256)}
    tokens[200] = b"__"
    tokens[201] = b"a_long_token_of_many_characters_"
    names, places = bytearray(), []
    for name, _, kind in symbols:
        places.append(len(names))
        codes = (kind + name).encode()
        codes = codes.replace(tokens[201], bytes([201])).replace(b"__", bytes([200]))
        if wide and len(codes) >= 128:
            names += bytes([len(codes) & 0x7F | 0x80, len(codes) >> 7])
        else:
            names.append(len(codes))
        names += codes
    markers = b"".join(struct.pack("<I", place) for place in places[::256])
    table, index = bytearray(), bytearray()
    for code in range(256):
        index += struct.pack("<H", len(table))
        table += tokens[code] + b"\0"
    addresses = [address for _, address, _ in symbols]
    base = min(address for address in addresses if address > 1 << 40)
    at = {"num_syms": where, "names": where + 8}
    padded = bytes(names) + bytes(-len(names) % 8)
    at["token_table"] = at["names"] + len(padded) + len(markers) + (-len(markers) % 8)
    at["token_index"] = at["token_table"] + len(table) + (-len(table) % 8)
    at["relative_base"] = at["token_index"] + 512
    at["offsets"] = at["relative_base"] + 8
    blob = struct.pack("<Q", len(symbols)) + padded + markers + bytes(-len(markers) % 8)
    blob += bytes(table) + bytes(-len(table) % 8) + bytes(index) + struct.pack("<Q", base)
    if encoding == "absolute":
        at["addresses"] = at.pop("offsets")
        blob += struct.pack(f"<{len(addresses)}Q", *addresses)
    elif encoding == "absolute-percpu":
        blob += b"".join(struct.pack("<i", a if a < 1 << 31 else base - 1 - a) for a in addresses)
    elif encoding == "base-relative":
        blob += b"".join(struct.pack("<I", a - base) for a in addresses)
    elif encoding == "place-relative":
        blob += b"".join(struct.pack("<i", a - (at["offsets"] + 4 * i)) for i, a in enumerate(addresses))
        del at["relative_base"]
    info = VmCoreInfo(b"", {f"kallsyms_{name}": address for name, address in at.items()})
    stext = [address for name, address, _ in symbols if name == "_stext"]
    return Pieces({where: blob}), VmCoreInfo(b"", {**info.symbols, **({"_stext": stext[0]} if stext else {})})


class Btf:
    """Writes a BTF section (include/uapi/linux/btf.h), type by type; each method returns the new type's id."""

    def __init__(self, first_id: int = 1, first_string: int = 0) -> None:
        self.first_id, self.first_string = first_id, first_string
        self.types: list[bytes] = []
        self.strings = bytearray(b"" if first_string else b"\0")

    def string(self, text: str) -> int:
        if not text:
            return 0
        place = self.first_string + len(self.strings)
        self.strings += text.encode() + b"\0"
        return place

    def add(self, name: str, kind: int, third: int, body: bytes = b"", length: int = 0, flag: bool = False) -> int:
        self.types.append(struct.pack("<III", self.string(name), flag << 31 | kind << 24 | length, third) + body)
        return self.first_id + len(self.types) - 1

    def integer(self, name: str, size: int, signed: bool = False) -> int:
        return self.add(name, 1, size, struct.pack("<I", signed << 24 | size * 8))

    def struct(self, name: str, size: int, members: Sequence[tuple[str, int, int, int]], kind: int = 4) -> int:
        """Members are (name, type, offset in bits, bit-field width or 0)."""
        flag = any(bits for *_, bits in members)
        body = b"".join(
            struct.pack("<III", self.string(n), t, bits << 24 | offset if flag else offset)
            for n, t, offset, bits in members
        )
        return self.add(name, kind, size, body, len(members), flag)

    def build(self) -> bytes:
        types = b"".join(self.types)
        return (
            struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(self.strings))
            + types
            + self.strings
        )
