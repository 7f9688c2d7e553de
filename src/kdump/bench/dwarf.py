"""DWARF out of BTF: the kernel's types as debuggers want them, written by array operations in a second.

Source: the DWARF 4 standard (chapters 5 and 7) and Documentation/bpf/btf.rst. Every BTF type becomes one entry whose
size follows from its kind and its number of members, so all places are known after one cumulative sum, and all entries
of a kind are written at once. BTF's strings serve as .debug_str unchanged. There is one unit for vmlinux and one for
each module; references between units are what DW_FORM_ref_addr is for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kdump.errors import FormatError
from kdump.kernel import btf
from kdump.kernel.btf import Raw

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_VERSION = 4
_UNIT_HEADER = 11  # bytes: length, version, offset of the abbreviations, size of an address
_C99 = 0x0C

# Attributes and forms (DWARF 4, figures 20 and 21).
_SIBLING, _LOCATION, _NAME, _BYTE_SIZE, _LOW, _HIGH, _LANGUAGE = 0x01, 0x02, 0x03, 0x0B, 0x11, 0x12, 0x13
_CONST_VALUE, _PRODUCER, _PROTOTYPED, _COUNT, _MEMBER_AT = 0x1C, 0x25, 0x27, 0x37, 0x38
_BIT_SIZE, _DECLARATION, _ENCODING, _EXTERNAL, _TYPE, _BIT_OFFSET = 0x0D, 0x3C, 0x3E, 0x3F, 0x49, 0x6B
_ADDR, _DATA4, _DATA8, _STRING, _DATA1, _FLAG = 0x01, 0x06, 0x07, 0x08, 0x0B, 0x0C
_SDATA, _STRP, _REF_ADDR, _EXPRLOC, _PRESENT = 0x0D, 0x0E, 0x10, 0x18, 0x19
_OP_ADDR = 0x03
_BOOLEAN, _FLOAT, _SIGNED, _SIGNED_CHAR, _UNSIGNED, _UNSIGNED_CHAR = 2, 4, 5, 6, 7, 8

_LEAF, _PARENT = 0, 1
_NAMED, _TYPED, _SIZE4, _SIZE1 = (_NAME, _STRP), (_TYPE, _REF_ADDR), (_BYTE_SIZE, _DATA4), (_BYTE_SIZE, _DATA1)
_FUNCTION = (_NAMED, (_EXTERNAL, _FLAG), (_LOW, _ADDR), (_HIGH, _DATA4))

# name of ours: (tag, has children, attributes). The number of an abbreviation is its place here, from 1 on.
_ABBREVIATIONS: dict[str, tuple[int, int, tuple[tuple[int, int], ...]]] = {
    "unit": (0x11, _PARENT, ((_PRODUCER, _STRING), (_LANGUAGE, _DATA1), (_NAME, _STRING))),
    "code unit": (
        0x11, _PARENT, ((_PRODUCER, _STRING), (_LANGUAGE, _DATA1), (_NAME, _STRING), (_LOW, _ADDR), (_HIGH, _DATA8))
    ),
    "int": (0x24, _LEAF, (_NAMED, _SIZE1, (_ENCODING, _DATA1))),
    "pointer": (0x0F, _LEAF, (_SIZE1, _TYPED)),
    "pointer to void": (0x0F, _LEAF, (_SIZE1,)),
    "array": (0x01, _PARENT, (_TYPED,)),
    "bound": (0x21, _LEAF, ((_COUNT, _DATA4),)),
    "no bound": (0x21, _LEAF, ()),
    "struct": (0x13, _PARENT, (_NAMED, _SIZE4)),
    "struct without name": (0x13, _PARENT, (_SIZE4,)),
    "union": (0x17, _PARENT, (_NAMED, _SIZE4)),
    "union without name": (0x17, _PARENT, (_SIZE4,)),
    "member": (0x0D, _LEAF, (_NAMED, _TYPED, (_MEMBER_AT, _DATA4))),
    "member without name": (0x0D, _LEAF, (_TYPED, (_MEMBER_AT, _DATA4))),
    "bit field": (0x0D, _LEAF, (_NAMED, _TYPED, (_BIT_SIZE, _DATA1), (_BIT_OFFSET, _DATA4))),
    "bit field without name": (0x0D, _LEAF, (_TYPED, (_BIT_SIZE, _DATA1), (_BIT_OFFSET, _DATA4))),
    "enum": (0x04, _PARENT, (_NAMED, _SIZE1)),
    "enum without name": (0x04, _PARENT, (_SIZE1,)),
    "declared enum": (0x04, _LEAF, (_NAMED, (_DECLARATION, _PRESENT))),
    "enumerator": (0x28, _LEAF, (_NAMED, (_CONST_VALUE, _SDATA))),
    "wide enumerator": (0x28, _LEAF, (_NAMED, (_CONST_VALUE, _DATA8))),
    "declared struct": (0x13, _LEAF, (_NAMED, (_DECLARATION, _PRESENT))),
    "declared union": (0x17, _LEAF, (_NAMED, (_DECLARATION, _PRESENT))),
    "typedef": (0x16, _LEAF, (_NAMED, _TYPED)),
    "typedef of void": (0x16, _LEAF, (_NAMED,)),
    "const": (0x26, _LEAF, (_TYPED,)),
    "const void": (0x26, _LEAF, ()),
    "volatile": (0x35, _LEAF, (_TYPED,)),
    "volatile void": (0x35, _LEAF, ()),
    "restrict": (0x37, _LEAF, (_TYPED,)),
    "restrict void": (0x37, _LEAF, ()),
    "prototype": (0x15, _PARENT, ((_PROTOTYPED, _PRESENT), _TYPED)),
    "void prototype": (0x15, _PARENT, ((_PROTOTYPED, _PRESENT),)),
    "function": (0x2E, _PARENT, (*_FUNCTION, (_PROTOTYPED, _PRESENT), _TYPED)),
    "void function": (0x2E, _PARENT, (*_FUNCTION, (_PROTOTYPED, _PRESENT))),
    "untyped function": (0x2E, _LEAF, _FUNCTION),
    "parameter": (0x05, _LEAF, (_NAMED, _TYPED)),
    "parameter without name": (0x05, _LEAF, (_TYPED,)),
    "further parameters": (0x18, _LEAF, ()),
    "constant": (0x34, _LEAF, (_NAMED, _TYPED, (_CONST_VALUE, _DATA4))),
    "variable": (0x34, _LEAF, (_NAMED, _TYPED, (_EXTERNAL, _FLAG), (_LOCATION, _EXPRLOC))),
}  # fmt: skip
_CODES = {name: number for number, name in enumerate(_ABBREVIATIONS, 1)}
_WIDTHS = {
    _ADDR: 8, _DATA4: 4, _DATA8: 8, _DATA1: 1, _FLAG: 1, _STRP: 4, _REF_ADDR: 4, _EXPRLOC: 10, _PRESENT: 0,
}  # fmt: skip
_NARROW = 5  # bytes of a 32-bit number in SLEB128, which may be padded: so all enumerators are alike


def _size(name: str) -> int:
    """Bytes of an entry whose forms all have a fixed width."""
    return 1 + sum(_WIDTHS[form] for _, form in _ABBREVIATIONS[name][2])


class Function(NamedTuple):
    """A function: its prototype is a BTF id (0 if not known)."""

    name: str
    address: int
    size: int
    external: bool
    prototype: int = 0


class Variable(NamedTuple):
    """A global variable: a BTF type, or arrays of pointers to one (`stars`, then `counts` from the left); with `member`
    a struct of `size` bytes without a name, and the name and place of its member of this type.

    One that the compiler did away with has a `value` (of 32 bits) and no address.
    """

    name: str
    address: int
    external: bool
    type: int
    stars: int = 0
    counts: tuple[int, ...] = ()
    member: tuple[str, int] | None = None
    size: int = 0
    value: int | None = None


def abbreviations() -> bytes:
    """.debug_abbrev"""
    out = bytearray()
    for name, (tag, children, attributes) in _ABBREVIATIONS.items():
        out += bytes((_CODES[name], tag, children))
        for attribute, form in attributes:
            out += bytes((attribute, form))
        out += b"\0\0"
    return bytes(out + b"\0")


class Writer:
    """Collects units: first the kernel's, then those of modules. `info` is .debug_info, `strings` .debug_str."""

    def __init__(self, producer: str) -> None:
        self.info = bytearray()
        self.strings = bytearray(b"\0")
        self._producer = producer.encode()
        self._base: _Unit | None = None
        self._extra: dict[str, int] = {}

    def unit(
        self,
        name: str,
        raw: Raw | None,
        functions: Sequence[Function],
        variables: Sequence[Variable],
        text: tuple[int, int] | None = None,
    ) -> None:
        """Add a unit: all types of a section (None if it has none), and what lies in memory. `text` is [low, high)."""
        start = len(self.info)
        head = bytes((_CODES["code unit" if text else "unit"],)) + self._producer + b"\0" + bytes((_C99,))
        head += name.encode() + b"\0"
        if text:
            head += struct.pack("<QQ", text[0], text[1] - text[0])
        place = start + _UNIT_HEADER + len(head)
        body = b""
        unit = self._base
        if raw is not None:
            offset = len(self.strings)
            if self._base is None:
                self.strings = bytearray(raw.strings)
                offset = 0
            else:
                self.strings += raw.strings
            unit = _Unit(raw, self._base, place, offset)
            body = unit.types()
            self._base = self._base or unit
        if unit is None:
            raise FormatError("the kernel's own types come first", field="DWARF")
        place += len(body)
        body += (described := self._functions(unit, functions))
        place += len(described)
        body += self._variables(unit, variables, place) + b"\0"
        length = _UNIT_HEADER - 4 + len(head) + len(body)
        if start + length >= 1 << 32:
            raise FormatError("more types than 32-bit DWARF holds", field="DWARF")
        self.info += struct.pack("<IHIB", length, _VERSION, 0, 8) + head + body

    def string(self, text: str) -> int:
        """Offset of a string in .debug_str."""
        found = self._extra.get(text)
        if found is None:
            found = self._extra[text] = len(self.strings)
            self.strings += text.encode("utf-8", "replace") + b"\0"
        return found

    def _functions(self, unit: _Unit, functions: Sequence[Function]) -> bytes:
        out = bytearray()
        plain = struct.Struct("<BIBQI")
        typed, untyped, void = (_CODES[f"{kind}function"] for kind in ("", "untyped ", "void "))
        for function in functions:
            prototype = unit.prototype(function.prototype)
            head = (self.string(function.name), function.external, function.address, function.size)
            if prototype is None:
                out += plain.pack(untyped, *head)
                continue
            back, parameters = prototype
            out += plain.pack(typed if back else void, *head) + back + parameters
        return bytes(out)

    def _variables(self, unit: _Unit, variables: Sequence[Variable], place: int) -> bytes:
        out = bytearray()
        layout = struct.Struct("<BIIBBBQ")
        made: dict[tuple[int, int, tuple[int, ...]], int] = {}

        def entry(of: int, stars: int, counts: tuple[int, ...]) -> int:
            """Where the type's entry is; those that BTF need not have are made."""
            if not stars and not counts:
                return unit.entry(of)
            key = of, stars, counts
            if key not in made:
                if counts:
                    inner = entry(of, stars, counts[1:])
                    made[key] = place + len(out)
                    out.extend(struct.pack("<BI", _CODES["array"], inner))
                    bound = (
                        struct.pack("<BI", _CODES["bound"], counts[0]) if counts[0] else bytes((_CODES["no bound"],))
                    )
                    out.extend(bound + b"\0")
                elif inner := entry(of, stars - 1, ()):
                    made[key] = place + len(out)
                    out.extend(struct.pack("<BBI", _CODES["pointer"], 8, inner))
                else:
                    made[key] = place + len(out)
                    out.extend(struct.pack("<BB", _CODES["pointer to void"], 8))
            return made[key]

        for variable in variables:
            where = entry(variable.type, variable.stars, variable.counts)
            if variable.member is not None:
                inside = (self.string(variable.member[0]), where, variable.member[1])
                where = place + len(out)
                out += struct.pack("<BI", _CODES["struct without name"], variable.size)
                out += struct.pack("<BIII", _CODES["member"], *inside) + b"\0"
            name = self.string(variable.name)
            if where and variable.value is not None:
                out += struct.pack("<BIII", _CODES["constant"], name, where, variable.value)
            elif where:
                out += layout.pack(_CODES["variable"], name, where, variable.external, 9, _OP_ADDR, variable.address)
        return bytes(out)


