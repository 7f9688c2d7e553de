"""Page tables of four and five levels, huge pages, inverted entries, and tables that make no sense."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.memory.machine import PRESENT, Machine
from tests.memory.writers import PAGE

from kdump.errors import NotPresentError
from kdump.kernel.kernel import Kernel
from kdump.memory import open_dump
from kdump.memory.protocol import Memory, Range
from kdump.memory.virtual import Extent, VirtualMemory

BASE = 0xFFFF888000000000
PROT_NONE = 1 << 8
FREE = 0x700000  # a page that no test's tables reach


@pytest.fixture(params=[False, True], ids=["4-level", "5-level"])
def machine(request: pytest.FixtureRequest) -> Machine:
    return Machine(five_levels=request.param)


def virtual(machine: Machine, tmp_path: Path) -> VirtualMemory:
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf())
    return Kernel(open_dump(path)).virtual


def test_small_pages(machine: Machine, tmp_path: Path) -> None:
    text = bytes(range(256)) * 48
    machine.place(BASE + 0x123, text)
    memory = virtual(machine, tmp_path)
    assert memory.read(BASE + 0x123, len(text)) == text
    assert memory.read(BASE + 0x123 + 5000, 10) == text[5000:5010]
    assert len(list(memory.extents(BASE, 4 * PAGE))) == 4, "the pages are physically apart"
    with pytest.raises(NotPresentError, match="not mapped"):
        memory.view(BASE + 4 * PAGE, 1)
    with pytest.raises(NotPresentError, match=f"{BASE + 4 * PAGE:#x}: not mapped"):
        memory.view(BASE + 0x123, 4 * PAGE)


def test_huge_pages(machine: Machine, tmp_path: Path) -> None:
    machine.memory[0x400000:0x400010] = b"two MiB pages..."
    machine.map(BASE, 0, shift=30)
    machine.map(BASE + (1 << 30), 0x400000, shift=21, flags=PRESENT | 1 << 12)  # bit 12 of a huge entry is PAT
    machine.map(BASE + (1 << 30) + (1 << 21), 0x600000, shift=21)
    memory = virtual(machine, tmp_path)
    assert memory.read(BASE + 0x400000, 16) == b"two MiB pages..."
    assert memory.translate(BASE + (1 << 30) + 7) == 0x400007
    assert memory.read(BASE + (1 << 30), 16) == b"two MiB pages..."
    start = BASE + (1 << 30) - PAGE
    assert list(memory.extents(start, 4 << 20)) == [
        Extent(start, (1 << 30) - PAGE, PAGE), Extent(BASE + (1 << 30), 0x400000, (4 << 20) - PAGE),
    ]  # fmt: skip


def test_prot_none_entries_are_inverted(machine: Machine, tmp_path: Path) -> None:
    machine.memory[FREE : FREE + 4] = b"none"
    mask = (1 << 52) - PAGE
    machine.map(BASE, 0, flags=~FREE & mask | PROT_NONE)
    machine.map(BASE + PAGE, 0, flags=FREE)  # neither present nor PROT_NONE: a swap entry, say
    machine.map(BASE + (1 << 21), 0, shift=21, flags=~0x400000 & mask)  # a huge page being split: only PSE is left
    machine.memory[0x400000:0x400004] = b"spli"
    memory = virtual(machine, tmp_path)
    assert memory.read(BASE, 4) == b"none"
    assert memory.read(BASE + (1 << 21), 4) == b"spli"
    assert [extent.physical for extent in memory.extents(BASE, 4 << 20)] == [FREE, 0x400000]
    with pytest.raises(NotPresentError, match="virtual address"):
        memory.view(BASE + PAGE, 1)


def test_encrypted_memory_has_a_bit_that_is_no_address(machine: Machine, tmp_path: Path) -> None:
    machine.memory[FREE : FREE + 3] = b"sme"
    machine.map(BASE, FREE | 1 << 47)
    machine.sme_mask = 1 << 47
    assert virtual(machine, tmp_path).read(BASE, 3) == b"sme"


def test_extents_agree_with_translate(machine: Machine, tmp_path: Path) -> None:
    machine.place(BASE + 0x3F0000, bytes(300 * PAGE))
    machine.map(BASE + (3 << 21), 0x600000, shift=21)
    memory = virtual(machine, tmp_path)
    seen = {}
    for extent in memory.extents(BASE, 8 << 21):
        for offset in range(0, extent.size, PAGE):
            seen[extent.virtual + offset] = extent.physical + offset
    for page in range(BASE, BASE + (8 << 21), PAGE):
        if page in seen:
            assert memory.translate(page) == seen[page]
        else:
            with pytest.raises(NotPresentError, match="virtual address"):
                memory.translate(page)
    assert len(seen) == 300 + 512


@pytest.mark.parametrize("address", [0x0123456789ABCDEF, 1 << 63, (1 << 64) - 1, 1 << 64, -1, 0])
def test_addresses_that_cannot_be(machine: Machine, tmp_path: Path, address: int) -> None:
    memory = virtual(machine, tmp_path)
    with pytest.raises(NotPresentError, match="virtual address"):
        memory.view(address, 1)
    with pytest.raises(NotPresentError, match="virtual address"):
        memory.view(address, PAGE * 3)


def test_tables_that_point_at_themselves_or_nowhere(machine: Machine, tmp_path: Path) -> None:
    top = machine.shifts[0]
    for index in range(256, 512):
        machine.write(machine.root + 8 * index, (machine.root | PRESENT).to_bytes(8, "little"))
    for index in range(256):
        machine.write(machine.root + 8 * index, ((1 << 45) | PRESENT).to_bytes(8, "little"))
    memory = virtual(machine, tmp_path)
    high = (1 << 64) - (1 << top)
    assert memory.translate((1 << 64) - PAGE + 0x123) == machine.root + 0x123
    with pytest.raises(NotPresentError, match="page table"):
        memory.translate(high)
    with pytest.raises(NotPresentError, match="more than the machine's memory"):
        memory.view(high, 1 << 30)
    with pytest.raises(NotPresentError, match="virtual address"):
        memory.view(0x1000, 8)
    assert list(memory.extents(0, 1 << 40)) == []


def test_absent_page_names_both_addresses(tmp_path: Path) -> None:
    machine = Machine()
    machine.place(BASE, b"text")
    path = tmp_path / "vmcore"
    physical = Kernel(opened(path, machine.elf())).virtual.translate(BASE)
    kernel = Kernel(opened(path, machine.kdump(drop=frozenset({physical // PAGE}))))
    with pytest.raises(NotPresentError, match=f"virtual address {BASE:#x}.*physical {physical:#x}.*excluded"):
        kernel.virtual.view(BASE, 4)


def opened(path: Path, data: bytes):  # type: ignore[no-untyped-def]
    path.write_bytes(data)
    return open_dump(path)


def test_strings_and_numbers(machine: Machine, tmp_path: Path) -> None:
    machine.place(BASE + PAGE - 3, b"abcdef\0rest" + (1 << 40 | 5).to_bytes(8, "little"))
    memory = virtual(machine, tmp_path)
    assert memory.cstring(BASE + PAGE - 3) == b"abcdef"
    assert memory.cstring(BASE + PAGE - 3, limit=4) == b"abcd"
    assert memory.u64(BASE + PAGE + 8) == 1 << 40 | 5
    assert memory.u32(BASE + PAGE + 8) == 5
    with pytest.raises(NotPresentError, match="virtual address"):
        memory.cstring(BASE + 10 * PAGE)


class Zeros:
    """A terabyte of memory in which only the page tables hold anything."""

    page_size = PAGE
    ranges = (Range(0, 1 << 40),)

    def __init__(self, tables: Machine) -> None:
        self.tables = bytes(tables.memory)

    def view(self, address: int, size: int) -> memoryview:
        assert address + size <= len(self.tables), "only tables are read"
        return memoryview(self.tables)[address : address + size]


def test_a_terabytes_struct_pages_take_few_steps() -> None:
    machine = Machine(64 << 20)
    vmemmap = 0xFFFFEA0000000000
    for index in range((16 << 30) >> 21):
        machine.map(vmemmap + (index << 21), (1 << 36) + (index << 21), shift=21)
    from kdump.arch.x86_64.paging import paging

    memory: Memory = Zeros(machine)  # type: ignore[assignment]
    walker = VirtualMemory(memory, paging(machine.root, five_levels=False))
    assert list(walker.extents(vmemmap, 16 << 30)) == [Extent(vmemmap, 1 << 36, 16 << 30)]
