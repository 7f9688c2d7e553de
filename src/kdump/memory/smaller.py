"""Memory in smaller pages than the dump has: QEMU packs 64 KiB together where a kernel may have such pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kdump.memory.protocol import Memory, Range

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class InSmallerPages:
    """A `Memory` in pages of `page_size` bytes, of which a page of the other one has a whole number."""

    def __init__(self, memory: Memory, page_size: int) -> None:
        self.page_size = page_size
        self._memory = memory
        self._many = memory.page_size // page_size

    @property
    def ranges(self) -> Sequence[Range]:
        """See `Memory.ranges`."""
        return self._memory.ranges

    def view(self, address: int, size: int) -> memoryview:
        """See `Memory.view`."""
        return self._memory.view(address, size)

    def present(self, first_pfn: int, count: int) -> NDArray[np.bool_]:
        """See `Memory.present`."""
        first, end = first_pfn // self._many, -(-(first_pfn + count) // self._many)
        whole = self._memory.present(first, end - first).repeat(self._many)
        return whole[first_pfn - first * self._many :][:count]

    def held(self) -> Iterator[Range]:
        """See `Memory.held`."""
        return self._memory.held()

    def close(self) -> None:
        """See `Memory.close`."""
        self._memory.close()
