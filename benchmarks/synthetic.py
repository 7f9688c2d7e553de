"""A sparse synthetic ELF vmcore of any size with real struct page arrays for its beginning, to see how cost grows.

Built from a real vmcore: its struct pages are repeated over the first part of the synthetic memory; page tables map a
vmemmap over them. The rest of the memory has no section, as memory that was never there, and is kept.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdump.dump.first_pass import open_memory_map
from kdump.dump.selection import select
from kdump.dump.workers import thread_count
from kdump.elf import EHDR, EM_X86_64, ET_CORE, IDENT, PHDR, PT_LOAD, PT_NOTE
from kdump.memory import open_dump

PAGE, STRUCT = 4096, 64
VMEMMAP = 0xFFFFEA0000000000
DIRECT = 0xFFFF888000000000
SECTION_BITS = 27
PER_SECTION = 1 << SECTION_BITS - 12
HUGE = 1 << 21  # struct pages of one section fill one huge page exactly
PRESENT = 0x63
LOW = 16 << 20  # what holds page tables and the section table


@dataclass(frozen=True)
class Cost:
    """Filtering alone: bytes of RAM and of struct pages looked at, seconds, private memory after it."""

    memory: int
    struct_bytes: int
    seconds: float
    private: int


def write(path: Path, source: Path, memory: int, covered: int) -> None:
    """A vmcore of `memory` bytes whose first `covered` bytes have struct pages.

    The file is sparse: `memory` bytes long by its size, `covered`/64 of them real.
    """
    sections = covered >> SECTION_BITS
    with open_dump(source) as dump:
        memory_map = open_memory_map(dump)
        run = memory_map.runs[0]
        real = bytes(memory_map.virtual.view(run.virtual, min(run.pages, PER_SECTION * 8) * STRUCT))
        text = dump.vmcoreinfo.rstrip(b"\0").decode()
    data_at = 1 << 16
    allocated = PAGE
    low = bytearray(LOW)

    def allocate() -> int:
        nonlocal allocated
        allocated += PAGE
        return allocated - PAGE

    root = allocate()

    def map_huge(virtual: int, physical: int) -> None:
        table = root
        for shift in (39, 30):
            at = table + 8 * (virtual >> shift & 511)
            (entry,) = struct.unpack_from("<Q", low, at)
            if not entry:
                entry = allocate() | PRESENT
                struct.pack_into("<Q", low, at, entry)
            table = entry & ~0xFFF
        struct.pack_into("<Q", low, table + 8 * (virtual >> 21 & 511), physical | PRESENT | 0x80)

    for start in range(0, LOW, HUGE):
        map_huge(DIRECT + start, start)
    map_huge(0xFFFFFFFF80000000, 0)
    first_map = 1 << 30  # the memory map lies at 1 GiB
    for section in range(sections):
        map_huge(VMEMMAP + section * HUGE, first_map + section * HUGE)
    roots = allocate()
    for number in range(-(-sections // 256)):
        table = allocate()
        struct.pack_into("<Q", low, roots + 8 * number, DIRECT + table)
        for section in range(number * 256, min(sections, number * 256 + 256)):
            struct.pack_into("<QQ", low, table + 16 * (section % 256), VMEMMAP | 0xF, 0)
    info = _vmcoreinfo(text, roots=DIRECT + roots, count=-(-sections // 256), root=0xFFFFFFFF80000000 + root)
    note = struct.pack("<III", 11, len(info), 0) + b"VMCOREINFO\0\0" + info
    headers = PHDR.pack(PT_NOTE, 0, 4096, 0, 0, len(note), len(note), 0)
    headers += PHDR.pack(PT_LOAD, 7, data_at, DIRECT, 0, memory, memory, 0)
    head = EHDR.pack(IDENT, ET_CORE, EM_X86_64, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    with path.open("wb") as file:
        file.truncate(data_at + memory)
        os.pwrite(file.fileno(), head + headers, 0)
        os.pwrite(file.fileno(), note, 4096)
        os.pwrite(file.fileno(), low, data_at)
        for section in range(sections):
            start = section * HUGE % len(real)
            piece = real[start : start + HUGE].ljust(HUGE, b"\0")
            moved = _tails_moved(piece, section, run.virtual, start)
            os.pwrite(file.fileno(), moved, data_at + first_map + section * HUGE)


def _tails_moved(piece: bytes, section: int, old_base: int, start: int) -> bytes:
    """The struct pages with their tails' head pointers moved to where they are now."""
    words = np.frombuffer(piece, "<u8").reshape(-1, STRUCT // 8).copy()
    tails = (words[:, 1] & 1) != 0
    words[tails, 1] += np.uint64((VMEMMAP + section * HUGE - old_base - start) & (1 << 64) - 1)
    return words.tobytes()


def _vmcoreinfo(text: str, *, roots: int, count: int, root: int) -> bytes:
    replaced = {
        "SYMBOL(mem_section)": f"{roots:x}", "LENGTH(mem_section)": str(max(count, 1)),
        "SYMBOL(init_top_pgt)": f"{root:x}", "SYMBOL(swapper_pg_dir)": f"{root:x}", "NUMBER(phys_base)": "0",
        "NUMBER(pgtable_l5_enabled)": "0", "NUMBER(sme_mask)": "0",
    }  # fmt: skip
    dropped = ("SYMBOL(node_data)", "SYMBOL(init_uts_ns)", "BUILD-ID")
    lines = []
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key not in dropped:
            lines.append(f"{key}={replaced.get(key, value)}")
    return ("\n".join(lines) + "\n").encode()


def filter_cost(path: Path) -> Cost:
    """Classify the whole dump at level 31 in this process."""
    with open_dump(path) as dump:
        memory_map = open_memory_map(dump)
        struct_bytes = sum(run.pages for run in memory_map.runs) * memory_map.facts.size
        began = time.perf_counter()
        selection = select(dump.memory, memory_map, 31, lambda _done, _total: None, threads=thread_count(None))
        seconds = time.perf_counter() - began
        private = next(
            int(line.split()[1]) << 10
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("RssAnon:")
        )
        return Cost(selection.present.count * PAGE, struct_bytes, seconds, private)
