"""What goes last of what level 31 keeps: the memory map and reclaimable slabs, wherever a dump is cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.dump.machine import LAYOUTS, PAGE, STRUCT, Block, PageMachine

from kdump.dump.bulk import SlabFacts
from kdump.dump.classes import PageClass
from kdump.dump.first_pass import first_pass
from kdump.dump.hints import Hints, from_json, to_json
from kdump.dump.pcp import ListFacts
from kdump.memory import open_dump

CACHE_AT = 24  # in the machine's struct page of a slab
DENTRIES, INODES, TASKS = (0xFFFF_8880_0040_0000 + 0x100 * number for number in range(3))
FACTS = SlabFacts(CACHE_AT, (DENTRIES, INODES))


class SlabMachine(PageMachine):
    """Two slabs that are reclaimable, one that is not, page cache whose mapping looks like a cache of slabs."""

    def __init__(self, series: str) -> None:
        super().__init__(series)
        slabs = {DENTRIES: Block(1024, 0, "slab"), INODES: Block(1032, 3, "slab"), TASKS: Block(1040, 2, "slab")}
        self.use([*slabs.values(), Block(2048, 4, "cache")])
        for cache, block in slabs.items():
            self.write(self.map_at + block.pfn * STRUCT + CACHE_AT, cache.to_bytes(8, "little"))
        self.write(self.map_at + 3000 * STRUCT + CACHE_AT, DENTRIES.to_bytes(8, "little"))  # no slab at all
        self.reclaimable = [1024, *range(1032, 1040)]
        self.own = list(range(self.map_at // PAGE, (self.map_at + self.pages * STRUCT) // PAGE))
        self.cache = list(range(2048, 2064))

    def core(self, directory: Path) -> Path:
        """The machine as an ELF core."""
        path = directory / "vmcore"
        path.write_bytes(self.elf())
        return path


@pytest.mark.parametrize("series", LAYOUTS)
@pytest.mark.parametrize("level", [31, 63, 1, 0])
def test_the_memory_map_and_reclaimable_slabs_go_last_of_level_31(series: str, level: int, tmp_path: Path) -> None:
    """At other levels all that level 31 keeps goes first."""
    machine = SlabMachine(series)
    with open_dump(machine.core(tmp_path)) as dump:
        found = first_pass(dump, level, find=lambda _kernel: Hints(slabs=FACTS))
        assert found.first
        kept, first = (np.concatenate(list(each.pfns())).tolist() for each in (found.kept, found.first))
    others = {*machine.reclaimable, *machine.own} if level >= 31 else set(machine.cache)
    assert set(kept) - set(first) == others
    assert set(first) < set(kept)
    if level == 31:
        assert found.by_class[PageClass.RECLAIMABLE_SLAB] == len(machine.reclaimable)
        assert found.by_class[PageClass.MEMORY_MAP] == len(machine.own)


@pytest.mark.parametrize("facts", [None, SlabFacts(CACHE_AT, (1, TASKS + 1)), SlabFacts(CACHE_AT, (1 << 63,))])
def test_slabs_of_other_caches_are_not_told_apart(facts: SlabFacts | None, tmp_path: Path) -> None:
    with open_dump(SlabMachine("6.12").core(tmp_path)) as dump:
        assert first_pass(dump, 31, find=lambda _kernel: Hints(slabs=facts)).by_class[PageClass.RECLAIMABLE_SLAB] == 0


def test_a_kernel_without_types_tells_no_slabs_but_its_memory_map(tmp_path: Path) -> None:
    machine = SlabMachine("6.1")
    with open_dump(machine.core(tmp_path)) as dump:
        found = first_pass(dump, 31)
    assert found.by_class[PageClass.RECLAIMABLE_SLAB] == 0
    assert found.by_class[PageClass.MEMORY_MAP] == len(machine.own)


@pytest.mark.parametrize(
    "hints",
    [Hints(), Hints(lists=ListFacts(104, 24, 14, 3, (0xFF1B_0000_0000_0000, 5))), Hints(slabs=FACTS)],
)
def test_hints_travel_as_json(hints: Hints) -> None:
    assert from_json(to_json(hints).encode()) == hints
