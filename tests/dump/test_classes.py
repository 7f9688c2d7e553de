"""Page classes: against expectations by construction, in the layouts of kernels before and after 6.10."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.dump.machine import DIRECT, KINDS, LAYOUTS, MAX_ORDER, SECTION_BITS, STRUCT, VMEMMAP, Block, PageMachine

from kdump.dump import levels
from kdump.dump.classes import NAMES, Classifier, PageClass, dropped
from kdump.dump.facts import find_facts
from kdump.dump.first_pass import first_pass, open_memory_map
from kdump.dump.memmap import find_runs
from kdump.dump.selection import select
from kdump.kernel import vmcoreinfo
from kdump.kernel.kernel import Kernel
from kdump.memory import open_dump

FIRST = 1024  # pages below hold page tables and the memory map


PLACED = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(KINDS)), max_size=100)


def lay_out(uses: list[tuple[int, str]], pages: int = 4096) -> list[Block]:
    """The uses one after the other, each aligned to its order as the buddy allocator would, until memory is full."""
    blocks, at = [], FIRST
    for order, wanted in uses:
        order = 0 if wanted in ("swapcache", "offline") else order
        kind = "kernel" if wanted == "hugetlb" and not order else wanted
        at = -(-at >> order) << order
        if at + (1 << order) > pages:
            break
        blocks.append(Block(at, order, kind))
        at += 1 << order
    return blocks


def classify(machine: PageMachine, batch: int) -> tuple[list[str], Classifier]:
    """The classes, in batches of `batch` pages."""
    classifier = Classifier(find_facts(vmcoreinfo.parse(machine.vmcoreinfo)))
    raw = memoryview(machine.memory)[machine.map_at : machine.map_at + machine.pages * STRUCT]
    found: list[int] = []
    for first in range(0, machine.pages, batch):
        part = raw[first * STRUCT : (first + batch) * STRUCT]
        found += classifier.classify(part, first, VMEMMAP + first * STRUCT).tolist()
    return [PageClass(kind).name for kind in found], classifier


@pytest.mark.parametrize("series", LAYOUTS)
@given(uses=PLACED, batch=st.sampled_from((64, 512, 4096)))
@settings(max_examples=40)
def test_every_layout_is_classified_as_it_was_built(series: str, uses: list[tuple[int, str]], batch: int) -> None:
    machine = PageMachine(series)
    expected = machine.use(lay_out(uses))
    found, classifier = classify(machine, batch)
    assert found == expected
    assert classifier.doubts.bad_orders == classifier.doubts.lost_tails == 0


def test_poison_is_found_inside_other_pages() -> None:
    machine = PageMachine("6.12")
    machine.use([Block(1024, 9, "anon"), Block(2048, 9, "hugetlb"), Block(3072, 3, "free")])
    for pfn in (1030, 2048, 3074):
        machine.poison(pfn)
    found, _ = classify(machine, 512)
    assert found[1024:1033] == ["USER"] * 6 + ["HWPOISON"] + ["USER"] * 2
    # The head of a hugetlb page is marked for any of its pages: all are dangerous to read.
    assert found[2048:2560] == ["HWPOISON"] * 512
    assert found[3072:3080] == ["FREE"] * 2 + ["HWPOISON"] + ["FREE"] * 5


def test_unaccepted_memory_is_free_in_the_largest_order() -> None:
    machine = PageMachine("6.12")
    expected = machine.use([Block(2048, MAX_ORDER, "unaccepted")])
    assert classify(machine, 512)[0] == expected


def test_impossible_free_blocks_and_lost_tails_are_kept_and_counted() -> None:
    machine = PageMachine("6.1")
    machine._page(2048, mapcount=machine.layout.buddy, private=63)
    machine._page(2049, mapcount=machine.layout.buddy, private=3)  # not aligned to its order
    machine._page(2060, word1=VMEMMAP + 2050 * STRUCT + 1)  # its head is no head
    found, classifier = classify(machine, 4096)
    assert found[2048:2064] == ["KERNEL"] * 16
    assert (classifier.doubts.bad_orders, classifier.doubts.lost_tails) == (2, 1)


def test_a_mask_in_place_of_the_head_pointer_is_understood() -> None:
    """compound_info since Linux 7.1: the tail's own address under the mask is its head."""
    machine = PageMachine("6.12")
    expected = machine.use([Block(2048, 4, "anon")])
    for pfn in range(2049, 2064):
        machine._page(pfn, word1=(1 << 64) - (STRUCT << 4) | 1)
    assert classify(machine, 512)[0] == expected


