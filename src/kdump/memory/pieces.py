"""Compressed pages that are unpacked together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Pieces(NamedTuple):
    """Parts of a file, a descriptor, or of bytes: where each begins (rising) and how long it is."""

    data: memoryview | int
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def piece(self, offset: int, size: int) -> memoryview:
        """One of them."""
        if isinstance(self.data, int):
            return memoryview(os.pread(self.data, size, offset))
        return self.data[offset : offset + size]
