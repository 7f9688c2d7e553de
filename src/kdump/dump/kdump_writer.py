"""Writes the kdump-compressed format, version 6 (header, bitmaps, descriptors, data).

Source: makedumpfile's diskdump_mod.h and IMPLEMENTATION, and experiments with crash and libkdumpfile. The data goes
out front to back as it is compressed; the head, whose contents are known last, fills the gap left for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kdump.dump.codecs import Packed
from kdump.dump.early import Early, Layout
from kdump.dump.levels import ZERO
from kdump.dump.pfnset import PfnSet
from kdump.elf import NHDR, NT_PRSTATUS
from kdump.memory.kdump_format import COMPRESSION, DESCRIPTOR, MAGIC, MAIN, STATUS_INCOMPLETE, SUB
from kdump.memory.protocol import Note

VERSION = 6
UTS_FIELD = 65  # bytes of each of the six strings in struct new_utsname
FLUSH = 1 << 14  # descriptors kept back before they are written


class Sink(Protocol):
    """Where a dump is written: bytes go in front to back, into a gap at the front at any time. See `kdump.targets`."""

    def skip(self, size: int) -> None:
        """Leave a gap at the front."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append."""

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Fill (a part of) the gap."""


@dataclass(frozen=True)
class Origin:
    """A dump's facts about its machine."""

    page_size: int
    notes: Sequence[Note]
    vmcoreinfo: bytes
    uts: Sequence[bytes]  # sysname, nodename, release, version, machine, domainname
    timestamp: int  # seconds since 1970
    phys_base: int


@dataclass(frozen=True)
class Part:
    """The pfns [first, end) whose data a file of a split set holds; `number` of them all. A whole dump has none."""

    first: int
    end: int


