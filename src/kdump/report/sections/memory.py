"""Memory at the panic: the figures of /proc/meminfo, zones, who uses most, the slab caches.

Sources: fs/proc/meminfo.c and mm/show_mem.c (which counters make which line), mm/percpu.c, include/linux/mmzone.h
(counters, watermarks), mm/slab.h (struct kmem_cache of SLUB), fs/hugetlbfs. Who owns the rest: section `owners`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdump.errors import KdumpError
from kdump.kernel.objects import Objects, Struct
from kdump.report.context import Context
from kdump.report.damage import DAMAGE
from kdump.report.logtext import clean
from kdump.report.model import Column, Fact, Facts, Finding, Section, Table, Value
from kdump.units import size_text

TITLE = "Memory"
NEEDS_DUMP = True
_TOP = 15
_MAX_ORDER = 30  # 4 TiB in pages of 4 KiB
_LOW, _MUCH = 0.05, 0.5  # shares of all memory: little is left; one user has much
_WATERMARKS = ("min", "low", "high")


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    figures = meminfo(context)
    facts = [Fact(key, key, value, "bytes") for key, value in figures.items()]
    section.blocks.append(Facts("meminfo", facts))
    total = figures["MemTotal"]
    _findings(section, figures, total)
    for part in (_zones, _users, _slabs):
        try:
            part(context, section, total)
        except DAMAGE as error:
            section.notes.append(f"{part.__name__.strip('_')}: {error}")


def meminfo(context: Context) -> dict[str, int]:
    """The lines of /proc/meminfo that can be computed, in bytes, by their names there."""
    objects = context.objects
    page = context.kernel.vmcoreinfo.page_size
    zone, node = _counters(objects, "zone"), _counters(objects, "node")
    total = objects.number("_totalram_pages", 8) or 0
    free = zone["NR_FREE_PAGES"]
    buffers = _buffers(objects)
    swap_cache = node.get("NR_SWAPCACHE", 0)
    slab_reclaimable = node.get("NR_SLAB_RECLAIMABLE_B", node.get("NR_SLAB_RECLAIMABLE", 0))
    slab_fixed = node.get("NR_SLAB_UNRECLAIMABLE_B", node.get("NR_SLAB_UNRECLAIMABLE", 0))
    pages = {
        "MemTotal": total,
        "MemFree": free,
        "MemAvailable": _available(objects, free, node, slab_reclaimable),
        "Buffers": buffers,
        "Cached": max(node["NR_FILE_PAGES"] - swap_cache - (buffers or 0), 0),
        "SwapCached": swap_cache,
        "Active": node["NR_ACTIVE_ANON"] + node["NR_ACTIVE_FILE"],
        "Inactive": node["NR_INACTIVE_ANON"] + node["NR_INACTIVE_FILE"],
        "Unevictable": node["NR_UNEVICTABLE"],
        "Mlocked": zone.get("NR_MLOCK"),
        "SwapTotal": objects.number("total_swap_pages", 8),
        "SwapFree": objects.number("nr_swap_pages", 8),
        "Dirty": node["NR_FILE_DIRTY"],
        "Writeback": node["NR_WRITEBACK"],
        "AnonPages": node["NR_ANON_MAPPED"],
        "Mapped": node["NR_FILE_MAPPED"],
        "Shmem": node["NR_SHMEM"],
        "Slab": slab_reclaimable + slab_fixed,
        "SReclaimable": slab_reclaimable,
        "SUnreclaim": slab_fixed,
        "PageTables": node.get("NR_PAGETABLE", zone.get("NR_PAGETABLE")),
        "VmallocUsed": node.get("NR_VMALLOC", objects.number("nr_vmalloc_pages", 8)),  # counted by node since 6.15
        "Percpu": (objects.number("pcpu_nr_populated", 8) or 0) * (objects.number("pcpu_nr_units") or 0),
    }
    found = {name: value * page for name, value in pages.items() if value is not None}
    stacks = node.get("NR_KERNEL_STACK_KB", zone.get("NR_KERNEL_STACK_KB"))
    if stacks is not None:
        found["KernelStack"] = stacks * 1024
    committed = objects.symbols.get("vm_committed_as")
    if committed is not None:
        found["Committed_AS"] = max(context.counter(objects.struct("percpu_counter", committed)), 0) * page
    return found | _huge_pages(objects)


def _counters(objects: Objects, kind: str) -> dict[str, int]:
    """Global counters by enumerator (vm_zone_stat, vm_node_stat), without CPUs' deltas, as /proc/meminfo has them."""
    place = objects.symbols.address(f"vm_{kind}_stat")
    names = objects.types.enum(f"{kind}_stat_item")
    found = {
        name: objects.signed(place + 8 * number, 8) for name, number in names.items() if not name.startswith("NR_VM_")
    }
    return {name: max(value, 0) for name, value in found.items()}


