"""The kernel's own types (BTF), read from its memory: struct layouts, enumerators, prototypes, without vmlinux.

Source: Documentation/bpf/btf.rst and include/uapi/linux/btf.h. The section is indexed in one pass (NumPy finds the
length every record would have, a short loop follows them); a type is decoded when first asked for. Everything in the
section is taken as hostile: depths, counts and cycles are bounded.
"""

from __future__ import annotations

import struct
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from kdump.errors import FormatError, KdumpError, NotPresentError
from kdump.kernel.kallsyms import Kallsyms, Reader
from kdump.native.engine import engine

if TYPE_CHECKING:
    from kdump.kernel.kernel import Kernel

# Kinds and, per kind, the bytes that follow the 12-byte record head: (fixed, per element of vlen).
INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST = range(1, 11)
RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(11, 20)
_BODY = {
    0: (0, 0), INT: (4, 0), PTR: (0, 0), ARRAY: (12, 0), STRUCT: (0, 12), UNION: (0, 12), ENUM: (0, 8), FWD: (0, 0),
    TYPEDEF: (0, 0), VOLATILE: (0, 0), CONST: (0, 0), RESTRICT: (0, 0), FUNC: (0, 0), FUNC_PROTO: (0, 8), VAR: (4, 0),
    DATASEC: (0, 12), FLOAT: (0, 0), DECL_TAG: (4, 0), TYPE_TAG: (0, 0), ENUM64: (0, 12),
}  # fmt: skip
_HEAD = struct.Struct("<HBBIIIII")  # magic, version, flags, hdr_len, type_off, type_len, str_off, str_len
_MAGIC = 0xEB9F
_MAX_SECTION = 1 << 28
_MAX_CHAIN = 64  # typedefs and qualifiers on top of each other
_MAX_DEPTH = 24  # anonymous members within anonymous members
_MAX_MEMBERS = 20000  # members of one struct after flattening (task_struct has some 300)


class Type(NamedTuple):
    """One BTF type as it stands in the section.

    `kind` is one of this module's constants; `size` is in bytes (0 where the kind has none); `target` is the id a
    pointer, typedef, qualifier, variable or function refers to, or an array's element; `length` is the number of
    elements of an array or of members, enumerators, parameters; `flag` is the record's kind_flag.
    """

    types: Btf
    id: int
    kind: int
    name: str
    size: int
    target: int
    length: int
    flag: bool

    def resolve(self) -> Type:
        """The type without typedefs, qualifiers and tags; raises `FormatError` on a chain without end."""
        found = self
        for _ in range(_MAX_CHAIN):
            if found.kind not in _WRAPPERS:
                return found
            found = found.types.by_id(found.target)
        raise FormatError("typedefs without end", field=f"BTF type {self.id}")

    def pointee(self) -> Type:
        """The target of a pointer, or the element of an array, resolved."""
        return self.types.by_id(self.target).resolve()

    def sizeof(self) -> int:
        """Size in bytes, following typedefs and arrays; 0 for void, functions and incomplete types."""
        total, found = 1, self
        for _ in range(_MAX_CHAIN):
            found = found.resolve()
            if found.kind == PTR:
                return total * 8
            if found.kind != ARRAY:
                return total * found.size
            total *= found.length
            found = found.types.by_id(found.target)
        raise FormatError("arrays without end", field=f"BTF type {self.id}")

    @property
    def members(self) -> dict[str, Member]:
        """Members of a struct or union by name; those of anonymous members are lifted into it."""
        return self.types.members(self.resolve())

    def has(self, path: str) -> bool:
        """Whether `offset(path)` would succeed."""
        try:
            self.member(path)
        except KeyError:
            return False
        return True

    def member(self, path: str) -> Member:
        """The member at a dotted path ("lru.next"); raises `KeyError` naming what is missing."""
        inside: Type = self
        offset = 0
        found: Member | None = None
        for name in path.split("."):
            found = inside.members.get(name)
            if found is None:
                raise KeyError(f"struct {inside.resolve().name or 'without a name'} has no member {name!r}")
            offset += found.offset
            inside = found.type
        assert found is not None  # split() gives at least one name
        return found._replace(offset=offset)

    def offset(self, path: str) -> int:
        """Offset in bytes of the member at a dotted path; raises `KeyError`."""
        return self.member(path).offset

    def first(self, *paths: str) -> Member | None:
        """The first of several alternative members that exists: how to follow a field through its renamings."""
        return next((self.member(path) for path in paths if self.has(path)), None)

    def enumerators(self) -> dict[str, int]:
        """Names and values of an enum."""
        return self.types.enumerators(self.resolve())

    def parameters(self) -> list[tuple[str, Type]]:
        """Names and types of a function's (or prototype's) parameters."""
        return self.types.parameters(self)

    def describe(self) -> str:
        """The type as C writes it, roughly: "struct page *", "unsigned long"."""
        text = ""
        found = self
        for _ in range(_MAX_CHAIN):
            if found.kind == PTR:
                text = "*" + text
            elif found.kind == ARRAY:
                text += f"[{found.length}]"
            elif found.kind not in (VOLATILE, CONST, RESTRICT, TYPE_TAG):
                prefix = {STRUCT: "struct ", UNION: "union ", ENUM: "enum ", ENUM64: "enum ", FWD: "struct "}
                name = found.name or ("…" if found.id else "void")
                return f"{prefix.get(found.kind, '')}{name} {text}".strip()
            found = found.types.by_id(found.target)
        raise FormatError("types without end", field=f"BTF type {self.id}")


