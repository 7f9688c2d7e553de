"""Large kernel memory that is not needed to open a dump: of the pages that level 31 keeps, it is written last.

That is the memory map itself, and slabs that the kernel would give back if memory were short: dentries, inodes, buffer
heads. Sources: mm/slab.h (struct slab, struct kmem_cache), mm/slub.c (calculate_sizes), include/linux/gfp_types.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdump.dump.memmap import MapRun
from kdump.errors import KdumpError
from kdump.memory.virtual import VirtualMemory

if TYPE_CHECKING:
    from kdump.kernel.kernel import Kernel

_GFP_RECLAIMABLE = 1 << 4
_CACHES_LIMIT = 1 << 16
_NEEDED = "radix_tree_node"  # tables of processes and interrupts are made of them: debuggers begin there


class SlabFacts(NamedTuple):
    """Where a slab's struct page has the address of its cache, in bytes, and which caches are reclaimable, in order."""

    pointer: int
    caches: tuple[int, ...]


def find_slabs(kernel: Kernel) -> SlabFacts | None:
    """From the kernel's types and its list of caches; None if they do not have it."""
    try:
        types, objects = kernel.types, kernel.objects
        slab = types.struct("slab" if types.has_struct("slab") else "page")  # the latter before 5.17
        pointer = slab.member("slab_cache").offset
        caches = objects.list(objects.variable("slab_caches"), "kmem_cache", "list", _CACHES_LIMIT)
        found = [
            objects.address(each)
            for each in caches
            if int(each.allocflags) & _GFP_RECLAIMABLE and objects.string(each.name) != _NEEDED
        ]
        return SlabFacts(pointer, tuple(sorted(found))) if found else None
    except (KeyError, AttributeError, KdumpError):
        return None


def map_pages(runs: Sequence[MapRun], size: int, virtual: VirtualMemory) -> NDArray[np.int64]:
    """Pages that struct pages of `size` bytes lie in: shape (n, 2), first pfn and the one behind the last, in order."""
    shift = virtual.memory.page_size.bit_length() - 1
    found = [
        (extent.physical >> shift, extent.physical + extent.size - 1 >> shift)
        for run in runs
        for extent in virtual.extents(run.virtual, run.pages * size)
    ]
    pfns = np.array(sorted(found), np.int64).reshape(-1, 2)
    pfns[:, 1] += 1
    return pfns
