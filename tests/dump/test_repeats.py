"""Pages that repeat are packed once, and nothing in the dump tells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from kdump.dump.codecs import compressor
from kdump.dump.repeats import packed_once
from kdump.memory.codecs import CODECS
from kdump.native.interface import Packed

LARGE, SMALL = 65536, 4096


def pages(size: int, order: Sequence[int]) -> NDArray[np.uint8]:
    """Zeros, text, noise, and noise with its words in another order (of one checksum) in that order."""
    noise = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    text = np.frombuffer((b"a quick brown fox " * size)[:size], np.uint8)
    kinds = [np.zeros(size, np.uint8), text, noise, noise.reshape(-1, 8)[::-1].reshape(-1)]
    return np.array([kinds[each] for each in order])


class Counting:
    """A packer that counts the pages it is given."""

    def __init__(self, codec: str) -> None:
        self.inner, self.count = compressor(CODECS[codec], 0), 0

    def __call__(self, pages: NDArray[np.uint8], *, drop_zeros: bool) -> Packed:
        self.count += len(pages)
        return self.inner(pages, drop_zeros=drop_zeros)

    def of_file(self, file: int, places: NDArray[np.int64], size: int, *, drop_zeros: bool) -> Packed | None:
        raise AssertionError("not asked for")


@pytest.mark.parametrize("codec", ["zlib", "zstd", "none"])
@pytest.mark.parametrize("drop_zeros", [True, False])
@pytest.mark.parametrize(
    ("size", "order", "count"),
    [
        (LARGE, [1, 2, 0] * 8, 3),
        (LARGE, [1, 1, 1], 3),  # too few to look at
        (LARGE, [0, 1, 2, 2], 4),  # most differ
        (LARGE, [2, 3] * 4, 2),  # of one sum
        (LARGE, [2, 3, 1] * 4, 3),
        (SMALL, [1, 2, 0] * 8, 24),
    ],
)
def test_the_result_is_the_same(codec: str, drop_zeros: bool, size: int, order: list[int], count: int) -> None:
    given, packer = pages(size, order), Counting(codec)
    found = packed_once(packer, given, drop_zeros=drop_zeros)
    assert packer.count == count
    expected = compressor(CODECS[codec], 0)(given, drop_zeros=drop_zeros)
    assert found.sizes.tolist() == expected.sizes.tolist()
    assert bytes(found.data) == bytes(expected.data)
