"""Who owns memory: all of it by class, what no class accounts for, and vmalloc() by caller; what stands out as a leak.

Sources: fs/proc/meminfo.c (the classes), mm/vmalloc.c (`vmap_area_root`, since 6.9 `vmap_nodes`),
include/linux/vmalloc.h, mm/page_owner.c.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from kdump.kernel.objects import Objects
from kdump.report.context import Context
from kdump.report.damage import DAMAGE
from kdump.report.logtext import clean
from kdump.report.model import Column, Finding, Section, Table, Value
from kdump.report.sections.memory import meminfo, zones
from kdump.units import size_text

TITLE = "Memory by owner"
NEEDS_DUMP = True
_TOP = 15
_VM_ALLOC = 0x2
_MAX_AREAS, _MAX_NODES = 1 << 22, 1 << 12
_MUCH = 0.25  # share of all memory that one caller, or nobody, should not have
_LEAST = 256 << 20  # below that nothing is called a leak


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    figures = meminfo(context)
    total = figures["MemTotal"]
    for part in (_classes, _vmalloc):
        try:
            part(context, section, figures, total)
        except DAMAGE as error:
            section.notes.append(f"{part.__name__.strip('_')}: {error}")
    section.notes.append(f"who allocated each page: {_page_owner(context.objects)}")


def _page_owner(objects: Objects) -> str:
    """Why the report has no page owner records: no kernel that tests can run on has them."""
    if objects.symbols.get("__set_page_owner") is None:
        return "this kernel was built without CONFIG_PAGE_OWNER"
    if not objects.number("page_owner_inited"):  # a static key: its count
        return "this kernel has CONFIG_PAGE_OWNER, but was booted without page_owner=on"
    return "this kernel kept a record (page_owner=on), which this report cannot read yet"


def _classes(context: Context, section: Section, figures: dict[str, int], total: int) -> None:
    objects = context.objects
    page = context.kernel.vmcoreinfo.page_size
    in_vmalloc = objects.symbols.get("cached_stacks") is not None  # CONFIG_VMAP_STACK
    classes = {
        "free": figures["MemFree"] + _free_on_cpus(objects) * page,
        "anonymous and tmpfs": figures["AnonPages"] + figures["Shmem"],
        "file cache": max(figures["Cached"] + figures.get("Buffers", 0) - figures["Shmem"], 0),
        "slab, reclaimable": figures["SReclaimable"],
        "slab, unreclaimable": figures["SUnreclaim"],
        "page tables": figures.get("PageTables", 0),
        "per-CPU": figures.get("Percpu", 0),
        "huge pages": figures.get("Hugetlb", 0),
    }
    if "VmallocUsed" in figures:
        classes["vmalloc" + (", with kernel stacks" if in_vmalloc else "")] = figures["VmallocUsed"]
    if not in_vmalloc:
        classes["kernel stacks"] = figures.get("KernelStack", 0)
    rest = max(total - sum(classes.values()), 0)
    classes["not accounted for"] = rest
    ordered = sorted(classes.items(), key=lambda item: -item[1])
    rows: list[tuple[Value, ...]] = [(name, size, round(100 * size / total, 1)) for name, size in ordered]
    columns = [Column("class", "Class"), Column("size", "Size", "bytes"), Column("share", "Share", "percent")]
    section.blocks.append(Table("classes", "By class", columns, rows))
    if rest > max(total * _MUCH, _LEAST):
        text = (
            f"{size_text(rest)} of {size_text(total)} belong to no class the kernel counts: drivers, or a leak of pages"
        )
        section.findings.append(Finding("warning", text))
    fixed = figures["SUnreclaim"]
    if fixed > max(total * _MUCH, _LEAST):
        text = f"unreclaimable slab has grown to {size_text(fixed)} of {size_text(total)}: see the largest slab caches"
        section.findings.append(Finding("warning", text))


def _free_on_cpus(objects: Objects) -> int:
    """Free pages that CPUs keep for themselves, which NR_FREE_PAGES leaves out."""
    member = "per_cpu_pageset" if objects.types.struct("zone").has("per_cpu_pageset") else "pageset"
    kind = objects.types.struct("per_cpu_pages" if member == "per_cpu_pageset" else "per_cpu_pageset")
    offset = kind.offset("count" if member == "per_cpu_pageset" else "pcp.count")
    return sum(
        objects.signed(objects.at_cpu(getattr(zone, member), cpu) + offset)
        for zone in zones(objects)
        for cpu in objects.cpus("online")
    )


def _vmalloc(context: Context, section: Section, figures: dict[str, int], total: int) -> None:
    objects = context.objects
    page = context.kernel.vmcoreinfo.page_size
    sizes: Counter[str] = Counter()
    areas: Counter[str] = Counter()
    for caller, pages, count in _callers(objects):
        symbol = context.kernel.symbolizer.at(caller)
        name = f"{caller:#x}"
        if symbol and symbol.name:
            name = clean(f"{symbol.name} [{symbol.module}]" if symbol.module else symbol.name)
        sizes[name] += pages * page
        areas[name] += count
    rows: list[tuple[Value, ...]] = []
    for name, size in sizes.most_common(_TOP):
        rows.append((size, areas[name], name))
        if size > max(total * _MUCH, _LEAST):
            section.findings.append(Finding("warning", f"{name}() holds {size_text(size)} from vmalloc()"))
    columns = [Column("size", "Size", "bytes"), Column("areas", "Areas"), Column("caller", "Caller")]
    section.blocks.append(Table("vmalloc", "vmalloc() by caller", columns, rows, max(0, len(sizes) - _TOP)))


def _callers(objects: Objects) -> Iterator[tuple[int, int, int]]:
    """(caller, pages, areas) of memory that vmalloc() allocated."""
    columns = objects.columns
    area, kind = objects.types.struct("vmap_area"), objects.types.struct("vm_struct")
    nodes = np.concatenate([columns.tree(root, _MAX_AREAS) for root in _roots(objects)])
    places = columns.pointers(nodes - np.uint64(area.offset("rb_node")), area.offset("vm"))
    table = columns.table(kind, places[places != 0], "flags", "caller", "nr_pages")
    given = table.ok & (table["flags"] & np.uint64(_VM_ALLOC) != 0)
    distinct, place, count = np.unique(table["caller"][given], return_inverse=True, return_counts=True)
    pages = np.zeros(len(distinct), np.int64)
    np.add.at(pages, place, table["nr_pages"][given])
    yield from zip(distinct.tolist(), pages.tolist(), count.tolist(), strict=True)


def _roots(objects: Objects) -> list[int]:
    """The roots of the trees of mapped areas: one, since 6.9 one for each of several nodes."""
    place = objects.symbols.get("vmap_area_root")
    if place is not None:
        return [objects.unsigned(place)]
    nodes = objects.unsigned(objects.symbols.address("vmap_nodes"))
    count = min(objects.number("nr_vmap_nodes") or 1, _MAX_NODES)
    kind = objects.types.struct("vmap_node")
    return [objects.unsigned(nodes + number * kind.size + kind.offset("busy.root")) for number in range(count)]