class _Unit:
    """The types of one BTF section, at `place` in .debug_info; its strings lie at `strings` in .debug_str."""

    def __init__(self, raw: Raw, base: _Unit | None, place: int, strings: int) -> None:
        self.raw, self.base = raw, base
        self._place, self._strings = place, strings
        words, starts = raw.words, raw.starts
        self._info = words[starts + 1].astype(np.int64)
        self._third = words[starts + 2].astype(np.int64)
        self._kinds = (self._info >> 24) & 0x7F
        self._counts = self._info & 0xFFFFFF
        self._names = words[starts].astype(np.int64)
        self._flags = (self._info >> 31) != 0
        count = len(starts)
        known = base.alias if base else np.zeros(1, np.int64)
        # What a reference to a type means: tags are passed over, and anything that is not a type is void.
        own = np.arange(raw.first_id, raw.first_id + count, dtype=np.int64)
        tags = self._kinds == btf.TYPE_TAG
        own[tags] = self._third[tags]
        own[np.isin(self._kinds, (btf.FUNC, btf.VAR, btf.DATASEC, btf.DECL_TAG))] = 0
        self.alias: Ints = np.concatenate((known, own))
        for _ in range(8):
            self.alias = self.alias[np.minimum(self.alias, len(self.alias) - 1)]
        self._heads, sizes = self._measure()
        ends = np.cumsum(sizes)
        self._places = self._place + ends - sizes  # where each type's entry is in .debug_info
        self._total = int(ends[-1]) if count else 0
        places = np.where(sizes > 0, self._places, 0)
        self.entries: Ints = np.concatenate((base.entries if base else np.zeros(1, np.int64), places))

    def entry(self, number: int) -> int:
        """Where the entry of a type is, 0 for void."""
        return int(self.entries[self.alias[number]]) if 0 <= number < len(self.alias) else 0

    def prototype(self, number: int) -> tuple[bytes, bytes] | None:
        """The attributes of a function of this BTF id after its size: its type (empty for void), and its parameters."""
        if self.base is not None and number < self.raw.first_id:
            return self.base.prototype(number)
        index = number - self.raw.first_id
        if not 0 <= index < len(self._kinds) or self._kinds[index] != btf.FUNC_PROTO:
            return None
        back = self.entry(int(self._third[index]))
        out = bytearray()
        start = int(self.raw.starts[index]) + 3
        pairs = self.raw.words[start : start + 2 * int(self._counts[index])].tolist()
        named, nameless = _CODES["parameter"], _CODES["parameter without name"]
        for name, target in zip(pairs[::2], pairs[1::2], strict=True):
            where = self.entry(target)
            if not where:
                out.append(_CODES["further parameters"])
            elif name:
                out += struct.pack("<BII", named, self._string(name), where)
            else:
                out += struct.pack("<BI", nameless, where)
        return struct.pack("<I", back) if back else b"", bytes(out + b"\0")

    def _string(self, offset: int) -> int:
        first = self.raw.first_string
        return offset if offset < first else self._strings + offset - first

    def _measure(self) -> tuple[Ints, Ints]:
        """Bytes of each type's own entry, and those together with its elements (0 for what gets no entry)."""
        heads = np.zeros(len(self._kinds), np.int64)
        for name, chosen in self._variants():
            heads[chosen] = _size(name)
        sizes = heads.copy()
        arrays = self._kinds == btf.ARRAY
        sizes[arrays] += np.where(self._lengths(arrays) > 0, _size("bound"), _size("no bound")) + 1
        for kind, parts in self._elements():
            np.add.at(sizes, parts.owners, parts.sizes)
            closed = (self._kinds == kind) & (heads > 0)
            if kind in (btf.ENUM, btf.ENUM64):
                closed &= self._counts > 0
            sizes[closed] += 1
        return heads, sizes

    def _variants(self) -> Iterable[tuple[str, Mask]]:
        """Each abbreviation that stands for types, and which types it is for."""
        kinds, named = self._kinds, self._names != 0
        typed = self._entry_of(self._third) != 0
        is_kind = {kind: kinds == kind for kind in range(20)}
        yield "int", is_kind[btf.INT] | is_kind[btf.FLOAT]
        for kind, name, without in (
            (btf.PTR, "pointer", "pointer to void"), (btf.TYPEDEF, "typedef", "typedef of void"),
            (btf.CONST, "const", "const void"), (btf.VOLATILE, "volatile", "volatile void"),
            (btf.RESTRICT, "restrict", "restrict void"), (btf.FUNC_PROTO, "prototype", "void prototype"),
        ):  # fmt: skip
            yield name, is_kind[kind] & typed
            yield without, is_kind[kind] & ~typed
        yield "array", is_kind[btf.ARRAY]
        for kind, name in ((btf.STRUCT, "struct"), (btf.UNION, "union")):
            yield name, is_kind[kind] & named
            yield f"{name} without name", is_kind[kind] & ~named
        enums = is_kind[btf.ENUM] | is_kind[btf.ENUM64]
        yield "enum", enums & named & (self._counts > 0)
        yield "enum without name", enums & ~named & (self._counts > 0)
        yield "declared enum", enums & named & (self._counts == 0)
        yield "declared struct", is_kind[btf.FWD] & ~self._flags
        yield "declared union", is_kind[btf.FWD] & self._flags

    def _entry_of(self, numbers: Ints) -> Ints:
        """The types of these ids (0: void)."""
        return self.alias[np.minimum(numbers, len(self.alias) - 1)]

    def _lengths(self, arrays: Mask) -> Ints:
        return self.raw.words[self.raw.starts[arrays] + 5].astype(np.int64)

    def _elements(self) -> list[tuple[int, _Elements]]:
        """Members, enumerators and parameters of all types of a kind."""
        found = []
        for kind, width in ((btf.STRUCT, 3), (btf.UNION, 3), (btf.ENUM, 2), (btf.ENUM64, 3), (btf.FUNC_PROTO, 2)):
            indexes = np.flatnonzero(self._kinds == kind)
            counts = self._counts[indexes]
            owners = np.repeat(indexes, counts)
            total = len(owners)
            nth = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
            rows = self.raw.starts[owners].astype(np.int64) + 3 + width * nth
            table = self.raw.words[rows[:, None] + np.arange(width)].astype(np.int64).reshape(total, width)
            codes = self._element_codes(kind, owners, table)
            widths = np.zeros(len(_CODES) + 1, np.int64)
            for name in (
                "member", "member without name", "bit field", "bit field without name", "parameter without name",
                "further parameters",
            ):  # fmt: skip
                widths[_CODES[name]] = _size(name)
            widths[_CODES["enumerator"]] = 5 + _NARROW
            widths[_CODES["wide enumerator"]] = _size("wide enumerator")
            found.append((kind, _Elements(owners, table, codes, widths[codes])))
        return found

    def _element_codes(self, kind: int, owners: Ints, table: Ints) -> Ints:
        if kind in (btf.ENUM, btf.ENUM64):
            name = "enumerator" if kind == btf.ENUM else "wide enumerator"
            return np.full(len(table), _CODES[name], np.int64)
        if kind == btf.FUNC_PROTO:
            typed = self._entry_of(table[:, 1]) != 0
            return np.where(typed, _CODES["parameter without name"], _CODES["further parameters"])
        named = table[:, 0] != 0
        bits = self._flags[owners] & (table[:, 2] >> 24 != 0)
        return np.where(
            bits,
            np.where(named, _CODES["bit field"], _CODES["bit field without name"]),
            np.where(named, _CODES["member"], _CODES["member without name"]),
        )

    def types(self) -> bytes:
        """The entries of all types."""
        out = _Bytes(self._total, self._place)
        names = np.where(
            self._names < self.raw.first_string, self._names, self._names + (self._strings - self.raw.first_string)
        )
        for abbreviation, chosen in self._variants():
            columns: dict[int, Ints] = {
                _NAME: names[chosen], _BYTE_SIZE: self._third[chosen],
                _TYPE: self.entries[self._entry_of(self._third[chosen])],
            }  # fmt: skip
            if abbreviation.startswith("pointer"):
                columns[_BYTE_SIZE] = np.full(int(chosen.sum()), 8)
            elif abbreviation == "array":
                elements = self.raw.words[self.raw.starts[chosen] + 3].astype(np.int64)
                columns[_TYPE] = self.entries[self._entry_of(elements)]
            elif abbreviation == "int":
                columns[_ENCODING] = self._encodings(chosen)
            out.entries(abbreviation, self._places[chosen], columns)
        arrays = self._kinds == btf.ARRAY
        behind, lengths = self._places[arrays] + _size("array"), self._lengths(arrays)
        out.entries("bound", behind[lengths > 0], {_COUNT: lengths[lengths > 0]})
        out.entries("no bound", behind[lengths == 0], {})
        for kind, parts in self._elements():
            self._write_elements(out, kind, parts)
        return out.data.tobytes()

    def _encodings(self, chosen: Mask) -> Ints:
        encodings = self.raw.words[np.minimum(self.raw.starts[chosen] + 3, len(self.raw.words) - 1)].astype(np.int64)
        sizes, bits = self._third[chosen], encodings >> 24
        signed = (bits & 1) != 0
        # The name `char` says nothing of its sign; what BTF calls a character or has one byte is printed as one.
        wide = np.where(signed, _SIGNED, _UNSIGNED)
        narrow = np.where(signed, _SIGNED_CHAR, _UNSIGNED_CHAR)
        found = np.where((bits & 4) != 0, _BOOLEAN, np.where(sizes == 1, narrow, wide))
        return np.where(self._kinds[chosen] == btf.FLOAT, _FLOAT, found)

    def _write_elements(self, out: _Bytes, kind: int, parts: _Elements) -> None:
        before = np.cumsum(parts.sizes) - parts.sizes
        firsts = np.ones(len(before), np.bool_)
        firsts[1:] = parts.owners[1:] != parts.owners[:-1]
        base = before[firsts][np.cumsum(firsts) - 1] if len(before) else before
        places = self._places[parts.owners] + self._heads[parts.owners] + before - base
        table = parts.table
        names = np.where(table[:, 0] < self.raw.first_string, table[:, 0], table[:, 0] + self._strings)
        names -= np.where(table[:, 0] < self.raw.first_string, 0, self.raw.first_string)
        if kind in (btf.ENUM, btf.ENUM64):
            out.byte(places, parts.codes)
            out.number(places + 1, names, 4)
            if kind == btf.ENUM64:
                out.number(places + 5, table[:, 1], 4)
                out.number(places + 9, table[:, 2], 4)
            else:
                signed = self._flags[parts.owners]
                out.leb(places + 5, np.where(signed, table[:, 1] - (table[:, 1] >> 31 << 32), table[:, 1]))
            return
        where = self.entries[self._entry_of(table[:, 1])]
        flagged = self._flags[parts.owners] if kind != btf.FUNC_PROTO else np.zeros(len(places), np.bool_)
        third = table[:, 2] if table.shape[1] > 2 else np.zeros(len(places), np.int64)
        bits = np.where(flagged, third & 0xFFFFFF, third)
        widths = np.where(flagged, third >> 24, 0)
        for number in np.unique(parts.codes).tolist():
            chosen = parts.codes == number
            columns = {
                _NAME: names[chosen], _TYPE: where[chosen], _MEMBER_AT: bits[chosen] >> 3, _BIT_SIZE: widths[chosen],
                _BIT_OFFSET: bits[chosen],
            }  # fmt: skip
            out.entries(_BY_CODE[number], places[chosen], columns)


