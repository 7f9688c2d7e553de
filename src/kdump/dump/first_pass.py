"""The first pass with its checks: where the memory map is, what a level keeps, whether the kernel's counters agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from kdump.arch import known
from kdump.dump.bulk import map_pages
from kdump.dump.classes import PageClass
from kdump.dump.extent import check_extent
from kdump.dump.facts import find_facts
from kdump.dump.hints import FindHints, find_hints, no_hints
from kdump.dump.levels import FREE, PAGE_CLASS_BITS
from kdump.dump.memmap import find_runs
from kdump.dump.pcp import free_pages_on_lists
from kdump.dump.selection import Also, MemoryMap, Selection, Watch, select
from kdump.dump.workers import thread_count
from kdump.dump.zones import contradiction, free_pages, with_nodes
from kdump.elf import NT_PRSTATUS
from kdump.errors import KdumpError
from kdump.kernel.kernel import Kernel
from kdump.memory.protocol import Dump
from kdump.units import size_text

Progress = Callable[[str, int, int], None]  # stage ("filter", "zeros" or "write"), bytes of memory done, bytes in all


def open_memory_map(dump: Dump, find: FindHints = find_hints, kernel: Kernel | None = None) -> MemoryMap:
    """The memory map for classification. Raises `KdumpError` if the kernel's struct pages cannot be found or
    understood."""
    kernel = kernel or Kernel(dump)
    info, virtual = with_nodes(kernel), kernel.virtual
    if info.page_size != dump.memory.page_size:
        raise KdumpError(
            f"the dump is in pages of {size_text(dump.memory.page_size)}, its kernel has pages of "
            f"{size_text(info.page_size)}"
        )
    facts = find_facts(info, lambda: kernel.types)
    runs = find_runs(info, virtual, facts.size)
    found = MemoryMap(facts, runs, virtual, own=map_pages(runs, facts.size, virtual))
    lists, slabs = find(kernel)
    listed = free_pages_on_lists(lists, info, virtual, runs, facts.size) if lists else found.listed
    return replace(found, listed=listed, slabs=slabs)


def first_pass(
    dump: Dump,
    level: int,
    progress: Progress | None = None,
    *,
    kernel: Kernel | None = None,
    also: Also | None = None,
    watch: Watch | None = None,
    stop: Callable[[], str] = lambda: "",
    threads: int | None = None,
    find: FindHints = find_hints,
) -> Selection:
    """The first pass alone: what a level would keep. A memory map that cannot be used keeps all, and says why.

    `kernel` is the dump's, if somebody has it open. `threads` None takes one for each CPU. Raises `StoppedError` once
    `stop` says something, and what `check_extent` raises.
    """
    check_extent(dump)
    _check_order(dump)
    kernel = kernel or Kernel(dump)
    memory_map: MemoryMap | None = None
    why = ""
    wanted = bool(level & PAGE_CLASS_BITS)
    # Poisoned and offline pages must not be read from live memory at any level; a compressed dump has them behind it.
    if wanted or not dump.format.endswith("kdump"):
        try:
            memory_map = open_memory_map(dump, find if level & FREE else no_hints, kernel)
        except KdumpError as error:
            why = f"{error.what}{f': {error.why}' if error.why else ''}" if wanted else ""
    size = dump.memory.page_size
    threads = thread_count(threads)
    if threads == 1:  # it would only take turns with this one
        threads = 0

    def tick(done: int, total: int) -> None:
        if progress:
            progress("filter", done * size, total * size)

    count = partial(free_pages, with_nodes(kernel), memory_map.virtual) if memory_map and level & FREE else None
    before = count() if count else None
    selection = select(dump.memory, memory_map, level, tick, watch=watch, threads=threads, stop=stop, also=also)
    if memory_map and count:
        counted = int(selection.by_class[PageClass.FREE]) - len(memory_map.listed)  # those are not counted as free
        after = count()
        # A running kernel took or freed pages meanwhile: the larger of both is what it may have had.
        most = max(before, after) if before and after else after
        doubt = contradiction(counted, most, _cpus(dump))
        if doubt:
            facts = replace(memory_map.facts, buddy_type=None, missing={**memory_map.facts.missing, "free": doubt})
            memory_map = replace(memory_map, facts=facts, listed=memory_map.listed[:0])
            selection = select(dump.memory, memory_map, level, tick, watch=watch, threads=threads, stop=stop, also=also)
    if why:
        selection.not_applied["all but zero pages"] = why
    return selection


def _check_order(dump: Dump) -> None:
    """Raises `KdumpError` for dumps of big-endian machines: neither struct pages nor a header in their order."""
    machine = dump.header.get("machine", "")
    for each in known():
        if machine in (each.name, each.elf_machine) and each.byte_order != "little":
            raise KdumpError(
                f"dumps of {each.name} are not filtered, and written in no format",
                why="its numbers are big-endian",
                remedy="`kdump info` and `kdump dmesg` read it, and `kdump report` its log",
            )


def _cpus(dump: Dump) -> int:
    return sum(note.type == NT_PRSTATUS for note in dump.notes)
