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
from kdump.kernel.kernel import Kernel
from kdump.memory.kdump_format import STATUS_INCOMPLETE
from kdump.memory.protocol import Dump


class Writer(Protocol):
    """The receiver of pages, in order: `KdumpWriter`, `SplitWriter`, `ElfWriter`."""

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