class KdumpWriter:
    """One dump (or one part of a split set) being written to a stream.

    Call `append` with the kept pages in order, then `finish`. If there are pages that go `first`, append these, call
    `rest`, and append the others. Positions: header, sub header with notes, bitmaps,
    descriptors, then the data from `data_offset` on.
    """

    def __init__(
        self, stream: Sink, origin: Origin, present: PfnSet, kept: PfnSet, *, level: int, flag: int,
        part: Part | None = None, first: PfnSet | None = None,
    ) -> None:  # fmt: skip
        """`flag` is the codec's bit in the header's status, and STATUS_INCOMPLETE if what is read is incomplete."""
        self.stream = stream
        self.origin = origin
        self.present = present
        self.kept = kept
        self.level = level
        self.flag = flag
        self.part = part
        # In a part too: makedumpfile --reassemble expects the data at the same place in all of them.
        self.reserved = kept.count
        block = origin.page_size
        self._notes = pack_notes(origin.notes)
        self._sub_blocks = _blocks(SUB.size + len(self._notes), block)
        self._bitmap_blocks = 2 * _blocks(-(-present.limit // 8), block)
        self.descriptors_offset = (1 + self._sub_blocks + self._bitmap_blocks) * block
        self.data_offset = self.descriptors_offset + self.reserved * DESCRIPTOR.itemsize
        self.end = self.data_offset
        self.written = 0  # pages
        self._placed = 0  # descriptors in the file
        self._last = -1  # the last pfn whose descriptor was placed
        self._pending: list[tuple[NDArray[np.int64], NDArray[np.unsignedinteger]]] = []  # pfns and sizes
        self._waiting = 0  # pages in them
        stream.skip(self.data_offset)
        zero_offset = 0
        if level & ZERO:  # the page that all pages of zeros share comes first: makedumpfile --reassemble looks there
            zero_offset = self.end
            self.end += stream.write(bytes(block))
        self._layout = Layout(block, flag & COMPRESSION, zero_offset)
        self._described = self.end  # where the data of the first page without a descriptor is
        self._early = Early(first, *self._bounds, self.end, self._layout) if first is not None else None
        self._is_early = first is not None

    @property
    def _bounds(self) -> tuple[int, int]:
        return (self.part.first, self.part.end) if self.part else (0, self.present.limit)

    @property
    def size(self) -> int:
        """Bytes of the file so far."""
        return self.end

    def append(self, pfns: NDArray[np.int64], packed: Packed) -> None:
        """Pages in the order of their pfns."""
        sizes = packed.sizes.astype(self._layout.size_type)
        if packed.data:
            self.end += self.stream.write(packed.data)
        self.written += len(pfns)
        if self._early and self._is_early:
            self._early.add(sizes)
            return
        self._pending.append((pfns, sizes))
        self._waiting += len(pfns)
        if self._waiting >= FLUSH:
            self._flush()

    def rest(self) -> None:
        """The first part is complete; all other pages follow."""
        self._is_early = False
        self._described = self.end

    def finish(self, *, incomplete: bool) -> None:
        """Write what is left of the head. An incomplete dump's missing descriptors stay zero; its header says so."""
        self._flush()
        if self._early:
            self._place_early(self._early)
        # Pages that turned out unreadable, or were not reached, leave descriptors unused.
        rest = (self.reserved - self._placed) * DESCRIPTOR.itemsize
        offset = self.descriptors_offset + self._placed * DESCRIPTOR.itemsize
        while rest:
            size = min(rest, 1 << 20)
            self.stream.pwrite(bytes(size), offset)
            offset, rest = offset + size, rest - size
        offset = 0
        for piece in self._head(incomplete):
            offset += self.stream.pwrite(piece, offset)

    def _place_early(self, early: Early) -> None:
        """Descriptors behind the last one: of pages that went first, and zeros for those that were not reached."""
        first, end = self._bounds
        for pfns in self.kept.pfns():
            behind = pfns[(pfns >= max(first, self._last + 1)) & (pfns < end)]
            if len(behind):
                found = np.zeros(len(behind), DESCRIPTOR)
                early_pfns, descriptors = early.take(int(behind[-1]))
                found[np.searchsorted(behind, early_pfns)] = descriptors
                self._place(found)

    def _flush(self) -> None:
        if not self._waiting:
            return
        pfns = np.concatenate([pfns for pfns, _ in self._pending])
        sizes = np.concatenate([sizes for _, sizes in self._pending])
        self._pending.clear()
        self._waiting = 0
        self._last = int(pfns[-1])
        found, self._described = self._layout.descriptors(sizes, self._described)
        if self._early:
            pfns_before, before = self._early.take(self._last)
            places = np.searchsorted(pfns, pfns_before) + np.arange(len(before))
            merged = np.empty(len(found) + len(before), DESCRIPTOR)
            others = np.ones(len(merged), np.bool_)
            others[places] = False
            merged[places], merged[others] = before, found
            found = merged
        self._place(found)

    def _place(self, descriptors: NDArray[np.void]) -> None:
        offset = self.descriptors_offset + self._placed * DESCRIPTOR.itemsize
        self.stream.pwrite(descriptors.tobytes(), offset)
        self._placed += len(descriptors)

    def _head(self, incomplete: bool) -> Iterable[bytes]:
        """Header, sub header, both bitmaps: in order, without gaps."""
        origin, block = self.origin, self.origin.page_size
        limit = self.present.limit
        uts = b"".join(text[: UTS_FIELD - 1].ljust(UTS_FIELD, b"\0") for text in origin.uts)
        status = self.flag | (STATUS_INCOMPLETE if incomplete else 0)
        cpus = sum(note.type == NT_PRSTATUS and note.name == "CORE" for note in origin.notes)
        main = MAIN.pack(
            MAGIC, VERSION, uts, origin.timestamp, 0, status, block, self._sub_blocks, self._bitmap_blocks,
            min(limit, 0xFFFF_FFFF), 0, 0, 0, 0, cpus,
        )  # fmt: skip
        yield main.ljust(block, b"\0")
        notes_at = block + SUB.size
        info_at = self._notes.find(origin.vmcoreinfo) if origin.vmcoreinfo else -1
        first, end = (self.part.first, self.part.end) if self.part else (0, 0)
        sub = SUB.pack(
            origin.phys_base & (1 << 64) - 1, self.level, int(self.part is not None),
            min(first, 0xFFFF_FFFF), min(end, 0xFFFF_FFFF),
            notes_at + info_at if info_at >= 0 else 0, len(origin.vmcoreinfo) if info_at >= 0 else 0,
            notes_at, len(self._notes), 0, 0, first, end, limit,
        )  # fmt: skip
        yield (sub + self._notes).ljust(self._sub_blocks * block, b"\0")
        for bits in (self.present, self.kept):
            left = self._bitmap_blocks // 2 * block
            for piece in bits.bitmap():
                yield piece.tobytes()
                left -= len(piece)
            yield bytes(left)


def pack_notes(notes: Iterable[Note]) -> bytes:
    """ELF notes as they stand in a PT_NOTE segment."""
    packed = []
    for note in notes:
        name = note.name.encode() + b"\0"
        packed.append(NHDR.pack(len(name), len(note.data), note.type))
        packed += [name.ljust(len(name) + 3 & ~3, b"\0"), note.data.ljust(len(note.data) + 3 & ~3, b"\0")]
    return b"".join(packed)


def _blocks(size: int, block: int) -> int:
    return -(-size // block)
