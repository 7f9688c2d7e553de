"""The writers behind one interface, and which one a dump needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kdump.dump.codecs import Packed
from kdump.dump.elf_writer import ElfWriter
from kdump.dump.kdump_writer import KdumpWriter, Sink
from kdump.dump.origin import find_mappings, find_origin
from kdump.dump.selection import Selection
from kdump.dump.split import SplitWriter
from kdump.errors import FormatError
from kdump.kernel.kernel import Kernel
from kdump.memory.kdump_format import STATUS_INCOMPLETE
from kdump.memory.protocol import Dump
from kdump.units import size_text

BITMAPS_LIMIT = 1 << 30  # bytes of bitmaps that any dump may have: of 16 TiB


class Writer(Protocol):
    """What pages are handed to, in order: `KdumpWriter`, `SplitWriter`, `ElfWriter`."""

    @property
    def written(self) -> int:
        """Pages so far."""

    @property
    def size(self) -> int:
        """Bytes so far."""

    def append(self, pfns: NDArray[np.int64], packed: Packed) -> None:
        """Pages by pfn; see `KdumpWriter.append`."""

    def rest(self) -> None:
        """Only if there are pages that go first; see `KdumpWriter.rest`."""

    def finish(self, *, incomplete: bool) -> None:
        """Write what is known last."""


def check_extent(dump: Dump) -> None:
    """Raises `FormatError` if the bitmaps of a kdump-compressed dump would dwarf the memory that is there.

    They have two bits for each page up to the last one, so a damaged header of a few bytes could ask for terabytes.
    """
    memory = dump.memory
    end = max((each.end for each in memory.ranges), default=0)
    bitmaps = 2 * end // memory.page_size // 8
    if bitmaps > BITMAPS_LIMIT and bitmaps > (held := sum(each.size for each in memory.held())):
        raise FormatError(
            f"claims memory up to {end:#x} but holds {size_text(held)} of it",
            path=dump.path,
            field="p_memsz" if dump.format.endswith("elf") else "max_mapnr",
            why=f"the bitmaps of a kdump-compressed dump of it would take {size_text(bitmaps)}",
            remedy="if it is true, save it as ELF (--elf), which has none",
        )


def open_writer(dump: Dump, streams: Sequence[Sink], selection: Selection, *, container: str, flag: int) -> Writer:
    """The writer for a container ("kdump" or "elf"); several streams are the parts of a split set."""
    origin = find_origin(dump)
    present, kept = selection.present, selection.kept
    if container == "elf":
        image, direct = find_mappings(dump)
        machine = Kernel(dump).arch.elf_machine
        return ElfWriter(streams[0], origin, present, kept, machine=machine, image=image, direct=direct)
    flag |= STATUS_INCOMPLETE if dump.incomplete else 0
    level = selection.level | int(str(dump.header.get("dump_level") or 0))  # what an earlier filter dropped is gone too
    first = selection.first
    if len(streams) > 1:
        return SplitWriter(streams, origin, present, kept, level=level, flag=flag, first=first)
    return KdumpWriter(streams[0], origin, present, kept, level=level, flag=flag, first=first)
