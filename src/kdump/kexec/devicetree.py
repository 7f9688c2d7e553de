"""The flattened device tree: how a machine is described to kernels where no PC firmware does it.

It is read whole into nodes, changed, and written whole. Everything in it is big endian.
Source: the Devicetree Specification 0.4, chapter 5; Linux Documentation/devicetree/usage-model.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from kdump.errors import FormatError

MAGIC = 0xD00DFEED
VERSION, COMPATIBLE = 17, 16
# magic, totalsize, off_dt_struct, off_dt_strings, off_mem_rsvmap, version, last_comp_version, boot_cpuid_phys,
# size_dt_strings, size_dt_struct
HEADER = struct.Struct(">10I")
RESERVED = struct.Struct(">QQ")  # address, size; a pair of zeros ends the list
PROPERTY = struct.Struct(">II")  # length of the value, offset of the name
BEGIN_NODE, END_NODE, PROP, NOP, END = 1, 2, 3, 4, 9
SIZE_MAX = 2 << 20  # the kernel's MAX_FDT_SIZE
DEPTH_MAX = 64
WORD = 4


@dataclass
class Node:
    """A node: its name ("" for the root), properties in order, children in order."""

    name: str
    properties: dict[str, bytes] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)

    def child(self, name: str) -> Node | None:
        """The child of that name, with or without its address ("memory" finds "memory@40000000")."""
        return next((each for each in self.children if name in (each.name, each.name.partition("@")[0])), None)

    def text(self, name: str) -> str:
        """A property that is a string; empty if absent."""
        return self.properties.get(name, b"").split(b"\0", 1)[0].decode("latin-1")

    def cell(self, name: str, default: int) -> int:
        """A property that is one 32-bit number."""
        value = self.properties.get(name, b"")
        return int.from_bytes(value, "big") if len(value) == WORD else default


@dataclass
class DeviceTree:
    """A whole tree. `reserved` are (address, size) pairs that a kernel must not use."""

    root: Node
    reserved: list[tuple[int, int]] = field(default_factory=list)
    boot_cpu: int = 0

    def find(self, path: str) -> Node | None:
        """The node at "/a/b"; "/" is the root."""
        node: Node | None = self.root
        for name in filter(None, path.split("/")):
            node = node.child(name) if node else None
        return node

    def chosen(self) -> Node:
        """The node /chosen, in which a boot loader speaks to the kernel; made if it is missing."""
        node = self.root.child("chosen")
        if node is None:
            node = Node("chosen")
            self.root.children.append(node)
        return node

    def cells(self, *pairs: tuple[int, int]) -> bytes:
        """(address, size) pairs, as the root's #address-cells and #size-cells want them. ValueError if one is larger"""
        address = self.root.cell("#address-cells", 2) * WORD
        size = self.root.cell("#size-cells", 1) * WORD
        try:
            return b"".join(at.to_bytes(address, "big") + length.to_bytes(size, "big") for at, length in pairs)
        except OverflowError as error:
            raise ValueError(str(error)) from None

    def set_aside(self) -> list[tuple[int, int]]:
        """(address, size) pairs of memory that firmware has set aside for itself: nodes of /reserved-memory that say
        neither what uses them (compatible) nor that the kernel may (reusable).

        Source: the Devicetree Specification 0.4, 3.5. OpenSBI writes such nodes for its own memory.
        """
        parent = self.root.child("reserved-memory")
        if parent is None:
            return []
        address = parent.cell("#address-cells", 2) * WORD
        size = parent.cell("#size-cells", 1) * WORD
        pairs = []
        for node in parent.children:
            reg = node.properties.get("reg", b"")
            if not address or not size or "reusable" in node.properties or "compatible" in node.properties:
                continue
            for at in range(0, len(reg) - address - size + 1, address + size):
                middle, end = at + address, at + address + size
                pairs.append((int.from_bytes(reg[at:middle], "big"), int.from_bytes(reg[middle:end], "big")))
        return pairs

    def pack(self) -> bytes:
        """The tree as a kernel takes it."""
        names = _Names()
        structure = b"".join(_pack_node(self.root, names)) + END.to_bytes(WORD, "big")
        reserved = b"".join(RESERVED.pack(*pair) for pair in [*self.reserved, (0, 0)])
        structure_at = HEADER.size + len(reserved)
        strings_at = structure_at + len(structure)
        total = _up(strings_at + len(names.data), 8)
        head = HEADER.pack(
            MAGIC, total, structure_at, strings_at, HEADER.size, VERSION, COMPATIBLE, self.boot_cpu, len(names.data),
            len(structure),
        )  # fmt: skip
        return (head + reserved + structure + bytes(names.data)).ljust(total, b"\0")


