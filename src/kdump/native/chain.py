"""Records that lie one behind the other and tell only their own length: where each starts, found many at a time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat

import numpy as np
import numpy.typing as npt

_WINDOW = 1 << 15  # places looked at together: what is computed for each stays in the processor's cache
_DOUBLINGS = 3
_STRIDE = 1 << _DOUBLINGS  # records that one step passes

Lengths = Callable[[int, int], npt.NDArray[np.int64]]


def follow(lengths: Lengths, size: int, limit: int | None = None) -> npt.NDArray[np.int64]:
    """The places at which records start, from 0 on, and as the last one where the last record ends.

    `lengths(first, end)` gives for each place of [first, end) how long a record there would be; 0 stands for one that
    cannot be. Following ends at `size` or behind it, at a record that cannot be (where the last place then is), or
    after `limit` records.
    """
    # Within a window the step over one record becomes one over two, four, eight; an eighth of the chain is walked in
    # Python, and what lies between is filled in. Steps that leave the window stay at its end.
    found: list[npt.NDArray[np.int64]] = []
    count, place = 0, 0
    while place < size and (limit is None or count < limit):
        end = min(place + _WINDOW, size)
        length = lengths(place, end)
        inside = end - place
        one = np.arange(inside + 1)
        one[:-1] += length
        np.minimum(one, inside, out=one)
        many = one
        for _ in range(_DOUBLINGS):
            many = many[many]
        starts = np.array(_walk(many, inside), np.int64)
        rows = [starts]
        for _ in range(_STRIDE - 1):
            rows.append(one[rows[-1]])
        places = np.stack(rows, axis=1).ravel()
        places = places[: int(np.searchsorted(places, inside))]
        if not length[places[-1]]:
            places = places[: int(np.argmax(length[places] == 0)) + 1]
            found.append(places + place)
            break
        if limit is not None:
            places = places[: limit - count]
        found.append(places + place)
        count += len(places)
        place = int(found[-1][-1] + length[places[-1]])
    else:
        found.append(np.array([place]))
    return np.concatenate(found)


def _walk(steps: npt.NDArray[np.int64], end: int) -> list[int]:
    """0, and every place that the steps lead to from there, short of `end` and of a step that leads nowhere."""
    found: list[int] = []
    note, place = found.append, 0
    following = steps.data
    for _ in repeat(None):
        note(place)
        before, place = place, following[place]
        if place in (end, before):
            break
    return found
