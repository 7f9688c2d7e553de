"""Fields of many objects at once, as arrays: one gather over memory by addresses instead of a Python object for each.

A table of 100,000 tasks is a dozen array operations for every thousand of them. Layouts come from the kernel's types as
everywhere; a row whose memory is absent is marked in `ok` and holds zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kdump.errors import NotPresentError
from kdump.kernel import btf
from kdump.memory.gather import gather

if TYPE_CHECKING:
    from kdump.kernel.btf import Member, Type
    from kdump.kernel.objects import Objects

Addresses = npt.NDArray[np.uint64]
_BATCH = 1024  # objects whose pages are held together: at most some 3,000 pages, 12 MiB
_SERIAL = 4  # chains: below so many at once a Python step for each node is as fast
_LIMIT = 1 << 22


class Columns:
    """Columns of one kernel's memory."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        kernel = objects.kernel
        self._virtual, self._memory = kernel.virtual, kernel.memory
        self._size = self._memory.page_size
        self._shift = self._size.bit_length() - 1

    def words(self, bases: Addresses, offsets: Sequence[int]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
        """The 64-bit words at bases[:, None] + offsets, shape (n, k), and which could be read. All 8-aligned."""
        values = np.zeros((len(bases), len(offsets)), np.uint64)
        ok = np.zeros(values.shape, np.bool_)
        order = np.argsort(bases, kind="stable")
        each = np.array(offsets, np.uint64)
        room = np.empty((0, self._size), np.uint8)
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            places = bases[rows, None] + each
            numbers = places >> np.uint64(self._shift)
            wanted, index = np.unique(numbers, return_inverse=True)
            frames = self._virtual.frames(wanted)
            mapped = np.flatnonzero(frames >= 0)
            distinct, slots = np.unique(frames[mapped], return_inverse=True)
            if len(distinct) > len(room):
                room = np.empty((len(distinct), self._size), np.uint8)
            held = gather(self._memory, distinct, room[: len(distinct)])
            slot = np.zeros(len(wanted), np.intp)
            slot[mapped] = slots
            there = np.zeros(len(wanted), np.bool_)
            there[mapped] = held[slots]
            index = index.reshape(places.shape)
            inside = ((places & np.uint64(self._size - 1)) >> np.uint64(3)).astype(np.intp)
            if len(distinct):
                found = room.view("<u8").reshape(-1)[slot[index] * (self._size // 8) + inside]
                good = there[index]
                values[rows] = np.where(good, found, 0)
                ok[rows] = good
        return values, ok

    def table(self, kind: str | Type, addresses: npt.ArrayLike, *paths: str) -> Table:
        """Members at `paths` (dotted) of the structs of that type at `addresses`."""
        layout = self._objects.types.struct(kind) if isinstance(kind, str) else kind
        return self.members(addresses, {path: layout.member(path) for path in paths})

    def members(self, addresses: npt.ArrayLike, members: dict[str, Member]) -> Table:
        """The same by members as `Type.member` gives them, under names of the caller's."""
        bases = np.asarray(addresses, np.uint64)
        aligned: npt.NDArray[np.bool_] = np.asarray(bases & np.uint64(7) == 0)
        if not aligned.all():  # damage: nothing that has a pointer in it lies there
            table = self.members(np.where(aligned, bases, np.uint64(0)), members)
            table.ok &= aligned
            return table
        spans = {name: _span(member) for name, member in members.items()}
        offsets = sorted({at for first, count, _ in spans.values() for at in range(first, first + 8 * count, 8)})
        place = {offset: index for index, offset in enumerate(offsets)}
        values, held = self.words(bases, offsets)
        fields = {}
        for name, (first, count, skip) in spans.items():
            index = place[first]
            fields[name] = _value(values[:, index : index + count], members[name], skip)
        return Table(fields, np.logical_and.reduce(held, axis=1))

    def pointers(self, addresses: npt.ArrayLike, offset: int = 0) -> Addresses:
        """The pointer at each address + `offset`; 0 where it cannot be read or the address is 0."""
        bases = np.asarray(addresses, np.uint64)
        good = (bases != 0) & ((bases + np.uint64(offset)) & np.uint64(7) == 0)
        values, _ = self.words(np.where(good, bases, 0), [offset])
        return np.where(good, values[:, 0], np.uint64(0))

    def numbers(self, addresses: npt.ArrayLike, dtype: str) -> npt.NDArray[np.int64]:
        """Integers of a NumPy type, anywhere; shape as `addresses`. 0 where one cannot be read."""
        places = np.asarray(addresses, np.uint64)
        flat = places.ravel()
        size = np.dtype(dtype).itemsize
        values, _ = self.words(flat & ~np.uint64(7), [0])
        shift = (flat & np.uint64(7)) * np.uint64(8)
        raw = (values[:, 0] >> shift).astype(f"u{size}").view(dtype)
        return raw.astype(np.int64).reshape(places.shape)

    def strings(self, addresses: npt.ArrayLike, limit: int = 64) -> list[str]:
        """Text at each address up to a NUL, or `limit` bytes; "" for null and what cannot be read."""
        bases = np.asarray(addresses, np.uint64)
        start = bases & ~np.uint64(7)
        values, held = self.words(start, range(0, limit + 8, 8))
        texts = []
        raw = np.where(held, values, 0).astype("<u8").tobytes()
        width = 8 * values.shape[1]
        for row, skip in enumerate((bases & np.uint64(7)).tolist()):
            text = raw[row * width + skip : (row + 1) * width]
            texts.append(text.split(b"\0", 1)[0][:limit].decode("utf-8", "replace"))
        return texts

    # Linked structures

    def tree(self, root: int, limit: int = _LIMIT) -> Addresses:
        """Addresses of all struct rb_node below the node `root` (0: none), by depth, not in order."""
        kind = self._objects.types.struct("rb_node")
        offsets = [kind.offset("rb_left"), kind.offset("rb_right")]
        found: list[Addresses] = []
        level = np.array([root] if root else [], np.uint64)
        total = 0
        while len(level):
            total += len(level)
            if total > limit or len(found) > 128:
                self._objects.problem("a red-black tree does not end")
                break
            found.append(level)
            children, held = self.words(level, offsets)
            if not held.all():
                self._objects.problem("a red-black tree breaks off: some of its nodes cannot be read")
            children = children.ravel()
            level = children[(children != 0) & (children & np.uint64(7) == 0)]
        return np.concatenate(found) if found else np.empty(0, np.uint64)

    def chains(self, heads: npt.ArrayLike, limit: int = _LIMIT) -> Addresses:
        """Nodes of many hlists at once, unordered: `heads` are first nodes.

        A chain ends at 0 or, as in hlist_nulls, at an odd number.
        """
        level = np.asarray(heads, np.uint64)
        level = level[(level != 0) & (level & np.uint64(1) == 0)]
        found: list[Addresses] = []
        total = 0
        while len(level) > _SERIAL:
            total += len(level)
            if total > limit:
                self._objects.problem("chains do not end")
                break
            found.append(level)
            following, held = self.words(level & ~np.uint64(7), [0])
            if not held.all():
                self._objects.problem("some chains break off: a node cannot be read")
            level = following[:, 0]
            level = level[(level != 0) & (level & np.uint64(1) == 0)]
        else:
            rest = [node for start in level.tolist() for node in self._chain(start, limit)]
            found.append(np.array(rest, np.uint64))
        return np.concatenate(found) if found else np.empty(0, np.uint64)

    def _chain(self, node: int, limit: int) -> Iterator[int]:
        seen: set[int] = set()
        while node and not node & 1:
            if node in seen or len(seen) > limit:
                self._objects.problem("a chain does not end")
                return
            seen.add(node)
            yield node
            try:
                node = self._objects.unsigned(node)
            except NotPresentError:
                self._objects.problem(f"a chain breaks off: {node:#x} cannot be read")
                return


class Table:
    """Columns by name. Integers are int64 or uint64, pointers uint64, char arrays bytes without what follows a NUL."""

    def __init__(self, fields: dict[str, npt.NDArray[np.generic]], ok: npt.NDArray[np.bool_]) -> None:
        self._fields = fields
        self.ok = ok  # rows that could be read in full

    def __getitem__(self, name: str) -> npt.NDArray[np.int64]:
        return self._fields[name]  # type: ignore[return-value]

    def __len__(self) -> int:
        return len(self.ok)


def _span(member: Member) -> tuple[int, int, int]:
    """(first word's offset, words, bytes to skip in the first) of a member."""
    kind = member.type.resolve()
    size = -(-(member.shift + member.bits) // 8) if member.bits else kind.sizeof()
    first = member.offset & ~7
    return first, -(-(member.offset + size - first) // 8), member.offset - first


def _value(words: npt.NDArray[np.uint64], member: Member, skip: int) -> npt.NDArray[np.generic]:
    """A member's values out of the words that hold it."""
    kind = member.type.resolve()
    size = kind.sizeof()
    if kind.kind == btf.ARRAY or size > 8:
        raw = np.ascontiguousarray(words).astype("<u8").view(np.uint8).reshape(len(words), 8 * words.shape[1])
        return np.ascontiguousarray(raw[:, skip : skip + size]).view(f"S{size}").reshape(len(words))
    value = words[:, 0]
    if member.bits:
        width, shift = member.bits, 8 * skip + member.shift
    else:
        width, shift = 8 * size, 8 * skip
    if shift + width > 64:  # across two words
        value = value >> np.uint64(shift) | words[:, 1] << np.uint64(64 - shift)
    else:
        value = value >> np.uint64(shift)
    if kind.kind == btf.PTR or (width == 64 and not _signed(kind)):
        return value
    if width < 64:
        value = value & np.uint64((1 << width) - 1)
    number = value.astype(np.int64)
    if _signed(kind) and width < 64:
        number = np.where(number >> np.int64(width - 1) & 1, number - (1 << width), number)
    return number


def _signed(kind: Type) -> bool:
    return kind.types.int_encoding(kind)[0] if kind.kind == btf.INT else kind.kind == btf.ENUM and kind.flag