class Member(NamedTuple):
    """A member: `offset` in bytes; of a bit field, `bits` is the width and `shift` its lowest bit from `offset` on."""

    name: str
    type: Type
    offset: int
    bits: int = 0
    shift: int = 0


class Raw(NamedTuple):
    """A section as arrays: its 32-bit words, where in them each type starts, the id of the first type, its strings.

    Strings of a split section count from `first_string` on, those before are the base's.
    """

    words: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int32]
    first_id: int
    first_string: int
    strings: bytes


_WRAPPERS = frozenset((TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG))
_SIZED = frozenset((INT, STRUCT, UNION, ENUM, DATASEC, FLOAT, ENUM64))


class Btf:
    """An indexed BTF section; with `base`, a module's split section on top of vmlinux's."""

    def __init__(self, raw: bytes | memoryview, base: Btf | None = None) -> None:
        """Index the section (some 20 ms for vmlinux's 5 MB). Raises `FormatError` if it is damaged or too new."""
        data = memoryview(raw)
        if len(data) < _HEAD.size or len(data) > _MAX_SECTION:
            raise FormatError(f"{len(data)} bytes cannot be a BTF section", field="BTF")
        magic, version, _, head, type_off, type_len, str_off, str_len = _HEAD.unpack_from(data)
        if magic != _MAGIC or version != 1:
            raise FormatError(f"magic {magic:#x}, version {version}", field="BTF header", offset=0)
        if head + type_off + type_len > len(data) or head + str_off + str_len > len(data) or type_len % 4:
            raise FormatError("its parts lie outside of it", field="BTF header", offset=0)
        self.base = base
        self._first_id = base.limit if base else 1
        self._first_string: int = base._string_end if base else 0
        self._string_end: int = self._first_string + str_len
        self._strings = bytes(data[head + str_off : head + str_off + str_len])
        self._words = np.frombuffer(data, "<u4", type_len // 4, head + type_off)
        self._starts = _starts(self._words)
        info = self._words[self._starts + 1]
        self._kinds = ((info >> 24) & 0x7F).astype(np.uint8)
        self._names = self._words[self._starts]
        self._cache: dict[int, Type] = {}
        self._members: dict[int, dict[str, Member]] = {}
        self._found: dict[tuple[tuple[int, ...], str], Type | None] = {}
        self._enumerations: dict[str, Type | None] = {}
        self._void = Type(self, 0, 0, "void", 0, 0, 0, False)

    @classmethod
    def from_kernel(cls, kernel: Kernel) -> Btf:
        """See `load`."""
        return load(kernel.virtual, kernel.symbols)

    @property
    def raw(self) -> Raw:
        """The section as arrays, for those who go through all of it."""
        return Raw(self._words, self._starts, self._first_id, self._first_string, self._strings)

    @property
    def limit(self) -> int:
        """One more than the highest type id."""
        return self._first_id + len(self._starts)

    def by_id(self, number: int) -> Type:
        """The type with that id (0 is void); raises `FormatError` if there is none."""
        if number < self._first_id:
            return self.base.by_id(number) if self.base else self._void
        found = self._cache.get(number)
        if found is None:
            found = self._cache[number] = self._decode(number)
        return found

    def find(self, name: str, *kinds: int) -> Type | None:
        """The first type of that name and one of those kinds (any kind if none given), or None."""
        key = (kinds, name)
        if key not in self._found:
            numbers = self._ids(name, kinds)
            found = self.by_id(numbers[0]) if numbers else None
            self._found[key] = self.base.find(name, *kinds) if found is None and self.base else found
        return self._found[key]

    def struct(self, name: str) -> Type:
        """The struct or union of that name, or the one a typedef of that name stands for; raises `KeyError`."""
        found = self.find(name, STRUCT, UNION)
        if found is None:
            alias = self.find(name, TYPEDEF)
            found = alias.resolve() if alias else None
        if found is None or found.kind not in (STRUCT, UNION):
            raise KeyError(f"the kernel's types have no struct {name}")
        return found

    def has_struct(self, name: str) -> bool:
        """Whether `struct(name)` would succeed."""
        try:
            self.struct(name)
        except KeyError:
            return False
        return True

    def enum(self, name: str) -> dict[str, int]:
        """Names and values of `enum name`; raises `KeyError`."""
        found = self.find(name, ENUM, ENUM64)
        if found is None:
            raise KeyError(f"the kernel's types have no enum {name}")
        return self.enumerators(found)

    def enumerator(self, name: str) -> int:
        """Value of an enumerator of any enum; raises `KeyError`."""
        found = self.enumeration(name)
        if found is None:
            raise KeyError(f"the kernel's types have no enumerator {name}")
        return self.enumerators(found)[name]

    def enumeration(self, name: str) -> Type | None:
        """The enum that has an enumerator of that name, or None."""
        if name not in self._enumerations:
            found = self._enumeration(name)
            self._enumerations[name] = self.base.enumeration(name) if found is None and self.base else found
        return self._enumerations[name]

    def _enumeration(self, name: str) -> Type | None:
        offset = self._string_offset(name)
        if offset is not None:
            for place in np.flatnonzero(self._words == offset):
                index = int(np.searchsorted(self._starts, place, side="right")) - 1
                if index >= 0 and self._kinds[index] in (ENUM, ENUM64):
                    found = self.by_id(self._first_id + index)
                    if name in self.enumerators(found):
                        return found
        return None

    def members(self, kind: Type) -> dict[str, Member]:
        """Members of a struct or union, anonymous ones flattened; empty for other kinds."""
        if kind.types is not self:
            return kind.types.members(kind)
        found = self._members.get(kind.id)
        if found is None:
            found = self._members[kind.id] = {}
            self._flatten(kind, 0, 0, found)
        return found

    def direct_members(self, kind: Type) -> list[tuple[str, int, int, int]]:
        """A struct's own members as they stand: (name or "", type id, offset in bits, bit-field width or 0)."""
        if kind.types is not self:
            return kind.types.direct_members(kind)
        if kind.kind not in (STRUCT, UNION):
            return []
        out = []
        for name, target, place in self._elements(kind, 3):
            bits, offset = (place >> 24, place & 0xFFFFFF) if kind.flag else (0, place)
            out.append((self._string(name), target, offset, bits))
        return out

    def enumerators(self, kind: Type) -> dict[str, int]:
        """Names and values of an enum; empty for other kinds."""
        if kind.types is not self:
            return kind.types.enumerators(kind)
        if kind.kind == ENUM:
            sign = 1 << 31 if kind.flag else 0
            return {self._string(name): (value ^ sign) - sign for name, value in self._elements(kind, 2)}
        if kind.kind == ENUM64:
            sign = 1 << 63 if kind.flag else 0
            return {
                self._string(name): ((high << 32 | low) ^ sign) - sign for name, low, high in self._elements(kind, 3)
            }
        return {}

    def parameters(self, kind: Type) -> list[tuple[str, Type]]:
        """Parameters of a function or prototype."""
        if kind.types is not self:
            return kind.types.parameters(kind)
        if kind.kind == FUNC:
            return self.parameters(self.by_id(kind.target))
        if kind.kind != FUNC_PROTO:
            return []
        return [(self._string(name), self.by_id(target)) for name, target in self._elements(kind, 2)]

    def section(self, kind: Type) -> list[tuple[str, int]]:
        """Names and offsets of the variables of a section (BTF_KIND_DATASEC)."""
        return [(self.by_id(number).name, offset) for number, offset, _ in self._elements(kind, 3)]

    def int_encoding(self, kind: Type) -> tuple[bool, bool, bool]:
        """(signed, char, bool) of an integer type."""
        if kind.types is not self:
            return kind.types.int_encoding(kind)
        start = int(self._starts[kind.id - self._first_id])
        encoding = int(self._words[start + 3]) >> 24
        return bool(encoding & 1), bool(encoding & 2), bool(encoding & 4)

    def _decode(self, number: int) -> Type:
        index = number - self._first_id
        if not 0 <= index < len(self._starts):
            raise FormatError(f"there is no type {number}", field="BTF")
        start = int(self._starts[index])
        name, info, third = (int(word) for word in self._words[start : start + 3])
        kind, count = (info >> 24) & 0x7F, info & 0xFFFFFF
        size, target = (third, 0) if kind in _SIZED else (0, third)
        if kind == ARRAY:
            target, count = int(self._words[start + 3]), int(self._words[start + 5])
        return Type(self, number, kind, self._string(name), size, target, count, bool(info >> 31))

    def _elements(self, kind: Type, width: int) -> list[list[int]]:
        start = int(self._starts[kind.id - self._first_id]) + 3
        return self._words[start : start + kind.length * width].reshape(-1, width).tolist()

    def _flatten(self, kind: Type, shift: int, depth: int, out: dict[str, Member]) -> None:
        for name, target, offset, bits in self.direct_members(kind):
            inside = self.by_id(target)
            if name:
                if bits:
                    # The unit that holds the field, so that a reader can load it and shift.
                    unit = max(inside.sizeof() * 8, 8)
                    lowest = (shift + offset) // unit * unit
                    out.setdefault(name, Member(name, inside, lowest // 8, bits, shift + offset - lowest))
                else:
                    out.setdefault(name, Member(name, inside, (shift + offset) // 8))
            elif depth < _MAX_DEPTH:
                inner = inside.resolve()
                if inner.kind in (STRUCT, UNION):
                    self._flatten(inner, shift + offset, depth + 1, out)
            if len(out) > _MAX_MEMBERS:
                raise FormatError("more members than any struct has", field=f"BTF type {kind.id}")

    def _string(self, offset: int) -> str:
        if offset < self._first_string:
            return self.base._string(offset) if self.base else ""
        start = offset - self._first_string
        end = self._strings.find(b"\0", start)
        return self._strings[start : end if end >= 0 else len(self._strings)].decode("ascii", "replace")

    def _string_offset(self, name: str) -> int | None:
        found = self._strings.find(b"\0" + name.encode() + b"\0")
        if found >= 0:
            return found + 1 + self._first_string
        if self._strings.startswith(
            name.encode() + b"\0"
        ):  # a split section's strings need not begin with an empty one
            return self._first_string
        return self.base._string_offset(name) if self.base else None

    def _ids(self, name: str, kinds: tuple[int, ...]) -> list[int]:
        if self.base is None:
            needle = name.encode() + b"\0"
            found = [
                index
                for index in _with_head(self._heads, needle)
                if self._strings.startswith(needle, int(self._names[index]))
            ]
        else:  # a name may also be one of the kernel's strings
            offset = self._string_offset(name)
            found = [] if offset is None else np.flatnonzero(self._names == offset).tolist()
        return [self._first_id + index for index in found if not kinds or int(self._kinds[index]) in kinds]

    @cached_property
    def _heads(self) -> npt.NDArray[np.uint64]:
        return _heads_of(self._strings, np.minimum(self._names, np.uint32(len(self._strings))))


def _heads_of(text: bytes, places: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """The 8 bytes at each of those places of a text as numbers; zeros follow the text. See `_with_head`."""
    padded = np.frombuffer(text + bytes(8), np.uint8)
    windows: npt.NDArray[np.uint64] = np.ndarray(len(text) + 1, "<u8", padded, 0, (1,))
    found: npt.NDArray[np.uint64] = windows[places]
    return found


def _with_head(found: npt.NDArray[np.uint64], needle: bytes) -> list[int]:
    """Indexes of those `heads` that agree with the first 8 bytes of `needle`, or with all of it if it is shorter."""
    value = np.uint64(int.from_bytes(needle[:8], "little"))
    if len(needle) < 8:
        found = found & np.uint64((1 << 8 * len(needle)) - 1)
    indexes: list[int] = np.flatnonzero(found == value).tolist()
    return indexes


def _starts(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
    """Where each record starts, in words. Raises `FormatError` if one cannot be, or runs over the end."""
    fixed = np.zeros(128, np.int64)
    each = np.zeros(128, np.int64)
    for kind, (bytes_fixed, bytes_each) in _BODY.items():
        fixed[kind], each[kind] = 3 + bytes_fixed // 4, bytes_each // 4
    size = len(words)
    places = engine.types(words, fixed, each)
    end = int(places[-1])
    if end > size:
        raise FormatError("the last record runs over the end", field="BTF")
    if end < size - 2:
        raise FormatError(
            f"type kind {(int(words[end + 1]) >> 24) & 0x7F} is unknown",
            field=f"BTF type {len(places)}",
            remedy="the kernel is newer than this kdump",
        )
    if end < size:
        raise FormatError("the last record is cut short", field="BTF")
    return places[:-1].astype(np.int32)


def load(memory: Reader, symbols: Kallsyms) -> Btf:
    """Types of vmlinux out of the section that the kernel keeps in its memory (CONFIG_DEBUG_INFO_BTF).

    Raises `KdumpError` if the kernel was built without.
    """
    start, stop = symbols.get("__start_BTF"), symbols.get("__stop_BTF")
    if start is None or stop is None:
        raise KdumpError(
            "the kernel has no type information",
            why="it was built without CONFIG_DEBUG_INFO_BTF",
            remedy="structures need the kernel's debug vmlinux",
        )
    if not 0 < stop - start <= _MAX_SECTION:
        raise FormatError(f"{stop - start} bytes cannot be a BTF section", field="BTF")
    try:
        return Btf(memory.view(start, stop - start))
    except NotPresentError as error:
        raise KdumpError("the kernel's type information cannot be read", why=str(error)) from error
