"""Free pages on the CPUs' lists: found as they were linked, and left alone where a list makes no sense."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.dump.machine import DIRECT, STRUCT, VMEMMAP, Block, PageMachine

from kdump.dump.classes import PageClass
from kdump.dump.first_pass import first_pass
from kdump.dump.hints import Hints
from kdump.dump.pcp import ListFacts
from kdump.memory import open_dump
from kdump.memory.protocol import Dump

FIRST = 1024  # pages below hold page tables and the memory map
LRU, REFCOUNT = 8, 52  # in the machine's struct page
NODE_ZONES, NR_ZONES, SPANNED, POINTER = 0, 128, 8, 16
LISTS_AT, NUMBER, TYPES = 24, 14, 3
STRIDE = 512  # bytes between the CPUs' copies


class ListMachine(PageMachine):
    """One node, one zone with pages and one without, two CPUs with empty lists."""

    def __init__(self) -> None:
        super().__init__("6.12")
        self.lists = self.allocate()
        node = self.allocate()
        for each in (self.lists, node):
            self.map(DIRECT + each, each)
        self.write(node + SPANNED, struct.pack("<QQ", self.pages, DIRECT + self.lists))  # zone 1 of 2 spans no page
        self.write(node + NR_ZONES, struct.pack("<I", 2))
        self.extra += [
            f"SYMBOL(contig_page_data)={DIRECT + node:x}", f"OFFSET(pglist_data.node_zones)={NODE_ZONES}",
            f"OFFSET(pglist_data.nr_zones)={NR_ZONES}", "SIZE(zone)=64", f"OFFSET(zone.spanned_pages)={SPANNED}",
            f"OFFSET(page.lru)={LRU}", f"OFFSET(page._refcount)={REFCOUNT}",
        ]  # fmt: skip
        self.facts = ListFacts(POINTER, LISTS_AT, NUMBER, TYPES, (0, STRIDE))
        for cpu in range(2):
            for index in range(NUMBER):
                self.link(cpu, index, [])

    def head(self, cpu: int, index: int) -> int:
        """Physical address of a list's head."""
        return self.lists + cpu * STRIDE + LISTS_AT + 16 * index

    def node(self, pfn: int) -> int:
        """Physical address of a page's links."""
        return self.map_at + pfn * STRUCT + LRU

    def link(self, cpu: int, index: int, pfns: Sequence[int]) -> None:
        """Put these pages, which nobody uses, on a list."""
        places = [self.head(cpu, index), *map(self.node, pfns)]
        names = [DIRECT + places[0], *(VMEMMAP + pfn * STRUCT + LRU for pfn in pfns)]
        for number, place in enumerate(places):
            following, before = names[(number + 1) % len(names)], names[number - 1]
            self.write(place, struct.pack("<QQ", following, before))
        for pfn in pfns:
            self.write(self.map_at + pfn * STRUCT + REFCOUNT, bytes(4))

    def dump(self, directory: Path) -> Dump:
        """The machine as an opened ELF core."""
        path = directory / "vmcore"
        path.write_bytes(self.elf())
        return open_dump(path)

    def free(self, directory: Path) -> list[int]:
        """The pfns that level 31 drops as free."""
        found: list[int] = []

        def watch(first: int, classes: np.ndarray[tuple[int], np.dtype[np.uint8]], _held: object) -> None:
            found.extend((np.flatnonzero(classes == PageClass.FREE) + first).tolist())

        with self.dump(directory) as dump:
            selection = first_pass(dump, 31, watch=watch, find=lambda _kernel: Hints(self.facts))
            kept = np.concatenate(list(selection.kept.pfns()))
            assert not np.isin(found, kept).any()
            assert selection.by_class[PageClass.FREE] == len(found)
        return found


