"""Which lists of threads are taken from what was read at once: those that are whole, in their own order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kdump.kernel import task_table

A, B = 0x9000, 0xA000  # heads of two lists


def rings(lists: dict[int, list[int]], known: list[tuple[int, int]], changed: dict[int, int]) -> dict[int, list[int]]:
    """`lists`: nodes by head, in order; `known`: nodes that were read and their list's head; `changed`: other links."""
    links: dict[int, int] = {}
    for head, nodes in lists.items():
        links.update(zip([head, *nodes], [*nodes, head], strict=True))
    links.update(changed)

    def pointers(places: Any) -> Any:
        return np.array([links[place] for place in places.tolist()], np.uint64)

    objects = SimpleNamespace(columns=SimpleNamespace(pointers=pointers))
    places = np.array([node for node, _ in known], np.uint64)
    heads = np.array([head for _, head in known], np.uint64)
    following = np.array([links[node] for node, _ in known], np.uint64)
    return task_table._rings(cast("Any", objects), heads, places, following)


LISTS = {A: [0x3000, 0x1000, 0x2000], B: [0x5000]}
KNOWN = [(0x5000, B), (0x1000, A), (0x2000, A), (0x3000, A)]


def test_the_lists_order_counts() -> None:
    assert rings(LISTS, KNOWN, {}) == LISTS
    many = {A: list(range(0x100000, 0x200000, 0x400))[::-1]}
    assert rings(many, [(task, A) for task in sorted(many[A])], {}) == many
    assert rings({}, [], {}) == {}


@pytest.mark.parametrize(
    ("known", "changed"),
    [
        (KNOWN[:-1], {}),  # one of the list was not read
        ([*KNOWN, (0x7000, A)], {0x7000: A}),  # one that was read is not in the list
        (KNOWN, {0x2000: 0x3000}),  # a circle
        (KNOWN, {0x1000: 0xDEAD0000}),  # a link that leads nowhere
        (KNOWN, {0x1000: 0x5000}),  # into another list
        (KNOWN, {A: 0xDEAD0000}),  # the list's own head
        (KNOWN, {A: 0x1000}),  # the head leaves the first out
        (KNOWN, {A: 0x5000}),  # the head leads into another list
    ],
)
def test_a_list_that_is_not_whole_is_left_to_be_walked(known: list[tuple[int, int]], changed: dict[int, int]) -> None:
    assert rings(LISTS, known, changed) == {B: [0x5000]}
