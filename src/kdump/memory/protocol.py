"""The one protocol that everything above reads through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:  # the loader reads `Range` from here and needs no NumPy
    import numpy as np
    from numpy.typing import NDArray


class Range(NamedTuple):
    """A half-open range [start, end) of physical addresses, in bytes."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start


class Memory(Protocol):
    """Physical memory of a dead or live kernel.

    `ranges` lists the RAM that existed (sorted, not overlapping); a page inside them may still be absent because a
    filter dropped it. Implementations are thread-safe for reading.
    """

    page_size: int

    @property
    def ranges(self) -> Sequence[Range]:
        """RAM of the machine, sorted by address, page aligned where the source is."""

    def view(self, address: int, size: int) -> memoryview:
        """Read-only bytes of [address, address+size), without a copy where the source allows.

        The view stays valid until the memory is closed. Raises `NotPresentError` if any byte is absent, `FormatError`
        if the file is damaged there.
        """

    def present(self, first_pfn: int, count: int) -> NDArray[np.bool_]:
        """Shape (count,): whether each page from `first_pfn` on is held in full, so that `view` will give it."""

    def held(self) -> Iterator[Range]:
        """The pages that `present` names, as ranges in bytes, sorted; what is adjacent may come in pieces."""

    def close(self) -> None:
        """Release files and mappings."""


@runtime_checkable
class ReadsInto(Protocol):
    """A `Memory` that can also copy, faster than copying its views."""

    def readinto(self, address: int, buffer: memoryview) -> None:
        """Fill the (writable, byte) buffer with memory from `address` on. Raises as `Memory.view` does."""

    def lend(self, address: int, size: int) -> memoryview | None:
        """The bytes where they are, found readable, if that is cheaper than `readinto`; None otherwise."""

    def places(self, pfns: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]] | None:
        """A file's descriptor, and where in it each of these pages (rising) begins, to be read with pread(2).

        None where they are not all in one piece of a file, or are cheaper to read otherwise.
        """


class Note(NamedTuple):
    """One ELF note: owner `name` ("CORE", "VMCOREINFO", …), `type` number, and descriptor bytes."""

    name: str
    type: int
    data: bytes


class Dump(NamedTuple):
    """An opened dump: memory plus what its container says about it.

    `format` is "elf", "kdump" (kdump-compressed), "flattened+kdump", "kcore", …; `vmcoreinfo` are the raw bytes of the
    VMCOREINFO note (empty if absent). `header` holds container fields under the names of their specification
    (for kdump-compressed: header_version, status, dump_level, timestamp, …). `incomplete` is what the container's own
    header says, or its size, or that parts are missing; `lacks` says it in a sentence where that is known.
    """

    path: str
    format: str
    memory: Memory
    vmcoreinfo: bytes
    notes: tuple[Note, ...] = ()
    header: Mapping[str, object] = MappingProxyType({})
    incomplete: bool = False
    parts: tuple[str, ...] = ()
    lacks: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file of the dump: `parts` of a split set, else the one."""
        return self.parts or (self.path,)

    def __enter__(self) -> Dump:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the memory's files and mappings."""
        self.memory.close()
