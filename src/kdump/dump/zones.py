"""The kernel's own count of its free pages: what the filter's count is held against.

Source: include/linux/mmzone.h (struct pglist_data, struct zone, vm_stat), kernel/vmcore_info.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kdump.errors import FormatError, KdumpError, NotPresentError
from kdump.kernel.vmcoreinfo import VmCoreInfo
from kdump.memory.virtual import VirtualMemory

if TYPE_CHECKING:
    from kdump.kernel.kernel import Kernel

NODES_LIMIT, ZONES_LIMIT = 4096, 16
# Each CPU may hold back changes to a zone's counters up to a threshold of 125 (mm/vmstat.c), and a page or two are in
# flight between lists when the machine stops.
SLACK_OF_A_CPU = 125


def with_nodes(kernel: Kernel) -> VmCoreInfo:
    """VMCOREINFO, completed by where the nodes are if it does not say so: not every architecture's kernels do."""
    info = kernel.vmcoreinfo
    if "node_data" in info.symbols or "contig_page_data" in info.symbols:
        return info
    try:
        table, only = kernel.symbols.get("node_data"), kernel.symbols.get("contig_page_data")
        mask = kernel.virtual.read(info.symbols["node_online_map"], min(info.sizes["nodemask_t"], NODES_LIMIT // 8))
    except (KeyError, KdumpError):
        return info
    if table is None:
        return replace(info, symbols={**info.symbols, "contig_page_data": only}) if only is not None else info
    count = int.from_bytes(mask, "little").bit_length()  # only as far as nodes are online: what follows may be anything
    lengths = {**info.lengths, "node_data": count}
    return replace(info, symbols={**info.symbols, "node_data": table}, lengths=lengths)


def free_pages(info: VmCoreInfo, virtual: VirtualMemory) -> tuple[int, int] | None:
    """(pages on the buddy allocator's lists as all zones count them, populated zones); None if it cannot be read."""
    try:
        counter = info.offsets["zone.vm_stat"] + 8 * info.numbers["NR_FREE_PAGES"]
        counts = [virtual.u64(zone + counter) for zone in populated_zones(info, virtual)]
    except (KeyError, NotPresentError, FormatError):
        return None
    return (sum(counts), len(counts)) if counts else None


def populated_zones(info: VmCoreInfo, virtual: VirtualMemory) -> Iterator[int]:
    """Addresses of struct zone of the zones that have pages. Raises KeyError for what VMCOREINFO lacks."""
    offsets, size = info.offsets, info.sizes["zone"]
    node_zones, nr_zones = offsets["pglist_data.node_zones"], offsets["pglist_data.nr_zones"]
    spanned = offsets["zone.spanned_pages"]
    for node in _nodes(info, virtual):
        for number in range(min(virtual.u32(node + nr_zones), ZONES_LIMIT)):
            zone = node + node_zones + number * size
            if virtual.u64(zone + spanned):
                yield zone


def _nodes(info: VmCoreInfo, virtual: VirtualMemory) -> list[int]:
    """Addresses of the nodes' struct pglist_data."""
    table = info.symbols.get("node_data")
    if table is None:
        return [info.symbols["contig_page_data"]]  # without CONFIG_NUMA
    count = min(info.lengths["node_data"], NODES_LIMIT)
    return [int(node) for node in np.frombuffer(virtual.view(table, count * 8), "<u8") if node]


def contradiction(counted: int, kernel: tuple[int, int] | None, cpus: int) -> str:
    """A sentence if the filter counted more free pages than the kernel has; "" otherwise.

    Fewer are no harm: they are kept. (Free pages may also lie outside of the RAM that a dump covers.)
    """
    if kernel is None:
        return ""
    total, zones = kernel
    if counted <= total + SLACK_OF_A_CPU * max(cpus, 1) * zones:
        return ""
    return f"{counted} pages look free but the kernel counts {total}"
