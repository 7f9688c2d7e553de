"""Maple trees, which since 6.1 hold what red-black and radix trees held: address spaces, and since 6.5 interrupts.

Source: include/linux/maple_tree.h and lib/maple_tree.c: a node's address has its type in bits 3 to 6, the root's
also bit 1 where it is a node and no entry; a node of ranges has one pivot less than slots, each the last index of its
slot, and a pivot of 0 ends it.
"""

from __future__ import annotations

from collections.abc import Iterator

from kdump.errors import NotPresentError
from kdump.kernel.objects import Objects, Struct

_NODE_MASK = 0xFF
_LEAVES = (0, 1)  # maple_dense, maple_leaf_64
_ARRANGED = 3  # maple_arange_64
_MAX = (1 << 64) - 1
_LIMIT = 1 << 20


def entries(objects: Objects, tree: Struct) -> Iterator[tuple[int, int]]:
    """(first index, address) of every entry of a struct maple_tree; damage ends a branch and is noted."""
    root = int(tree.ma_root)
    if not (root & 3 == 2 and root > 4096):  # a tree of one entry, for index 0
        if root and not root & 2:
            yield 0, root
        return
    stack = [(root, 0, _MAX)]
    visited = 0
    while stack:
        entry, first, last = stack.pop()
        visited += 1
        if visited > _LIMIT:
            objects.problem("a maple tree does not end")
            return
        try:
            slots = [slot for slot in _slots(objects, entry, first, last) if slot[0]]
        except NotPresentError:
            objects.problem(f"a maple tree's node at {entry & ~_NODE_MASK:#x} cannot be read")
            continue
        if (entry >> 3 & 0xF) in _LEAVES:
            yield from ((start, value) for value, start, _ in slots if not value & 2)
        else:
            stack += reversed(slots)


def _slots(objects: Objects, entry: int, first: int, last: int) -> list[tuple[int, int, int]]:
    """(value, first index, last index) of a node's slots."""
    address, kind = entry & ~_NODE_MASK, entry >> 3 & 0xF
    node = objects.struct("maple_node", address)
    if kind == 0:
        return [(int(value), first + place, first + place) for place, value in enumerate(node.slot)]
    part = node.ma64 if kind == _ARRANGED else node.mr64
    pivots = [int(value) for value in part.pivot]
    found = []
    for place, value in enumerate(part.slot):
        pivot = pivots[place] if place < len(pivots) else last
        end = last if not pivot and place else min(pivot, last)
        found.append((int(value), first, end))
        if end >= last:
            break
        first = end + 1
    return found