_BY_CODE = {number: name for name, number in _CODES.items()}


class _Elements(NamedTuple):
    """Elements of types: whose they are (indexes, rising), their BTF words, abbreviations, sizes in bytes."""

    owners: Ints
    table: Ints
    codes: Ints
    sizes: Ints


class _Bytes:
    """A piece of .debug_info that starts at `base`; what is not written stays 0, the end of a list of children."""

    def __init__(self, size: int, base: int) -> None:
        self.data = np.zeros(size, np.uint8)
        self._base = base

    def entries(self, name: str, places: Ints, columns: dict[int, Ints]) -> None:
        """Entries of one abbreviation at those places; `columns` are the values of its attributes."""
        self.byte(places, np.full(len(places), _CODES[name]))
        at = places + 1
        for attribute, form in _ABBREVIATIONS[name][2]:
            width = _WIDTHS[form]
            if width:
                self.number(at, columns[attribute], width)
            at = at + width

    def byte(self, places: Ints, values: Ints) -> None:
        """One byte at each place."""
        self.data[places - self._base] = values.astype(np.uint8)

    def number(self, places: Ints, values: Ints, width: int) -> None:
        """Little-endian numbers of `width` bytes."""
        for index in range(width):
            self.data[places - self._base + index] = (values >> 8 * index & 0xFF).astype(np.uint8)

    def leb(self, places: Ints, values: Ints) -> None:
        """SLEB128 padded to the width of 32 bits and a sign."""
        for index in range(_NARROW):
            more = 0x80 if index < _NARROW - 1 else 0
            self.data[places - self._base + index] = (values >> 7 * index & 0x7F | more).astype(np.uint8)
