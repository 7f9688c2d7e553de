"""Chains of records against following them one by one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump.native import chain
from kdump.native.chain import follow


def one_by_one(lengths: list[int], limit: int | None) -> list[int]:
    found: list[int] = []
    place = 0
    while place < len(lengths) and lengths[place] and (limit is None or len(found) < limit):
        found.append(place)
        place += lengths[place]
    return [*found, place]


def followed(lengths: list[int], limit: int | None) -> list[int]:
    def of(first: int, end: int) -> npt.NDArray[np.int64]:
        return np.array(lengths[first:end], np.int64)

    found: list[int] = follow(of, len(lengths), limit).tolist()
    return found


@given(
    lengths=st.lists(st.one_of(st.integers(1, 4), st.integers(0, 300)), max_size=400),
    limit=st.none() | st.integers(0, 100),
    window=st.sampled_from([1, 7, 64, 1 << 15]),
)
def test_it_finds_what_a_loop_finds(lengths: list[int], limit: int | None, window: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain, "_WINDOW", window)
        assert followed(lengths, limit) == one_by_one(lengths, limit)


def test_many_records_of_one_place() -> None:
    assert followed([1] * 100_000, None) == list(range(100_001))
