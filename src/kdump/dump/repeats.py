"""Large pages that repeat within a batch are packed once.

A file may name one piece as 30,000 pages of 64 KiB: two gigabytes to pack out of one megabyte. Pages of 4 KiB are not
worth a look: their descriptors alone make a file large.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from kdump.native.interface import Packed, Packer

_LARGE: Final = 16384  # bytes of a page from which on it is worth a look
_FEW: Final = 4  # pages of a batch that are not


def packed_once(compress: Packer, pages: NDArray[np.uint8], *, drop_zeros: bool) -> Packed:
    """The result of `compress` for `pages` (n, page size; contiguous); equal pages are packed once if most are
    equal."""
    count, size = pages.shape
    # Sums settle it for pages that differ, which is what they do as a rule.
    if size < _LARGE or count < _FEW or 2 * len(set(pages.view(np.uint64).sum(axis=1).tolist())) > count:
        return compress(pages, drop_zeros=drop_zeros)
    seen: dict[bytes, int] = {}
    first: list[int] = []
    which: list[int] = []
    for row, page in enumerate(pages):
        number = seen.setdefault(page.tobytes(), len(seen))
        if number == len(first):
            first.append(row)
        which.append(number)
    different = compress(np.ascontiguousarray(pages[first]), drop_zeros=drop_zeros)
    ends = np.cumsum(different.sizes, dtype=np.int64)
    pieces = [bytes(different.data[end - size : end]) for end, size in zip(ends, different.sizes, strict=True)]
    return Packed(b"".join([pieces[number] for number in which]), different.sizes[which])