def _available(objects: Objects, free: int, node: dict[str, int], reclaimable: int) -> int | None:
    """si_mem_available() of mm/show_mem.c: the memory that is available without swapping."""
    reserve = objects.number("totalreserve_pages", 8)
    if reserve is None:
        return None
    low = sum(int(zone._watermark[1]) for zone in zones(objects))
    cache = node["NR_ACTIVE_FILE"] + node["NR_INACTIVE_FILE"]
    reclaimable += node.get("NR_KERNEL_MISC_RECLAIMABLE", 0)
    return max(free - reserve + cache - min(cache // 2, low) + reclaimable - min(reclaimable // 2, low), 0)


def _order(order: int) -> int:
    """An allocation order, checked; raises `KdumpError` for one that no machine has."""
    if order > _MAX_ORDER:
        raise KdumpError(f"an allocation order of {order} is damaged")
    return order


def _buffers(objects: Objects) -> int | None:
    """Pages of block devices' own page cache (nr_blockdev_pages()), None if that cannot be told."""
    place = objects.symbols.get("blockdev_superblock")
    if place is None:
        return None
    inodes = objects.struct("super_block", objects.unsigned(place)).s_inodes
    return sum(int(inode.i_data.nrpages) for inode in objects.list(inodes, "inode", "i_sb_list"))


def _huge_pages(objects: Objects) -> dict[str, int]:
    count = objects.number("hugetlb_max_hstate") or 0
    place = objects.symbols.get("hstates")
    found = {"Hugetlb": 0, "HugetlbFree": 0}
    if place is None:
        return {}
    size = objects.sizeof("hstate")
    for index in range(min(count, 16)):
        state = objects.struct("hstate", place + index * size)
        each = objects.kernel.vmcoreinfo.page_size << _order(int(state.order))
        found["Hugetlb"] += int(state.nr_huge_pages) * each
        found["HugetlbFree"] += int(state.free_huge_pages) * each
    return found


def zones(objects: Objects) -> list[Struct]:
    """Every zone that has memory, of all online nodes."""
    found = []
    for node in nodes(objects):
        found += [zone for zone in node.node_zones if int(zone.managed_pages.counter)]
    return found


def nodes(objects: Objects) -> list[Struct]:
    """struct pglist_data of every online node."""
    table = objects.symbols.get("node_data")
    if table is None:
        return [objects.variable("contig_page_data", "pglist_data")]
    size = objects.sizeof("nodemask_t")
    online = objects.symbols.address("node_states") + size * objects.types.enumerator("N_ONLINE")
    bits = int.from_bytes(objects.bytes(online, size), "little")
    return [
        objects.struct("pglist_data", objects.unsigned(table + 8 * number))
        for number in range(size * 8)
        if bits >> number & 1
    ]


def _zones(context: Context, section: Section, total: int) -> None:
    objects = context.objects
    page = context.kernel.vmcoreinfo.page_size
    free = objects.types.enumerator("NR_FREE_PAGES")
    rows: list[tuple[Value, ...]] = []
    for zone in zones(objects):
        name = clean(objects.string(zone.name))
        left = int(zone.vm_stat[free].counter)
        marks = [int(zone._watermark[index]) for index in range(3)]
        rows.append(
            (
                int(zone.node),
                name,
                int(zone.managed_pages.counter) * page,
                left * page,
                *(mark * page for mark in marks),
            )
        )
        if left < marks[0]:
            text = f"zone {name} of node {int(zone.node)} is below its minimum: {size_text(left * page)} free"
            section.findings.append(Finding("warning", text))
    columns = [
        Column("node", "Node"),
        Column("zone", "Zone"),
        Column("managed", "Managed", "bytes"),
        Column("free", "Free", "bytes"),
    ]
    columns += [Column(name, name.capitalize(), "bytes") for name in _WATERMARKS]
    section.blocks.append(Table("zones", "Zones", columns, rows))


def _users(context: Context, section: Section, total: int) -> None:
    sizes, tasks = context.resident_sizes, context.all_tasks
    users = int((sizes > 0).sum())
    top = sorted(((int(sizes[row]), tasks[row].pid, row) for row in largest(sizes, 2 * _TOP)), reverse=True)
    found = [(size, pid, clean(tasks[row].command)) for size, pid, row in top if size > 0]
    columns = [Column("rss", "Resident", "bytes"), Column("pid", "PID"), Column("command", "Command")]
    rows: list[tuple[Value, ...]] = list(found[:_TOP])
    section.blocks.append(Table("users", "Top users", columns, rows, max(0, users - _TOP)))
    for size, pid, name in found[:3]:
        if size > total * _MUCH:
            section.findings.append(
                Finding("warning", f"{name} (pid {pid}) holds {size_text(size)} of {size_text(total)}")
            )


def largest(values: NDArray[np.int64], count: int) -> list[int]:
    """Places of the `count` largest values, unordered."""
    if len(values) <= count:
        return list(range(len(values)))
    return [int(place) for place in np.argpartition(-values, count)[:count]]


def _slabs(context: Context, section: Section, total: int) -> None:
    objects = context.objects
    page = context.kernel.vmcoreinfo.page_size
    count = objects.number("nr_node_ids") or 1
    found = []
    for cache in objects.list(objects.variable("slab_caches"), "kmem_cache", "list"):
        slabs = items = 0
        for number in range(min(count, 1024)):
            node = cache.per_node[number].node if objects.has(cache, "per_node") else cache.node[number]  # since 7.2
            if node:
                slabs += int(node.nr_slabs.counter)
                items += int(node.total_objects.counter)
        order = _order(int(cache.oo.x) >> 16)
        found.append((slabs * (page << order), clean(objects.string(cache.name)), items, int(cache.object_size)))
    found.sort(reverse=True)
    columns = [
        Column("size", "Size", "bytes"),
        Column("cache", "Cache"),
        Column("objects", "Objects"),
        Column("each", "Each", "bytes"),
    ]
    rows: list[tuple[Value, ...]] = list(found[:_TOP])
    section.blocks.append(Table("slab", "Slab caches", columns, rows, max(0, len(found) - _TOP)))
    if found and found[0][0] > total / 4:
        section.findings.append(Finding("warning", f"slab cache {found[0][1]} holds {size_text(found[0][0])}"))


def _findings(section: Section, figures: dict[str, int], total: int) -> None:
    left = figures.get("MemAvailable", figures["MemFree"])
    if total and left < total * _LOW:
        section.findings.append(Finding("warning", f"only {size_text(left)} of {size_text(total)} were available"))
    for name, what in (
        ("SUnreclaim", "unreclaimable slab"),
        ("Shmem", "shared memory and tmpfs"),
        ("Hugetlb", "huge pages"),
    ):
        if total and figures.get(name, 0) > total * _MUCH:
            section.findings.append(Finding("warning", f"{what}: {size_text(figures[name])} of {size_text(total)}"))
