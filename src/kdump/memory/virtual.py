"""Virtual memory: page tables walked over a `Memory`.

Single look-ups do without NumPy, so that the log can be saved before that is loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from kdump.arch.architecture import ByteOrder
from kdump.arch.paging import Paging
from kdump.errors import NotPresentError
from kdump.memory.protocol import Memory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CACHED_TABLES = 1024  # page tables kept, a page each
CACHED_BLOCKS = 1 << 16


class Extent(NamedTuple):
    """A run of virtual memory that is contiguous in physical memory too."""

    virtual: int
    physical: int
    size: int


class _Level:
    """The use of addresses and entries by a level of the tables, computed once."""

    __slots__ = ("huge", "index", "last", "page", "present", "shift", "table", "width")

    def __init__(self, paging: Paging, shift: int) -> None:
        self.shift = shift
        self.width = paging.width(shift)
        self.index = (1 << min(self.width, paging.canonical_bits - shift)) - 1
        self.last = shift == paging.shifts[-1]
        self.huge = shift in paging.leaf_shifts
        self.present = paging.present | (paging.present_leaf if self.huge else 0)
        self.page = paging.address_mask & ~((1 << shift) - 1)  # of the address, in an entry that maps memory
        self.table = paging.table_address_mask or paging.address_mask


class VirtualMemory:
    """One address space of a dead or live kernel. Thread-safe.

    `view` and `read` take virtual addresses. What is not mapped, or mapped to pages that the dump does not hold, raises
    `NotPresentError`.
    """

    def __init__(self, memory: Memory, paging: Paging, order: ByteOrder = "little") -> None:
        """`order` is that of numbers in memory."""
        self.memory = memory
        self.paging = paging
        self._memory_size = sum(each.size for each in memory.ranges)
        self._page_shift = paging.shifts[-1]
        self._block_shift = paging.shifts[-2]
        self._levels = [_Level(paging, shift) for shift in paging.shifts]
        self._order: ByteOrder = "big" if paging.big_endian else "little"
        self.byte_order = order
        self._linear = paging.linear
        self._tables: dict[int, bytes] = {}
        self._last: dict[int, int] = {}  # virtual >> block_shift -> physical address of the table of its single pages
        self._blocks: dict[int, int] = {}  # virtual >> block_shift -> virtual-to-physical offset of huge mappings

    def translate(self, address: int) -> int:
        """The physical address of a virtual one. Raises `NotPresentError` if nothing is mapped there."""
        offset = self._blocks.get(address >> self._block_shift)
        if offset is not None:
            return address + offset
        base, physical, shift = self._walk(address)
        if shift >= self._block_shift:
            if len(self._blocks) >= CACHED_BLOCKS:
                self._blocks.clear()
            self._blocks[address >> self._block_shift] = physical - base
        return physical + (address - base)

    def view(self, address: int, size: int) -> memoryview:
        """Read-only bytes, without a copy where they are contiguous in one segment of the dump."""
        page = 1 << self._page_shift
        if (address & page - 1) + size <= page:
            return self._physical(Extent(address, self.translate(address), size))
        if size > self._memory_size:
            raise NotPresentError(address, size, virtual=True, why="more than the machine's memory")
        extents = list(self._runs(address, size))
        if len(extents) == 1:
            return self._physical(extents[0])
        return memoryview(b"".join(self._physical(extent) for extent in extents))

    def read(self, address: int, size: int) -> bytes:
        """A copy of `size` bytes."""
        return bytes(self.view(address, size))

    def u64(self, address: int) -> int:
        """The 64-bit number at `address` (a pointer, an unsigned long)."""
        return int.from_bytes(self.view(address, 8), self.byte_order)

    def u32(self, address: int) -> int:
        """The 32-bit number at `address`."""
        return int.from_bytes(self.view(address, 4), self.byte_order)

    def cstring(self, address: int, limit: int = 256) -> bytes:
        """The bytes at `address` up to a NUL, `limit` bytes at most. What is absent ends the string too."""
        page = 1 << self._page_shift
        text = b""
        while len(text) < limit:
            count = min(limit - len(text), page - (address + len(text)) % page)
            try:
                part = self.read(address + len(text), count)
            except NotPresentError:
                if not text:
                    raise
                break
            head, nul, _ = part.partition(b"\0")
            text += head
            if nul:
                break
        return text

    def frames(self, pages: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Shape (n,): the page frame number of each virtual page number (rising); -1 where nothing is mapped.

        Pages are those of `memory`: QEMU may have written a kernel's larger ones in parts.
        """
        import numpy as np

        parts = self._page_shift - (self.memory.page_size.bit_length() - 1)
        if parts > 0:
            whole, index = np.unique(pages >> np.uint64(parts), return_inverse=True)
            found = self._frames(whole)[index]
            inside = (pages & np.uint64((1 << parts) - 1)).astype(np.int64)
            return np.where(found < 0, found, found << parts | inside)
        return self._frames(pages)

    def _frames(self, pages: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The same in pages of the kernel's."""
        import numpy as np

        found = np.full(len(pages), -1, np.int64)
        width = self._block_shift - self._page_shift
        blocks, starts = np.unique(pages >> np.uint64(width), return_index=True)
        ends = [*starts[1:].tolist(), len(pages)]
        for block, start, end in zip(blocks.tolist(), starts.tolist(), ends, strict=True):
            base = block << self._block_shift
            with contextlib.suppress(NotPresentError):
                self.translate(base)
            offset = self._blocks.get(base >> self._block_shift)
            if offset is not None:
                inside = pages[start:end].astype(np.int64)
                found[start:end] = inside + (offset >> self._page_shift)
                continue
            found[start:end] = self._small_frames(base, pages[start:end])
        return found

    def _small_frames(self, base: int, pages: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The same within one block that is mapped page by page."""
        import numpy as np

        found = np.full(len(pages), -1, np.int64)
        place = self._last_table(base)
        if place is None:
            return found
        try:
            table = self._entries(place, self._page_shift)
        except NotPresentError:
            return found
        leaf, _, physical = self._decode(table, self._page_shift)
        index = (pages & np.uint64(len(table) - 1)).astype(np.intp)
        held = leaf[index]
        found[held] = (physical[index[held]] >> np.uint64(self._page_shift)).astype(np.int64)
        return found

    def _last_table(self, address: int) -> int | None:
        """Physical address of the table of single pages that covers `address`, or None."""
        paging = self.paging
        if not self._canonical(address):
            return None
        place = paging.root
        try:
            for level in self._levels[:-1]:
                leaf, present, physical = self._decode_entry(self._entry(place, address, level), level)
                if leaf or not present:
                    return None
                place = physical
        except NotPresentError:
            return None
        return place

    def last_entry(self, address: int) -> int:
        """The entry of the last page table for an address; 0 if there is no such table, or not in the dump."""
        place = self._last_table(address)
        try:
            return self._entry(place, address, self._levels[-1]) if place is not None else 0
        except NotPresentError:
            return 0

    def extents(self, address: int, size: int) -> Iterator[Extent]:
        """The mapped ranges in [address, address+size), in order, joined where physically contiguous.

        Holes are left out, and so is what only page tables that the dump lacks could tell.
        Reads whole page tables at a time, so a terabyte of struct pages costs thousands of steps, not millions.
        """
        pending: Extent | None = None
        for found in self._extents(address, size):
            if (
                pending
                and pending.virtual + pending.size == found.virtual
                and pending.physical + pending.size == found.physical
            ):
                pending = Extent(pending.virtual, pending.physical, pending.size + found.size)
                continue
            if pending:
                yield pending
            pending = found
        if pending:
            yield pending

    def _runs(self, address: int, size: int) -> Iterator[Extent]:
        """As `extents`, for memory that is mapped throughout. Raises `NotPresentError` where it is not."""
        at, end, first = address, address + size, 0
        start = address
        while at < end:
            try:
                base, physical, shift = self._walk(at)
            except NotPresentError as error:
                raise NotPresentError(address, size, virtual=True, why=f"{at:#x}: {error.why}") from None
            where = physical + (at - base)
            if where != first + (at - start):
                if at > start:
                    yield Extent(start, first, at - start)
                start, first = at, where
            at = min(base + (1 << shift), end)
        yield Extent(start, first, end - start)

    def _physical(self, extent: Extent) -> memoryview:
        try:
            return self.memory.view(extent.physical, extent.size)
        except NotPresentError as error:
            why = f"physical {error.address:#x} {error.why}"
            raise NotPresentError(extent.virtual, extent.size, virtual=True, why=why) from None

    def _extents(self, address: int, size: int) -> Iterator[Extent]:
        bits = self.paging.canonical_bits
        mask = (1 << bits) - 1
        end = address + size
        while address < end:
            # One half of the address space at a time: the sign bit decides what the upper bits are.
            upper = address & ~mask
            stop = min([end, upper + (1 << bits), *(each.virtual for each in self._linear if each.virtual > address)])
            piece = next((each for each in self._linear if 0 <= address - each.virtual < each.size), None)
            if piece:
                stop = min(end, piece.virtual + piece.size)
                yield Extent(address, piece.physical + (address - piece.virtual), stop - address)
                address = stop
                continue
            if self._canonical(address):
                for virtual, physical, length in self._table_extents(self.paging.root, 0, address & mask, stop - upper):
                    yield Extent(virtual + upper, physical, length)
            address = stop

    def _table_extents(self, table_address: int, level: int, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Runs of [start, end), relative to what this table maps at 0."""
        import numpy as np

        paging = self.paging
        shift = paging.shifts[level]
        first, last = start >> shift, (end - 1) >> shift
        try:
            table = self._entries(table_address, shift)[first : last + 1]
        except NotPresentError:
            return
        leaf, present, physical = self._decode(table, shift)
        if leaf.all() and len(table) > 1:  # the common case of a full table: join runs without a Python step for each
            breaks = np.flatnonzero(physical[1:] - physical[:-1] != np.uint64(1 << shift)) + 1
            for run in np.split(np.arange(len(table)), breaks):
                yield self._clip((first + int(run[0])) << shift, int(physical[run[0]]), len(run) << shift, start, end)
            return
        for index in np.flatnonzero(present):
            base = (first + int(index)) << shift
            target = int(physical[index])
            if leaf[index]:
                yield self._clip(base, target, 1 << shift, start, end)
            else:
                inner = self._table_extents(target, level + 1, max(start - base, 0), min(end - base, 1 << shift))
                for virtual, where, length in inner:
                    yield virtual + base, where, length

    @staticmethod
    def _clip(virtual: int, physical: int, size: int, start: int, end: int) -> tuple[int, int, int]:
        skip = max(start - virtual, 0)
        stop = min(virtual + size, end)
        return virtual + skip, physical + skip, stop - virtual - skip

    def _walk(self, address: int) -> tuple[int, int, int]:
        """(virtual start, physical start, shift) of the page that maps `address`."""
        block = address >> self._block_shift
        last = self._last.get(block)
        if last is not None:
            return self._step(last, address, self._levels[-1])
        for piece in self._linear:
            if 0 <= address - piece.virtual < piece.size:
                shift = min(self._block_shift, piece.size.bit_length() - 1)  # a power of two, and aligned to itself
                start = address >> shift << shift
                return start, piece.physical + (start - piece.virtual), shift
        if not self._canonical(address):
            raise NotPresentError(address, virtual=True, why="not a canonical address")
        table = self.paging.root
        for level in self._levels:
            start, physical, shift = self._step(table, address, level)
            if shift:
                break
            table = physical
        if level.last:
            if len(self._last) >= CACHED_BLOCKS:
                self._last.clear()
            self._last[block] = table
        return start, physical, shift

    def _step(self, table: int, address: int, level: _Level) -> tuple[int, int, int]:
        """What `_walk` returns, if that level's table maps `address`; else the next table's address, with shift 0."""
        try:
            entry = self._entry(table, address, level)
        except NotPresentError:
            why = f"the dump lacks the page table at physical {table:#x}"
            raise NotPresentError(address, virtual=True, why=why) from None
        leaf, present, physical = self._decode_entry(entry, level)
        if not present:
            raise NotPresentError(address, virtual=True, why="not mapped")
        if not leaf:
            return 0, physical, 0
        return address >> level.shift << level.shift, physical, level.shift

    def _entry(self, table: int, address: int, level: _Level) -> int:
        data = self._tables.get(table) or self._table(table, level.width)
        at = (address >> level.shift & level.index) * 8
        return int.from_bytes(data[at : at + 8], self._order)

    def _entries(self, table: int, shift: int) -> NDArray[np.uint64]:
        import numpy as np

        raw = np.frombuffer(self._table(table, self.paging.width(shift)), ">u8" if self.paging.big_endian else "<u8")
        return raw.astype("<u8") if self.paging.big_endian else raw

    def _canonical(self, address: int) -> bool:
        bits = self.paging.canonical_bits
        if self.paging.prefix:
            return address >> bits == self.paging.prefix >> bits
        if self.paging.upper_only:
            return address >> bits == (1 << (64 - bits)) - 1
        return address >> (bits - 1) in (0, (1 << (65 - bits)) - 1)

    def _table(self, address: int, width: int) -> bytes:
        table = self._tables.get(address)
        if table is None:
            # A copy: a cached table must not keep a window of the file mapped.
            table = bytes(self.memory.view(address, 8 << width))
            if len(self._tables) >= CACHED_TABLES:
                self._tables.clear()
            self._tables[address] = table
        return table

    def _decode_entry(self, entry: int, level: _Level) -> tuple[bool, bool, int]:
        """(maps memory, present, physical address) of an entry at that level."""
        paging = self.paging
        present = entry & level.present != 0
        leaf = present and (level.last or (level.huge and entry & paging.table_mask != paging.table))
        if leaf and paging.inverts and not entry & paging.valid:
            entry = ~entry
        physical = entry & (level.page if leaf else level.table)
        if paging.high_mask:
            physical |= (entry & paging.high_mask) << paging.high_shift
        return leaf, present, physical

    def _decode(
        self, table: NDArray[np.uint64], shift: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.uint64]]:
        """`_decode_entry` for many entries."""
        import numpy as np

        paging = self.paging
        huge = shift in paging.leaf_shifts
        present = (table & np.uint64(paging.present | (paging.present_leaf if huge else 0))) != 0
        if shift == self._page_shift:
            leaf = present
        elif huge:
            leaf = present & ((table & np.uint64(paging.table_mask)) != np.uint64(paging.table))
        else:
            leaf = np.zeros(len(table), np.bool_)
        entries = table
        if paging.inverts:
            entries = np.where(leaf & ((table & np.uint64(paging.valid)) == 0), ~table, table)
        mask: NDArray[np.uint64] = np.where(
            leaf,
            np.uint64(paging.address_mask & ~((1 << shift) - 1)),
            np.uint64(paging.table_address_mask or paging.address_mask),
        )
        found = entries & mask
        if paging.high_mask:
            found |= (entries & np.uint64(paging.high_mask)) << np.uint64(paging.high_shift)
        return leaf, present, found