LEVEL_TABLE = [
    (0, set()),
    (levels.ZERO, set()),
    (levels.CACHE, {"CACHE"}),
    (levels.CACHE_PRIVATE, {"CACHE", "CACHE_PRIVATE"}),
    (levels.USER, {"USER", "HUGETLB"}),
    (levels.FREE, {"FREE"}),
    (31, {"CACHE", "CACHE_PRIVATE", "USER", "HUGETLB", "FREE"}),
]


@pytest.mark.parametrize(("level", "classes"), LEVEL_TABLE)
def test_levels_drop_what_makedumpfile_says(level: int, classes: set[str]) -> None:
    found = {kind.name for kind, drop in zip(PageClass, dropped(level), strict=True) if drop}
    assert found == classes | {"HWPOISON", "OFFLINE"}


def test_facts_name_what_is_missing() -> None:
    machine = PageMachine("6.12")
    text = machine.vmcoreinfo
    facts = find_facts(vmcoreinfo.parse(text))
    assert not facts.missing
    without = b"\n".join(line for line in text.splitlines() if b"SLAB" not in line and b"BUDDY" not in line)
    poorer = find_facts(vmcoreinfo.parse(without))
    assert set(poorer.missing) == {"free", "user"}


def test_what_cannot_be_told_is_kept_and_reported(tmp_path: Path) -> None:
    machine = PageMachine("6.12")
    machine.use([Block(1024, 9, "free"), Block(2048, 9, "cache"), Block(3072, 5, "anon")])
    machine.extra = [line for line in machine.extra if "BUDDY" not in line]
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf())
    with open_dump(path) as dump:
        found = first_pass(dump, 31)
    assert "free" in found.not_applied
    assert "BUDDY" in found.not_applied["free"] or "free pages" in found.not_applied["free"]
    assert found.dropped_by_class == {NAMES[PageClass.CACHE]: 512, NAMES[PageClass.USER]: 32}


def test_a_broken_memory_map_keeps_everything(tmp_path: Path) -> None:
    machine = PageMachine("6.12")
    machine.use([Block(1024, 9, "free")])
    machine.extra = [line for line in machine.extra if "mem_section" not in line]
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf())
    with open_dump(path) as dump:
        found = first_pass(dump, 31)
    assert found.kept.count == machine.pages
    assert "mem_section" in next(iter(found.not_applied.values()))


def test_unmapped_struct_pages_are_kept_and_counted(tmp_path: Path) -> None:
    machine = PageMachine("6.12")
    machine.use([Block(1024, 9, "free"), Block(2048, 9, "free")])
    at = machine.entry(VMEMMAP + 2048 * STRUCT, 12)
    machine.write(at, bytes(8))  # one page of struct pages: 64 pfns
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf())
    with open_dump(path) as dump:
        found = first_pass(dump, 31)
    assert found.by_class[PageClass.UNMAPPED] == 64
    assert any("could not be read" in sentence for sentence in found.doubts)


def test_struct_pages_of_no_ram_are_told(tmp_path: Path) -> None:
    """As with a page size that is not the kernel's: every struct page is of a pfn that no RAM has."""
    machine = PageMachine("6.12")
    machine.use([Block(1024, 9, "free")])
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf())
    with open_dump(path) as dump:
        memory_map = open_memory_map(dump)
        for first in (1 << 20, machine.pages - 64):
            runs = [memory_map.runs[0]._replace(first_pfn=first)]
            found = select(dump.memory, replace(memory_map, runs=runs), 31, lambda *_: None)
            assert found.kept.count >= machine.pages - 64
            assert ("all but zero pages" in found.not_applied) == (first > machine.pages)
            assert any("pages of RAM have no struct page" in doubt for doubt in found.doubts)
        assert not any("no struct page" in doubt for doubt in first_pass(dump, 31).doubts)


def test_parse_levels() -> None:
    from kdump.errors import UsageError

    assert levels.parse_levels("1,17,31") == (1, 17, 31)
    for wrong in ("32,1", "64", "-1", "x", "", "17,17"):
        with pytest.raises(UsageError, match="level"):
            levels.parse_levels(wrong)


def zone_counters(machine: PageMachine, free: int) -> None:
    """One node with one zone that says it has `free` free pages."""
    node = machine.allocate()
    machine.map(DIRECT + node, node)
    machine.write(node, struct.pack("<QIIQ", DIRECT + node, 1, 0, machine.pages))  # the table of nodes, nr_zones, …
    machine.write(node + 512 + 64, struct.pack("<Q", free))
    machine.extra += [
        f"SYMBOL(node_data)={DIRECT + node:x}", "LENGTH(node_data)=1", "SIZE(zone)=1024", "NUMBER(NR_FREE_PAGES)=0",
        "OFFSET(pglist_data.node_zones)=512", "OFFSET(pglist_data.nr_zones)=8", "OFFSET(zone.vm_stat)=64",
        "OFFSET(zone.spanned_pages)=128",
    ]  # fmt: skip
    machine.write(node + 512 + 128, struct.pack("<Q", machine.pages))


