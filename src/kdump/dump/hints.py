"""Facts about pages from the kernel's types and symbols, in addition to VMCOREINFO.

Opening them costs time and memory, so a process that has them open passes the facts on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from kdump.dump.bulk import SlabFacts, find_slabs
from kdump.dump.pcp import ListFacts, find_lists

if TYPE_CHECKING:
    from kdump.kernel.kernel import Kernel


class Hints(NamedTuple):
    """None where they do not tell: pages on the CPUs' lists are kept then, and no slab is told from another."""

    lists: ListFacts | None = None
    slabs: SlabFacts | None = None


FindHints = Callable[["Kernel"], Hints]


def find_hints(kernel: Kernel) -> Hints:
    """All that is known."""
    return Hints(find_lists(kernel), find_slabs(kernel))


def no_hints(_kernel: Kernel) -> Hints:
    """Hints that are empty: nothing is searched for."""
    return Hints()


def to_json(hints: Hints) -> str:
    """For another process, which need not open types and symbols."""
    return json.dumps(hints)


def from_json(text: bytes) -> Hints:
    """The inverse of `to_json`."""
    lists, slabs = json.loads(text)
    return Hints(
        ListFacts._make([*lists[:-1], tuple(lists[-1])]) if lists else None,
        SlabFacts(slabs[0], tuple(slabs[1])) if slabs else None,
    )
