"""pte, vm -p, kmem -S, mach: entries of page tables, where a task's pages are, objects of slabs, the machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from drgn import FaultError, Object, cast
from drgn.commands import CommandError, argument
from drgn.commands._crash.common import print_task_header
from drgn.helpers.common.format import CellFormat, escape_ascii_string, print_table
from drgn.helpers.linux.mm import PageSlab, for_each_page, for_each_vma, page_to_virt, vma_name
from drgn.helpers.linux.slab import find_slab_cache, for_each_slab_cache, slab_cache_for_each_allocated_object
from drgn.helpers.linux.swap import swap_file_path

from kdump.bench.commands.base import Session, add, extend
from kdump.kernel.processes import address_space
from kdump.memory.virtual import VirtualMemory

if TYPE_CHECKING:
    import argparse

    from kdump.arch.architecture import PageEntry


@add("pte", "what an entry of a page table says", argument("entry", nargs="+", type="hexadecimal", help="its value"))
def _pte(session: Session, args: argparse.Namespace) -> None:
    for number, value in enumerate(args.entry):
        if number:
            print()
        _one_entry(session, session.kernel.arch.page_entry(value & (1 << 64) - 1))


def _one_entry(session: Session, entry: PageEntry) -> None:
    value = f"{entry.value:x}"
    if entry.present:
        where = f"{entry.physical:x}"
        rows: list[tuple[Any, ...]] = [(CellFormat("PTE", "^"), CellFormat("PHYSICAL", "^"), "FLAGS"),
                                       (value, where, f"({'|'.join(entry.flags)})")]  # fmt: skip
    elif entry.swap is None:
        rows = [(CellFormat("PTE", "^"),), (f"{value}  (not mapped)",)]
    else:
        kind, offset = entry.swap
        rows = [(CellFormat("PTE", "^"), CellFormat("SWAP", "^"), "OFFSET"), (value, _swap(session, kind), offset)]
    print_table(rows)


def _swap(session: Session, kind: int) -> str:
    """The file or device of a swap entry's type; kinds beyond those that are in use are the kernel's own marks."""
    areas = session.program["swap_info"]
    if kind < len(areas) and areas[kind]:
        return escape_ascii_string(swap_file_path(areas[kind].read_()))
    return f"(type {kind}: no swap area)"


@extend("vm", argument("-p", dest="pages", action="store_true", help="where each page of each area is"), each=True)
def _vm(session: Session, args: argparse.Namespace, theirs: Callable[[], Any]) -> Any:
    if not args.pages:
        return theirs()
    args.pages = False
    chosen = session.tasks(args.tasks)
    for number, task in enumerate(chosen):
        if number:
            print()
        _task_pages(session, task)
    return None


def _task_pages(session: Session, task: Object) -> None:
    print_task_header(task)
    mm = task.mm.read_()
    if not mm:
        print("(no user space)")
        return
    user = address_space(session.kernel, mm.pgd.value_())
    page = session.kernel.vmcoreinfo.page_size
    for area in for_each_vma(mm):
        start, end, name = area.vm_start.value_(), area.vm_end.value_(), vma_name(area)
        if not 0 <= start < end <= 1 << 63:
            raise CommandError(f"struct vm_area_struct {area.value_():x} is damaged: {start:x} to {end:x}")
        shown = escape_ascii_string(name, escape_backslash=True)
        header = (CellFormat("VMA", "^"), CellFormat("START", "^"), CellFormat("END", "^"), "FLAGS", "FILE")
        print_table([header, (CellFormat(area.value_(), "x"), CellFormat(start, "x"), CellFormat(end, "x"),
                              CellFormat(area.vm_flags.value_(), "<x"), shown)])  # fmt: skip
        print(f"{'VIRTUAL':<16}  PHYSICAL")
        for first in range(start, end, page << 16):
            addresses = np.arange(first, min(first + (page << 16), end), page, dtype=np.int64).astype(np.uint64)
            frames = user.frames(addresses // np.uint64(page))
            for address, frame in zip(addresses.tolist(), frames.tolist(), strict=True):
                where = f"{frame * page:x}" if frame >= 0 else _absent(session, user, area, address, shown)
                print(f"{address:<16x}  {where}")


def _absent(session: Session, user: VirtualMemory, area: Object, address: int, name: str) -> str:
    value = user.last_entry(address)
    entry = session.kernel.arch.page_entry(value) if value else None
    if entry is not None and entry.swap is not None:
        return f"SWAP: {_swap(session, entry.swap[0])}  OFFSET: {entry.swap[1]}"
    if area.vm_file:
        offset = address - area.vm_start.value_() + area.vm_pgoff.value_() * session.kernel.vmcoreinfo.page_size
        return f"FILE: {name}  OFFSET: {offset:x}"
    return "(not mapped)"


@extend(
    "kmem",
    argument(
        "-S", dest="mode", action="store_const", const="objects", help="slabs of the named caches, and their objects"
    ),
    exclusive=True,
)
def _kmem(session: Session, args: argparse.Namespace, theirs: Callable[[], Any]) -> Any:
    if args.mode != "objects":
        return theirs()
    program = session.program
    if args.name:
        caches = []
        for name in args.name:
            cache = find_slab_cache(program, name)
            if not cache:
                raise CommandError(f"{name}: no such slab cache (`kmem -s` lists them)")
            caches.append(cache)
    else:
        caches = list(for_each_slab_cache(program))
    _slabs(session, caches)
    return None


def _slabs(session: Session, caches: list[Object]) -> None:
    program = session.program
    slabs: dict[int, list[tuple[Object, Object]]] = {cache.value_(): [] for cache in caches}
    kind = program.type("struct slab *" if session.kernel.types.has_struct("slab") else "struct page *")
    for page in for_each_page(program):
        try:
            if not PageSlab(page):
                continue
            slab = cast(kind, page)
            found = slabs.get(slab.slab_cache.value_())
        except FaultError:  # a struct page that the dump has not
            continue
        if found is not None:
            found.append((page, slab))
    for cache in caches:
        size = cache.size.value_()
        name = escape_ascii_string(cache.name.string_())
        print(f"CACHE {cache.value_():x}  OBJSIZE {cache.object_size.value_()}  NAME {name}")
        allocated = {each.value_() for each in slab_cache_for_each_allocated_object(cache, "void")}
        shift = cache.red_left_pad.value_() if hasattr(cache, "red_left_pad") else 0
        for page, slab in slabs[cache.value_()]:
            memory, count = page_to_virt(page).value_(), slab.objects.value_()
            used = sum(memory + shift + number * size in allocated for number in range(count))
            print(f"  SLAB {slab.value_():x}  MEMORY {memory:x}  TOTAL {count}  ALLOCATED {used}  FREE {count - used}")
            print("    FREE / [ALLOCATED]")
            for number in range(count):
                address = memory + shift + number * size
                print(f"   [{address:x}]" if address in allocated else f"    {address:x}")


@add("mach", "what the machine is")
def _mach(session: Session, _: argparse.Namespace) -> None:
    kernel = session.kernel
    objects = kernel.objects
    rows: list[tuple[str, str]] = [
        ("MACHINE TYPE", kernel.arch.name),
        ("MEMORY SIZE", f"{sum(each.size for each in kernel.memory.ranges) / (1 << 20):.1f} MB"),
        ("CPUS", str(len(objects.cpus("online")))),
        ("PAGE SIZE", str(kernel.vmcoreinfo.page_size)),
        ("KERNEL VIRTUAL BASE", f"{kernel.arch.direct_map(kernel) & (1 << 64) - 1:x}"),
        ("KERNEL TEXT", f"{kernel.symbols.address('_stext'):x} to {kernel.symbols.address('_etext'):x}"),
    ]
    with suppress(LookupError):
        rows.append(("KERNEL STACK SIZE", str(session.program["THREAD_SIZE"].value_())))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:>{width}}: {value}")
