"""Kernel objects by their BTF types: `task.mm.owner.pid` reads a dead kernel's memory.

Attributes of a `Struct` or `Pointer` are the members the kernel's own types declare, so nothing here knows a layout.
Integers come as int, pointers as `Pointer` (attribute access dereferences), structs and arrays as views that read
when a member is asked for. What has no meaning as a member is a method of `Objects`. Iterators over the kernel's linked
structures are bounded and never raise half way: what stopped them is noted in `Objects.problems`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from kdump.errors import KdumpError, NotPresentError
from kdump.kernel import btf
from kdump.kernel.btf import Type

if TYPE_CHECKING:
    from kdump.kernel.columns import Columns
    from kdump.kernel.kernel import Kernel

_PAGE = 4096  # granularity of the cache below, not the kernel's page size
_CACHED_PAGES = 512
_LIST_LIMIT = 1 << 20
_STRING_LIMIT = 4096
_MODULES_LIMIT = 1 << 14

# Types of the variables we read, as the kernel's sources declare them: BTF has those of per-CPU variables only.
GLOBALS = {
    "init_task": "struct task_struct",
    "init_uts_ns": "struct uts_namespace",
    "init_pid_ns": "struct pid_namespace",
    "init_net": "struct net",
    "init_nsproxy": "struct nsproxy",
    "modules": "struct list_head",
    "slab_caches": "struct list_head",
    "super_blocks": "struct list_head",
    "workqueues": "struct list_head",
    "net_namespace_list": "struct list_head",
    "cgrp_dfl_root": "struct cgroup_root",
    "btf_modules": "struct list_head",
    "vmap_area_list": "struct list_head",
    "timekeeper": "struct timekeeper",
    "shadow_timekeeper": "struct timekeeper",
}


class _Field(NamedTuple):
    """How to read one member: `kind` as in `kdump.kernel.btf`, the resolved type, and where the bytes are."""

    offset: int
    kind: int
    type: Type
    size: int
    signed: bool
    bits: int
    shift: int


class MissingMemberError(KdumpError, AttributeError):
    """A type of this kernel lacks a member; an AttributeError too, as `hasattr` wants it."""


class NoNumberError(KdumpError, TypeError):
    """A struct or an array where other kernels have a number."""


class _NoNumber:
    """Raised where code expects a number and the dump has something else."""

    __slots__ = ()

    def _refuse(self, *_: object) -> NoReturn:
        raise NoNumberError(f"{self!r} is not a number in this kernel")

    __int__ = __index__ = __add__ = __radd__ = __sub__ = __rsub__ = __and__ = __rand__ = __or__ = __ror__ = _refuse
    __mul__ = __rmul__ = __floordiv__ = __mod__ = __lshift__ = __rshift__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse


class Struct(_NoNumber):
    """A struct or union in memory. Attributes are its members; comparing compares addresses."""

    __slots__ = ("_address", "_objects", "_type")

    def __init__(self, objects: Objects, kind: Type, address: int) -> None:
        self._objects = objects
        self._type = kind
        self._address = address

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._objects.read_field(self._objects.field(self._type, name), self._address)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Struct) and other._address == self._address and other._type.id == self._type.id

    def __hash__(self) -> int:
        return hash((self._address, self._type.id))

    def __repr__(self) -> str:
        return f"({self._type.describe()}){self._address:#x}"


class Pointer:
    """A pointer. `int(p)`, `bool(p)`, `p.member`, `p[0]`; equal to any pointer or integer of the same value."""

    __slots__ = ("_objects", "_target", "_value")

    def __init__(self, objects: Objects, target: Type, value: int) -> None:
        self._objects = objects
        self._target = target
        self._value = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        target = self._objects.complete(self._target)
        return self._objects.read_field(self._objects.field(target, name), self._value)

    def __getitem__(self, index: int) -> Any:
        target = self._objects.complete(self._target)
        return self._objects.read(target, self._value + index * target.sizeof())

    def __int__(self) -> int:
        return self._value

    __index__ = __int__

    def __bool__(self) -> bool:
        return self._value != 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Pointer, int)) and int(other) == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return f"({self._target.describe()} *){self._value:#x}"


class Array(_NoNumber):
    """An array in memory: `len`, indexing, iterating."""

    __slots__ = ("_address", "_element", "_length", "_objects")

    def __init__(self, objects: Objects, element: Type, length: int, address: int) -> None:
        self._objects = objects
        self._element = element
        self._length = length
        self._address = address

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        # No check against the length: flexible arrays have none, and the kernel indexes them too.
        return self._objects.read(self._element, self._address + index * self._element.sizeof())

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(self._length))

    def __repr__(self) -> str:
        return f"({self._element.describe()} [{self._length}]){self._address:#x}"


class Objects:
    """Access to a kernel's objects. One per dump and thread; reads are cached by page."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.types = kernel.types
        self.symbols = kernel.symbols
        self.problems: list[str] = []
        self._view = kernel.virtual.view
        self._pages: dict[int, memoryview] = {}
        self._fields: dict[tuple[btf.Btf, int], dict[str, _Field]] = {}
        self._per_cpu_types: dict[str, Type] | None = None

    @cached_property
    def columns(self) -> Columns:
        """Fields of many objects at once, as arrays."""
        from kdump.kernel.columns import Columns

        return Columns(self)

    @cached_property
    def module_btf(self) -> dict[int, Pointer]:
        """struct btf of each module that has one, by the module's address (kernel/bpf/btf.c, struct btf_module)."""
        found: dict[int, Pointer] = {}
        for entry in self.list(self.variable("btf_modules"), "btf_module", "list", _MODULES_LIMIT):
            try:
                found[int(entry.module)] = entry.btf
            except KdumpError as error:
                self.problem(f"the types of a module: {error}")
        return found

    # Memory

    def bytes(self, address: int, size: int) -> memoryview:
        """`size` bytes at a virtual address; raises `NotPresentError`."""
        start = address % _PAGE
        if start + size > _PAGE:
            return self._view(address, size)
        page = self._pages.get(address - start)
        if page is None:
            if len(self._pages) >= _CACHED_PAGES:
                self._pages.clear()
            page = self._pages[address - start] = self._view(address - start, _PAGE)
        return page[start : start + size]

    def unsigned(self, address: int, size: int = 8) -> int:
        """A little-endian unsigned integer."""
        return int.from_bytes(self.bytes(address, size), "little")

    def signed(self, address: int, size: int = 4) -> int:
        """A little-endian signed integer."""
        return int.from_bytes(self.bytes(address, size), "little", signed=True)

    def string(self, value: Array | Pointer | int, limit: int = _STRING_LIMIT) -> str:
        """Text up to a NUL: of a char array, at a pointer or address ("" for null). Invalid UTF-8 is replaced.

        The text is as the kernel held it: whoever prints it escapes control characters.
        """
        if isinstance(value, Array):
            raw = bytes(self.bytes(value._address, min(len(value), limit)))
        else:
            raw = self.kernel.virtual.cstring(int(value), limit) if int(value) else b""
        return raw.split(b"\0", 1)[0].decode("utf-8", "replace")

    # Types

    def struct(self, name: str, address: Pointer | int) -> Struct:
        """The struct of that name at an address."""
        return Struct(self, self.types.struct(name.removeprefix("struct ").removeprefix("union ")), int(address))

    def address(self, value: Struct | Array) -> int:
        """Where a struct or array lies."""
        return value._address

    def cast(self, name: str, value: Struct | Array | Pointer | int) -> Struct:
        """The same place seen as another struct."""
        return self.struct(name, value._address if isinstance(value, (Struct, Array)) else int(value))

    def container(self, value: Struct | Pointer | int, name: str, member: str) -> Struct:
        """The kernel's container_of(): the struct whose `member` (a dotted path) is at that place."""
        kind = self.types.struct(name)
        place = value._address if isinstance(value, Struct) else int(value)
        return Struct(self, kind, place - kind.offset(member))

    def has(self, value: Struct | Pointer, path: str) -> bool:
        """Whether the kernel's types have a member at a dotted path."""
        return (value._type if isinstance(value, Struct) else self.complete(value._target)).has(path)

    def members(self, value: Struct) -> list[str]:
        """Names of a struct's members."""
        return list(value._type.members)

    def sizeof(self, name: str) -> int:
        """Size of a struct in bytes."""
        return self.types.struct(name).size

    def complete(self, kind: Type) -> Type:
        """The definition behind a forward declaration, and `kind` itself otherwise."""
        kind = kind.resolve()
        if kind.kind == btf.FWD:
            return self.types.struct(kind.name)
        return kind

    # Variables

    def variable(self, name: str, kind: str = "") -> Struct:
        """A global variable that is a struct. Raises `KeyError` if the kernel has none."""
        return self.struct(kind or GLOBALS.get(name) or self.kernel.arch.globals[name], self.symbols.address(name))

    def number(self, name: str, size: int = 4, *, signed: bool = False) -> int | None:
        """A global variable that is an integer, None if the kernel has none."""
        address = self.symbols.get(name)
        if address is None:
            return None
        return int.from_bytes(self.bytes(address, size), "little", signed=signed)

    def cpus(self, mask: str = "online") -> list[int]:
        """Numbers of the CPUs in `__cpu_<mask>_mask` (possible, present, online).

        A CPU that a panic stops may take itself out of the mask of those online, but not of those that the scheduler
        uses (active): they count as online, too. Source: local_cpu_stop() in arch/arm64/kernel/smp.c, stop_this_cpu()
        in arch/x86/kernel/process.c.
        """
        count = min(self.number("nr_cpu_ids") or 1, 1 << 14)
        bits = self._mask(mask, count)
        if mask == "online" and self.symbols.get("__cpu_active_mask") is not None:
            bits |= self._mask("active", count)
        return [cpu for cpu in range(count) if bits >> cpu & 1]

    def _mask(self, name: str, count: int) -> int:
        return int.from_bytes(self.bytes(self.symbols.address(f"__cpu_{name}_mask"), -(-count // 64) * 8), "little")

    def per_cpu_base(self, cpu: int) -> int:
        """The offset of per-CPU symbols for `cpu`."""
        return self.unsigned(self.symbols.address("__per_cpu_offset") + 8 * cpu)

    def per_cpu(self, name: str, cpu: int, kind: str = "") -> Any:
        """A per-CPU variable, its type from BTF unless a struct is named. Raises `KeyError` if the kernel has none."""
        address = (self.symbols.address(name) + self.per_cpu_base(cpu)) & 0xFFFFFFFFFFFFFFFF
        if kind:
            return self.struct(kind, address)
        found = self.types.find(name, btf.VAR)
        if found is None:
            raise KeyError(f"the kernel's types have no per-CPU variable {name}")
        return self.read(self.types.by_id(found.target), address)

    def at_cpu(self, pointer: Pointer | int, cpu: int) -> int:
        """Address of `cpu`'s copy of what a `__percpu` pointer refers to."""
        return (int(pointer) + self.per_cpu_base(cpu)) & 0xFFFFFFFFFFFFFFFF

    # Linked structures

    def list(self, head: Struct | Pointer | int, name: str, member: str, limit: int = _LIST_LIMIT) -> Iterator[Struct]:
        """Structs of type `name` linked by their `member` into the list at `head` (struct list_head)."""
        kind = self.types.struct(name)
        offset = kind.offset(member)
        start = head._address if isinstance(head, Struct) else int(head)
        for node in self.nodes(start, limit, f"list of struct {name}"):
            yield Struct(self, kind, node - offset)

    def nodes(
        self, start: int, limit: int = _LIST_LIMIT, what: str = "list", known: Mapping[int, int] | None = None
    ) -> Iterator[int]:
        """Addresses of a list's nodes after `start`; ends at `start`, at NULL, at damage (noted), or after `limit`.

        `known` holds the next node of those that were read before, many at once.
        """
        seen = {start}
        node = start
        following = (known or {}).get
        try:
            node = following(start) or self.unsigned(start)
            while node and node != start:
                if node in seen:
                    self.problem(f"{what} runs in a circle at {node:#x}")
                    return
                if len(seen) > limit:
                    self.problem(f"{what} has more than {limit} entries")
                    return
                seen.add(node)
                yield node
                node = following(node) or self.unsigned(node)
        except NotPresentError:
            self.problem(f"{what} breaks off: {node:#x} cannot be read")

    def hlist(self, head: Struct | Pointer | int, name: str, member: str, limit: int = _LIST_LIMIT) -> Iterator[Struct]:
        """The same for a struct hlist_head, and for hlist_nulls (whose end is an odd number)."""
        kind = self.types.struct(name)
        offset = kind.offset(member)
        node = self.unsigned(head._address if isinstance(head, Struct) else int(head))
        seen: set[int] = set()
        try:
            while node and not node & 1:
                if node in seen or len(seen) > limit:
                    self.problem(f"chain of struct {name} does not end")
                    return
                seen.add(node)
                yield Struct(self, kind, node - offset)
                node = self.unsigned(node)
        except NotPresentError:
            self.problem(f"chain of struct {name} breaks off: {node:#x} cannot be read")

    def rbtree(self, root: Struct, name: str, member: str, limit: int = _LIST_LIMIT) -> Iterator[Struct]:
        """Structs in a red-black tree (struct rb_root or rb_root_cached), in order."""
        kind = self.types.struct(name)
        offset = kind.offset(member)
        node_kind = self.types.struct("rb_node")
        left, right = node_kind.offset("rb_left"), node_kind.offset("rb_right")
        node = int(root.rb_node if self.has(root, "rb_node") else root.rb_root.rb_node)
        stack: list[int] = []
        seen: set[int] = set()
        try:
            while node or stack:
                while node:
                    if node in seen or len(seen) > limit:
                        self.problem(f"tree of struct {name} does not end")
                        return
                    seen.add(node)
                    stack.append(node)
                    node = self.unsigned(node + left)
                node = stack.pop()
                yield Struct(self, kind, node - offset)
                node = self.unsigned(node + right)
        except NotPresentError:
            self.problem(f"tree of struct {name} breaks off: {node:#x} cannot be read")

    def xarray(self, array: Struct, limit: int = _LIST_LIMIT) -> Iterator[tuple[int, int]]:
        """(index, entry address) of every pointer in a struct xarray (also radix trees and IDRs since 4.20).

        Source: include/linux/xarray.h: an inner node has bit 1 set; internal and zero entries are left out.
        """
        node_kind = self.types.struct("xa_node")
        shift_at, slots_at = node_kind.offset("shift"), node_kind.offset("slots")
        slots = node_kind.member("slots").type.resolve().length
        stack = [(int(array.xa_head), 0)]
        visited = 0
        while stack:
            entry, index = stack.pop()
            if not entry & 2 or entry < _PAGE:
                if entry and not entry & 2:
                    yield index, entry
                continue
            visited += 1
            if visited > limit:
                self.problem("an xarray does not end")
                return
            try:
                shift = self.unsigned(entry - 2 + shift_at, 1)
                raw = self.bytes(entry - 2 + slots_at, 8 * slots)
            except NotPresentError:
                self.problem(f"an xarray's node at {entry - 2:#x} cannot be read")
                continue
            if shift > 60:
                self.problem(f"an xarray's node at {entry - 2:#x} is damaged")
                continue
            children = [int.from_bytes(raw[8 * slot : 8 * slot + 8], "little") for slot in range(slots)]
            stack += [(child, index + (slot << shift)) for slot, child in reversed(list(enumerate(children))) if child]

    def problem(self, text: str) -> None:
        """Note what could not be read, once."""
        if text not in self.problems:
            self.problems.append(text)

    def attempt(self, values: Iterable[Any]) -> Iterator[Any]:
        """Pass values on; what cannot be read ends the iteration with a note instead of an exception."""
        try:
            yield from values
        except KdumpError as error:
            self.problem(str(error))

    # Reading by type

    def field(self, kind: Type, name: str) -> _Field:
        """How to read a member; raises `MissingMemberError` naming type and member."""
        fields = self._fields.setdefault((kind.types, kind.id), {})
        found = fields.get(name)
        if found is None:
            member = kind.members.get(name)
            if member is None:
                raise MissingMemberError(f"{kind.describe()} of this kernel has no member {name!r}")
            found = fields[name] = self._field(member.type, member.offset, member.bits, member.shift)
        return found

    def _field(self, kind: Type, offset: int = 0, bits: int = 0, shift: int = 0) -> _Field:
        kind = kind.resolve()
        size = kind.sizeof()
        if bits:
            size = -(-(shift + bits) // 8)
        signed = kind.types.int_encoding(kind)[0] if kind.kind == btf.INT else kind.kind == btf.ENUM and kind.flag
        return _Field(offset, kind.kind, kind, size, signed, bits, shift)

    def read(self, kind: Type, address: int) -> Any:
        """The value of a type at an address."""
        return self.read_field(self._field(kind), address)

    def read_field(self, field: _Field, base: int) -> Any:
        """The value of a member of the struct at `base`."""
        kind, address = field.kind, (base + field.offset) & 0xFFFFFFFFFFFFFFFF
        if kind in (btf.STRUCT, btf.UNION):
            return Struct(self, field.type, address)
        if kind == btf.PTR:
            return Pointer(self, field.type.types.by_id(field.type.target), self.unsigned(address))
        if kind == btf.ARRAY:
            return Array(self, field.type.pointee(), field.type.length, address)
        value = int.from_bytes(self.bytes(address, field.size), "little", signed=field.signed and not field.bits)
        if field.bits:
            value = value >> field.shift & ((1 << field.bits) - 1)
            if field.signed and value >> (field.bits - 1):
                value -= 1 << field.bits
        return value
