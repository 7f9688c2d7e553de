"""Volatility 3's symbol file of a kernel, out of the dump alone: types from BTF, symbols from kallsyms.

Source: schema 6.2.0 of Volatility 3's intermediate symbol format, and the names that dwarf2json gives: a struct or enum
without a name is called as its typedef. Addresses are those before KASLR moved the kernel; Volatility finds by how
much from VMCOREINFO, and the file by the banner in it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from itertools import chain
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from kdump.bench.variables import BANNER, Typed, banner, typed
from kdump.errors import FormatError
from kdump.kernel import btf
from kdump.kernel.btf import Btf, Type
from kdump.kernel.kallsyms import Symbol
from kdump.kernel.kernel import Kernel

FORMAT: Final = "6.2.0"
LEVELS: Final = 4  # of page tables that Volatility 3 reads, up to 2.28
PLUGINS: Final = str(Path(__file__).parent / "volatility")  # what reads 5, for `vol -p`
_HALF: Final = 1 << 63
_MAX_CHAIN: Final = 64  # pointers, arrays, typedefs and qualifiers on top of each other
_WRAPPERS: Final = (btf.TYPEDEF, btf.VOLATILE, btf.CONST, btf.RESTRICT, btf.TYPE_TAG)
_AGGREGATES: Final = {btf.STRUCT: "struct", btf.UNION: "union"}
_ENUMS: Final = (btf.ENUM, btf.ENUM64)
_POINTER: Final = '{"kind":"pointer","subtype":'
_VOID: Final = '{"kind":"base","name":"void"}'
_FUNCTION: Final = '{"kind":"function"}'
_INT: Final = "int"
# What enums are based on, by size and sign; Volatility also takes some of these by name.
_INTEGERS: Final = {
    (1, False): "unsigned char", (1, True): "signed char", (2, False): "short unsigned int", (2, True): "short int",
    (4, False): "unsigned int", (4, True): "int", (8, False): "long unsigned int", (8, True): "long int",
}  # fmt: skip


class Summary(NamedTuple):
    """What the file holds; `levels` of page tables the machine had."""

    types: int
    symbols: int
    variables: int
    levels: int


class SymbolFile(NamedTuple):
    """The text of the file, and what there is to say of it."""

    text: bytes
    summary: Summary


def make(kernel: Kernel, version: str) -> SymbolFile:
    """Put the file together; `version` is ours. Raises `KdumpError` if the dump has no symbols, types or banner."""
    constants = {BANNER: banner(kernel)}
    names = _Names(kernel.types)
    known = list(kernel.symbols)
    variables = {each.symbol.name: each for each in typed(kernel, known)}
    symbols = list(_symbols(kernel, known, names, variables, constants))
    types = list(names.user_types())
    producer = json.dumps({"format": FORMAT, "producer": {"name": "kdump", "version": version}})
    text = (
        f'{{"metadata":{producer},\n"base_types":{{{",".join(names.base_types())}}},\n"user_types":{{'
        + ",\n".join(types) + "},\n" + f'"enums":{{{",".join(names.enums())}}},\n"symbols":{{'
        + ",\n".join(symbols) + "}}\n"
    )  # fmt: skip
    levels = len(kernel.virtual.paging.shifts)
    return SymbolFile(text.encode(), Summary(len(types), len(symbols), len(variables), levels))


def _symbols(
    kernel: Kernel, known: list[Symbol], names: _Names, variables: dict[str, Typed], constants: dict[str, bytes]
) -> Iterator[str]:
    """`"name":{...}` of every symbol, the first of those that share a name; `constants` have their content."""
    offset = kernel.vmcoreinfo.kaslr_offset
    types = {name: names.variable(variable) for name, variable in variables.items()} | names.more
    # kallsyms does not list its own tables, but VMCOREINFO does.
    listed = ((symbol.name, symbol.address) for symbol in known)
    seen: set[str] = set()
    for name, address in chain(listed, kernel.vmcoreinfo.symbols.items()):
        if name in seen:
            continue
        seen.add(name)
        more = f'"type":{types.get(name, _VOID)}'  # as dwarf2json: plugins expect that every symbol has one
        if name in constants:
            more += f',"constant_data":"{base64.b64encode(constants[name]).decode()}"'
        # Per-CPU symbols are offsets, which KASLR leaves alone.
        yield f'{_quoted(name)}:{{"address":{address - offset if address >= _HALF else address},{more}}}'


class _Names:
    """What the types of a BTF section are called, and how they are written.

    Volatility knows types by name, so two structs that share one need different names: the first keeps it.
    """

    def __init__(self, types: Btf) -> None:
        self._types = types
        raw = types.raw
        kinds = raw.words[raw.starts + 1] >> 24 & 0x7F
        self._by_kind = {
            kind: [types.by_id(raw.first_id + index) for index in np.flatnonzero(kinds == kind).tolist()]
            for kind in (btf.INT, btf.FLOAT, btf.STRUCT, btf.UNION, *_ENUMS, btf.FWD, btf.TYPEDEF)
        }
        # What BTF has not, and Volatility wants: kallsyms' own number.
        self.more = {"kallsyms_num_syms": '{"kind":"base","name":"unsigned int"}'}
        self._made: list[str] = []
        self._called: dict[int, str] = {}
        self._written: dict[int, str] = {}
        aliases: dict[int, str] = {}
        for alias in self._by_kind[btf.TYPEDEF]:
            aliases.setdefault(alias.target, alias.name)
        for kinds_of_names in (tuple(_AGGREGATES), _ENUMS):
            self._call([each for kind in kinds_of_names for each in self._by_kind[kind]], aliases)
        known = {self._called[each.id] for kind in _AGGREGATES for each in self._by_kind[kind]}
        self._undefined = sorted({each.name for each in self._by_kind[btf.FWD]} - known)

    def _call(self, kinds: list[Type], aliases: dict[int, str]) -> None:
        taken: set[str] = set()
        for kind in sorted(kinds, key=lambda each: (not each.name, each.id)):  # a struct's name before a typedef's
            name = kind.name or aliases.get(kind.id) or f"unnamed_{kind.id}"
            if name in taken:
                name = f"{name}_{kind.id}"
            taken.add(name)
            self._called[kind.id] = name

    def base_types(self) -> Iterator[str]:
        """`"name":{...}` of void, pointers, integers and floating-point numbers."""
        yield '"void":{"size":0,"signed":false,"kind":"void","endian":"little"}'
        yield '"pointer":{"size":8,"signed":false,"kind":"int","endian":"little"}'
        seen = set()
        for kind in self._by_kind[btf.INT] + self._by_kind[btf.FLOAT]:
            if kind.name and kind.name not in seen:
                seen.add(kind.name)
                yield self._base(kind)
        for (size, signed), name in _INTEGERS.items():
            if name not in seen:
                yield _base_type(name, size, _INT, signed=signed)

    def _base(self, kind: Type) -> str:
        if kind.kind == btf.FLOAT:
            return _base_type(kind.name, kind.size, "float", signed=True)
        signed, character, truth = self._types.int_encoding(kind)
        character = character or (kind.size == 1 and "char" in kind.name)
        return _base_type(kind.name, kind.size, "bool" if truth else "char" if character else _INT, signed=signed)

    def user_types(self) -> Iterator[str]:
        """`"name":{...}` of every struct and union; those that are only declared are empty."""
        for kind, word in _AGGREGATES.items():
            for found in self._by_kind[kind]:
                fields = ",".join(self._fields(found))
                yield f'{_quoted(self._called[found.id])}:{{"kind":"{word}","size":{found.size},"fields":{{{fields}}}}}'
        yield from self._made
        for name in self._undefined:
            yield f'{_quoted(name)}:{{"kind":"struct","size":0,"fields":{{}}}}'

    def _fields(self, kind: Type) -> Iterator[str]:
        seen: set[str] = set()
        for place, (own, target, offset, bits) in enumerate(self._types.direct_members(kind)):
            name = own or f"unnamed_field_{place}"
            if (bits and not own) or name in seen:  # padding
                continue
            seen.add(name)
            inside, where = self.type(target), offset // 8
            if bits:
                # The unit that holds the field, so that a reader can load it and shift.
                unit = max(self._types.by_id(target).sizeof() * 8, 8)
                where = offset // unit * unit // 8
                inside = (
                    f'{{"kind":"bitfield","bit_position":{offset - where * 8},"bit_length":{bits},"type":{inside}}}'
                )
            anonymous = "" if own else ',"anonymous":true'
            yield f'{_quoted(name)}:{{"type":{inside},"offset":{where}{anonymous}}}'

    def enums(self) -> Iterator[str]:
        """`"name":{...}` of every enum."""
        for kind in _ENUMS:
            for found in self._by_kind[kind]:
                constants = self._types.enumerators(found)
                base = _INTEGERS.get((found.size, min(constants.values(), default=0) < 0), "unsigned int")
                values = ",".join(f"{_quoted(name)}:{value}" for name, value in constants.items())
                name = _quoted(self._called[found.id])
                yield f'{name}:{{"size":{found.size},"base":"{base}","constants":{{{values}}}}}'

    def variable(self, variable: Typed) -> str:
        """The type of a variable; a struct without a name gets one of its own, with what is known of it."""
        if variable.member is not None:
            (member, offset), name = variable.member, f"unnamed_{variable.symbol.name}"
            inside = f'{{"{member}":{{"type":{self.type(variable.type)},"offset":{offset}}}}}'
            self._made.append(f'"{name}":{{"kind":"struct","size":{variable.size},"fields":{inside}}}')
            return f'{{"kind":"struct","name":"{name}"}}'
        heads = [f'{{"kind":"array","count":{count},"subtype":' for count in variable.counts]
        heads += [_POINTER] * variable.stars
        return "".join(heads) + self.type(variable.type) + "}" * len(heads)

    def type(self, number: int) -> str:
        """A type as a member or an element has it. Raises `FormatError` if it does not end."""
        found = self._written.get(number)
        if found is None:
            found = self._written[number] = self._write(number)
        return found

    def _write(self, number: int) -> str:
        heads: list[str] = []
        kind = self._types.by_id(number)
        for _ in range(_MAX_CHAIN):
            if kind.kind == btf.PTR:
                heads.append(_POINTER)
            elif kind.kind == btf.ARRAY:
                heads.append(f'{{"kind":"array","count":{kind.length},"subtype":')
            elif kind.kind not in _WRAPPERS:
                return "".join(heads) + self._leaf(kind) + "}" * len(heads)
            kind = self._types.by_id(kind.target)
        raise FormatError("a type without end", field=f"BTF type {number}")

    def _leaf(self, kind: Type) -> str:
        if kind.kind in _AGGREGATES or kind.kind == btf.FWD:
            word = _AGGREGATES.get(kind.kind, "struct")
            return f'{{"kind":"{word}","name":{_quoted(self._called.get(kind.id, kind.name))}}}'
        if kind.kind in _ENUMS:
            if not kind.length:  # declared, not defined
                return f'{{"kind":"base","name":"{_INTEGERS.get((kind.size, False), "unsigned int")}"}}'
            return f'{{"kind":"enum","name":{_quoted(self._called[kind.id])}}}'
        if kind.kind in (btf.FUNC, btf.FUNC_PROTO):
            return _FUNCTION
        if kind.kind in (btf.INT, btf.FLOAT) and kind.name:
            return f'{{"kind":"base","name":{_quoted(kind.name)}}}'
        return _VOID


def _base_type(name: str, size: int, kind: str, *, signed: bool) -> str:
    truth = "true" if signed else "false"
    return f'{_quoted(name)}:{{"size":{size},"signed":{truth},"kind":"{kind}","endian":"little"}}'