@settings(max_examples=25)
@given(
    order=st.permutations(range(64)),
    cuts=st.lists(st.integers(0, 64), min_size=3, max_size=3).map(sorted),
)
def test_all_lists_of_all_cpus(order: list[int], cuts: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    machine = ListMachine()
    pfns = [FIRST + number for number in order]
    for cpu, index, start, end in ((0, 0, 0, cuts[0]), (0, 2, cuts[0], cuts[1]), (1, 1, cuts[1], cuts[2])):
        machine.link(cpu, index, pfns[start:end])
    assert machine.free(tmp_path_factory.mktemp("dump")) == sorted(pfns[: cuts[2]])


def test_a_list_of_an_order_holds_blocks(tmp_path: Path) -> None:
    machine = ListMachine()
    machine.link(0, 3 * TYPES + 1, [FIRST + 8, FIRST + 64])  # order 3
    machine.link(1, 4 * TYPES, [2048])  # huge pages
    expected = {*range(FIRST + 8, FIRST + 16), *range(FIRST + 64, FIRST + 72), *range(2048, 2560)}
    assert machine.free(tmp_path) == sorted(expected)


def test_what_is_used_after_all_is_kept(tmp_path: Path) -> None:
    """A page whose struct page says otherwise is what that says, list or not."""
    machine = ListMachine()
    machine.use([Block(FIRST + 1, 0, "slab"), Block(FIRST + 4, 2, "free")])
    machine.link(0, 0, [FIRST, FIRST + 2])
    machine.link(0, TYPES, [FIRST + 16])  # order 1
    machine.use([Block(FIRST + 17, 0, "anon")])
    assert machine.free(tmp_path) == [FIRST, FIRST + 2, *range(FIRST + 4, FIRST + 8), FIRST + 16]


@pytest.mark.parametrize(
    ("damage", "kept_from"),
    [
        (lambda m, pfn: m.write(m.node(pfn) + 8, struct.pack("<Q", 0xDEAD000000000122)), 2),  # prev is poison
        (lambda m, pfn: m.write(m.node(pfn), struct.pack("<Q", VMEMMAP + FIRST * STRUCT + LRU)), 3),  # a circle
        (lambda m, pfn: m.write(m.node(pfn), struct.pack("<Q", 0)), 3),
        (lambda m, pfn: m.write(m.node(pfn), struct.pack("<Q", VMEMMAP - STRUCT + LRU)), 3),  # before the memory map
        (lambda m, pfn: m.write(m.node(pfn), struct.pack("<Q", VMEMMAP + (1 << 40) + LRU)), 3),  # behind it
        (lambda m, pfn: m.write(m.node(pfn), struct.pack("<Q", m.facts.bases[1] + DIRECT + m.lists)), 3),  # no page
        (lambda m, pfn: m.write(m.map_at + pfn * STRUCT + REFCOUNT, struct.pack("<I", 1)), 2),  # somebody uses it
    ],
)
def test_a_list_is_followed_to_where_it_breaks(damage: object, kept_from: int, tmp_path: Path) -> None:
    machine = ListMachine()
    pfns = [FIRST + number for number in range(0, 12, 2)]
    machine.link(0, 0, pfns)
    machine.link(1, 0, [FIRST + 101])
    assert callable(damage)
    damage(machine, pfns[2])
    assert machine.free(tmp_path) == [*pfns[:kept_from], FIRST + 101]


def test_levels_that_keep_free_pages_keep_these(tmp_path: Path) -> None:
    machine = ListMachine()
    machine.link(0, 0, [FIRST])
    with machine.dump(tmp_path) as dump:
        kept = np.concatenate(list(first_pass(dump, 15, find=lambda _kernel: Hints(machine.facts)).kept.pfns()))
        assert FIRST in kept
        kept = np.concatenate(list(first_pass(dump, 16, find=lambda _kernel: Hints(machine.facts)).kept.pfns()))
        assert FIRST not in kept and FIRST + 1 in kept


@pytest.mark.parametrize("missing", ["page.lru", "page._refcount", "pglist_data.nr_zones", "contig_page_data"])
def test_without_what_vmcoreinfo_should_tell_they_are_kept(missing: str, tmp_path: Path) -> None:
    machine = ListMachine()
    machine.link(0, 0, [FIRST])
    machine.extra = [line for line in machine.extra if f"({missing})" not in line]
    assert machine.free(tmp_path) == []


def test_unreadable_lists_of_one_cpu_do_not_hide_those_of_another(tmp_path: Path) -> None:
    machine = ListMachine()
    machine.link(1, 0, [FIRST])
    machine.facts = machine.facts._replace(bases=(1 << 45, STRIDE))
    assert machine.free(tmp_path) == [FIRST]


def test_a_kernel_without_types_has_no_lists(tmp_path: Path) -> None:
    machine = ListMachine()
    machine.link(0, 0, [FIRST])
    with machine.dump(tmp_path) as dump:
        assert first_pass(dump, 31).by_class[PageClass.FREE] == 0


@pytest.mark.parametrize("lie", ["lru)=-1", f"lru)={-1 << 63}", "lru)=1000", "_refcount)=61", f"_refcount)={1 << 62}"])
def test_offsets_that_cannot_be_keep_these_pages(lie: str, tmp_path: Path) -> None:
    machine = ListMachine()
    machine.use([Block(FIRST + 4, 2, "free")])
    machine.link(0, 0, [FIRST])
    member = lie.partition("=")[0]
    machine.extra = [line for line in machine.extra if f"page.{member}" not in line]
    machine.extra.append(f"OFFSET(page.{lie}")
    assert machine.free(tmp_path) == list(range(FIRST + 4, FIRST + 8))