def parse(data: bytes, path: str = "") -> DeviceTree:
    """Read a tree. Raises FormatError for what is damaged, nested too deep or larger than a kernel takes."""
    if len(data) < HEADER.size:
        raise FormatError("the device tree is truncated", path=path, offset=len(data), field="header")
    magic, total, structure_at, strings_at, reserved_at, version, compatible, boot_cpu, names, structure = (
        HEADER.unpack_from(data)
    )
    if magic != MAGIC:
        raise FormatError("not a device tree", path=path, offset=0, field="magic")
    if compatible > VERSION or version < COMPATIBLE:
        raise FormatError(f"a device tree of version {version}", path=path, offset=20, field="version")
    if total > min(len(data), SIZE_MAX) or structure_at + structure > total or strings_at + names > total:
        raise FormatError("the device tree lies outside its file", path=path, offset=4, field="totalsize")
    reader = _Reader(data[structure_at : structure_at + structure], data[strings_at : strings_at + names], path)
    return DeviceTree(reader.tree(), list(_reserved(data[:total], reserved_at, path)), boot_cpu)


def _reserved(data: bytes, at: int, path: str) -> Iterator[tuple[int, int]]:
    while at + RESERVED.size <= len(data):
        address, size = RESERVED.unpack_from(data, at)
        if not size:
            return
        yield address, size
        at += RESERVED.size
    raise FormatError("the list of reserved memory has no end", path=path, offset=at, field="off_mem_rsvmap")


class _Reader:
    """Walks through the structure block."""

    def __init__(self, structure: bytes, names: bytes, path: str) -> None:
        self._data, self._names, self._path, self._at = structure, names, path, 0

    def tree(self) -> Node:
        if self._token() != BEGIN_NODE:
            raise self._fail("it does not begin with a node")
        root = self._node(0)
        if self._token() != END:
            raise self._fail("something follows the root")
        return root

    def _fail(self, what: str) -> FormatError:
        return FormatError(f"the device tree is damaged: {what}", path=self._path, offset=self._at, field="structure")

    def _token(self) -> int:
        while True:
            if self._at + WORD > len(self._data):
                raise self._fail("it ends early")
            token = int.from_bytes(self._data[self._at : self._at + WORD], "big")
            self._at += WORD
            if token != NOP:
                return token

    def _node(self, depth: int) -> Node:
        if depth > DEPTH_MAX:
            raise self._fail("nodes are nested too deep")
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise self._fail("a name has no end")
        node = Node(self._data[self._at : end].decode("latin-1"))
        self._at = _up(end + 1, WORD)
        while (token := self._token()) != END_NODE:
            if token == BEGIN_NODE:
                node.children.append(self._node(depth + 1))
            elif token == PROP and not node.children:
                name, value = self._property()
                node.properties[name] = value
            elif token == PROP:
                raise self._fail("a property follows a node")
            else:
                raise self._fail(f"a token {token:#x}")
        return node

    def _property(self) -> tuple[str, bytes]:
        if self._at + PROPERTY.size > len(self._data):
            raise self._fail("it ends early")
        length, name_at = PROPERTY.unpack_from(self._data, self._at)
        start = self._at + PROPERTY.size
        end = self._names.find(b"\0", name_at)
        if start + length > len(self._data) or name_at >= len(self._names) or end < 0:
            raise self._fail("a property lies outside")
        self._at = _up(start + length, WORD)
        return self._names[name_at:end].decode("latin-1"), self._data[start : start + length]


class _Names:
    """The strings block in the making: each name once."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._known: dict[str, int] = {}

    def offset(self, name: str) -> int:
        if name not in self._known:
            self._known[name] = len(self.data)
            self.data += name.encode("latin-1") + b"\0"
        return self._known[name]


def _pack_node(node: Node, names: _Names) -> Iterator[bytes]:
    yield BEGIN_NODE.to_bytes(WORD, "big") + _padded(node.name.encode("latin-1") + b"\0")
    for name, value in node.properties.items():
        yield PROP.to_bytes(WORD, "big") + PROPERTY.pack(len(value), names.offset(name)) + _padded(value)
    for child in node.children:
        yield from _pack_node(child, names)
    yield END_NODE.to_bytes(WORD, "big")


def _padded(value: bytes) -> bytes:
    return value.ljust(_up(len(value), WORD), b"\0")


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
