"""The target of an address, without debug information: code, data, a task's stack, an object of a slab cache, a page.

Sources: mm/slab.h and mm/slub.c (struct slab, kmem_cache, free lists, whose links CONFIG_SLAB_FREELIST_HARDENED mixes
with `kmem_cache.random` and the link's own address; per-CPU sheaves since 6.18), include/linux/mm.h (virt_to_page).
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from kdump.errors import KdumpError
from kdump.kernel.locks import KERNEL, Stacks
from kdump.kernel.objects import Objects, Struct
from kdump.report.context import Context
from kdump.report.damage import DAMAGE
from kdump.report.logtext import clean

_MASK = (1 << 64) - 1
_MAX_OBJECTS, _MAX_SHEAF = 1 << 16, 1 << 12


class Target(NamedTuple):
    """The target of a pointer: `words` for people; `free` if it is a free object of a slab cache."""

    words: str
    free: bool = False


class Pointers:
    """Finds what addresses of one kernel point to."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._objects: Objects = context.objects
        self._known: dict[int, Target | None] = {}

    def at(self, address: int) -> Target | None:
        """The target of an address; None if it is not known."""
        if address < KERNEL or address > _MASK - 4096:
            return None
        if address not in self._known:
            try:
                self._known[address] = self._find(address)
            except DAMAGE:
                self._known[address] = None
        return self._known[address]

    def _find(self, address: int) -> Target | None:
        symbol = self._context.kernel.symbolizer.at(address)
        if symbol is not None and symbol.name:
            offset = address - symbol.address
            where = f" of module {clean(symbol.module)}" if symbol.module else ""
            return Target(clean(symbol.name) + (f"+{offset:#x}" if offset else "") + where)
        owner = self._stack_of(address)
        if owner:
            return Target(f"the stack of {owner}")
        return self._in_slab(address)

    @cached_property
    def _stacks(self) -> Stacks:
        return Stacks(self._objects, self._context.tasks.all.columns["stack"].tolist())

    def _stack_of(self, address: int) -> str:
        if not self._stacks.holds(address):
            return ""
        table = self._context.tasks.all
        rows = np.flatnonzero(table.columns["stack"].astype(np.uint64) == np.uint64(address & -self._stacks.size))
        task = table.tasks[int(rows[0])]
        return f"{clean(task.command)} (pid {task.pid})"

    # Slabs

    @cached_property
    def _map(self) -> tuple[int, int, int, int | None, int | None]:
        """Start of the direct mapping, of struct pages, a struct page's size, and how a slab's pages are marked."""
        from kdump.dump.facts import find_facts
        from kdump.dump.memmap import find_runs

        kernel = self._context.kernel
        direct = kernel.arch.direct_map(kernel)
        facts = find_facts(kernel.vmcoreinfo, lambda: kernel.types)
        starts = {
            run.virtual - run.first_pfn * facts.size for run in find_runs(kernel.vmcoreinfo, kernel.virtual, facts.size)
        }
        if len(starts) != 1:
            raise KdumpError("struct pages are not in one array")
        pages = starts.pop()
        return direct, pages, facts.size, facts.slab_bit, facts.slab_type

    def _in_slab(self, address: int) -> Target | None:
        objects = self._objects
        direct, pages, size, bit, kind = self._map
        page_size = self._context.kernel.vmcoreinfo.page_size
        physical = address - direct & _MASK
        if not self._is_memory(physical):
            return None
        page = pages + physical // page_size * size
        head = self._head(page)
        if not self._is_slab(head, bit, kind):
            return None
        slab = objects.struct("slab", head)
        cache = slab.slab_cache
        step, count = int(cache.size), int(slab.objects)
        base = direct + (head - pages) // size * page_size & _MASK
        number, inside = divmod(address - base, step)
        if not 0 < step <= 1 << 22 or not 0 <= number < count:
            return None
        start = base + number * step
        name = clean(objects.string(cache.name))
        free = start in self._free(objects.struct("kmem_cache", cache), slab, base, step, count)
        inner = f" + {inside:#x}" if inside else ""
        return Target(f"{'a free' if free else 'an'} object of {name}{inner}", free)

    def _is_memory(self, physical: int) -> bool:
        return any(each.start <= physical < each.end for each in self._context.kernel.memory.ranges)

    def _head(self, page: int) -> int:
        objects = self._objects
        layout = objects.types.struct("page")
        member = layout.first("compound_head", "compound_info")
        link = objects.unsigned(page + member.offset) if member is not None else 0
        if not link & 1:
            return page
        if layout.has("compound_head"):
            return link - 1
        # Since 7.1 a tail may hold a mask of the address instead of the head's own.
        masked = page & link & ~1
        return link - 1 if link >> 63 and self._map[1] <= link - 1 <= page else masked

    def _is_slab(self, page: int, bit: int | None, kind: int | None) -> bool:
        objects = self._objects
        layout = objects.types.struct("page")
        if kind is not None and layout.has("page_type"):
            value = objects.unsigned(page + layout.offset("page_type"), 4)
            return value >> 24 == kind >> 24
        return bit is not None and bool(objects.unsigned(page + layout.offset("flags")) & bit)

    def _free(self, cache: Struct, slab: Struct, base: int, step: int, count: int) -> set[int]:
        """Free objects of a slab: on its own list, on those of CPUs, and since 6.18 in their sheaves."""
        found = set(self._chain(cache, int(slab.freelist), base, step, count))
        for cpu in self._objects.cpus("possible"):
            if self._objects.has(cache, "cpu_slab") and cache.cpu_slab:
                own = self._objects.struct("kmem_cache_cpu", self._objects.at_cpu(cache.cpu_slab, cpu))
                if self._objects.has(own, "freelist"):
                    found.update(self._chain(cache, int(own.freelist), base, step, count))
            if self._objects.has(cache, "cpu_sheaves") and cache.cpu_sheaves:
                sheaves = self._objects.struct("slub_percpu_sheaves", self._objects.at_cpu(cache.cpu_sheaves, cpu))
                for name in ("main", "spare", "rcu_free"):
                    found.update(self._sheaf(getattr(sheaves, name)))
        return found

    def _sheaf(self, sheaf: object) -> list[int]:
        if not sheaf:
            return []
        objects = self._objects
        held = objects.struct("slab_sheaf", int(sheaf))  # type: ignore[call-overload]
        count = min(int(held.size), _MAX_SHEAF)
        raw = objects.bytes(objects.address(held.objects), 8 * count) if count else b""
        found: list[int] = np.frombuffer(raw, "<u8").tolist()
        return found

    def _chain(self, cache: Struct, first: int, base: int, step: int, count: int) -> list[int]:
        """A free list's objects; a list that leads out of the slab belongs to another one, or is damaged."""
        objects = self._objects
        offset = int(cache.offset)
        secret = int(cache.random) if objects.has(cache, "random") else None
        found: list[int] = []
        node = first
        while node and len(found) < min(count, _MAX_OBJECTS):
            if not base <= node < base + step * count or (node - base) % step:
                return found
            found.append(node)
            try:
                node = objects.unsigned(node + offset)
            except KdumpError:
                return found
            if secret is not None:
                place = found[-1] + offset
                node ^= secret ^ int.from_bytes(place.to_bytes(8, "little"), "big")
        return found


def describe(context: Context, registers: dict[str, int]) -> dict[str, Target]:
    """The targets of a crash's registers by name; registers that point to nothing known are left out."""
    pointers = Pointers(context)
    found = {name: pointers.at(value) for name, value in registers.items() if name not in ("rip", "rsp", "pc", "sp")}
    return {name: target for name, target in found.items() if target is not None}