@pytest.mark.parametrize(("free", "believed"), [(512, True), (400, True), (100, False), (100000, True)])
def test_free_pages_are_held_against_the_kernels_own_count(free: int, believed: bool, tmp_path: Path) -> None:
    machine = PageMachine("6.12")
    machine.use([Block(1024, 9, "free"), Block(2048, 9, "cache")])
    zone_counters(machine, free)
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf())
    with open_dump(path) as dump:
        found = first_pass(dump, 31)
    assert found.dropped_by_class.get("free", 0) == (512 if believed else 0)
    assert found.dropped_by_class["cache"] == 512
    assert ("free" in found.not_applied) != believed


@pytest.mark.parametrize(
    ("before", "after", "believed"), [(600, 100, True), (100, 600, True), (100, 150, False), (512, 512, True)]
)
def test_a_running_kernel_changes_its_count_while_pages_are_read(
    before: int, after: int, believed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = PageMachine("6.12")
    machine.use([Block(1024, 9, "free")])
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf())
    counts = iter([(before, 1), (after, 1)])
    monkeypatch.setattr("kdump.dump.first_pass.free_pages", lambda *_: next(counts))
    with open_dump(path) as dump:
        found = first_pass(dump, 31)
    assert ("free" in found.not_applied) != believed
    assert found.dropped_by_class.get("free", 0) == (512 if believed else 0)


@pytest.mark.parametrize("series", LAYOUTS)
def test_our_own_level_drops_page_cache_that_is_on_no_list(series: str, tmp_path: Path) -> None:
    machine = PageMachine(series)
    machine.use([Block(1024, 4, "slab"), Block(2048, 4, "cache"), Block(2064, 0, "kernel")])
    machine._page(2064, mapping=0xFFFF888000123450)  # a file's page, isolated
    machine._page(2065, mapping=0xFFFF888000123452)  # a movable kernel page
    table = -513 if series == "6.1" else -234881024  # the page type of page tables
    machine._page(2066, mapping=0xFFFF888000123450, mapcount=table)
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf())
    with open_dump(path) as dump:
        assert first_pass(dump, 63).dropped_by_class == {"cache": 16, "cache off lru": 1}
        assert first_pass(dump, 31).dropped_by_class == {"cache": 16}


def test_poisoned_pages_are_left_out_at_every_level(tmp_path: Path) -> None:
    machine = PageMachine("6.12")
    machine.use([Block(1024, 9, "free")])
    machine.poison(3000)
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf())
    with open_dump(path) as dump:
        for level in (0, 1, 31):
            found = first_pass(dump, level)
            assert found.dropped_by_class["hwpoison"] == 1
            assert found.dropped_by_class.get("free", 0) == (512 if level == 31 else 0)
            assert not found.not_applied


LIES = (-1, 62, 1000, -1 << 63, (1 << 64) - 1)
TOLD = [(series, number) for series in LAYOUTS for number in range(len(PageMachine(series).extra))]


@pytest.mark.parametrize(("series", "number"), TOLD)
def test_every_page_is_accounted_for_whatever_vmcoreinfo_says(series: str, number: int, tmp_path: Path) -> None:
    machine = PageMachine(series)
    machine.use([Block(1024, 9, "free"), Block(2048, 9, "cache"), Block(3072, 5, "anon")])
    told = machine.extra[number].partition("=")[0]
    for lie in LIES:
        machine.extra[number] = f"{told}={lie & (1 << 64) - 1:x}" if told.startswith("SYMBOL") else f"{told}={lie}"
        (tmp_path / "vmcore").write_bytes(machine.elf())
        with open_dump(tmp_path / "vmcore") as dump:
            found = first_pass(dump, 63)
        assert found.present.count == machine.pages
        assert found.kept.count + sum(found.dropped_by_class.values()) == machine.pages


def test_where_struct_pages_are_follows_from_the_size_that_was_believed(tmp_path: Path) -> None:
    machine = PageMachine("6.12")
    (tmp_path / "vmcore").write_bytes(machine.elf())
    with open_dump(tmp_path / "vmcore") as dump:
        kernel = Kernel(dump)
        expected = find_runs(kernel.vmcoreinfo, kernel.virtual, STRUCT)
        lie = replace(kernel.vmcoreinfo, sizes={**kernel.vmcoreinfo.sizes, "page": -1})
        assert find_runs(lie, kernel.virtual, STRUCT) == expected == [(0, 1 << SECTION_BITS - 12, VMEMMAP)]
