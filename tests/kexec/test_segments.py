"""The segment method on a synthetic machine: nothing overlaps, nothing leaves the reservation, all is described."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kexec import kernels, synthetic

from kdump.elf import PT_LOAD, PT_NOTE
from kdump.errors import KdumpError
from kdump.kexec import boot_params, purgatory
from kdump.kexec.checksum import checksum
from kdump.kexec.formats import parse_kernel, unpacked
from kdump.kexec.load_plan import Plan
from kdump.kexec.memory_map import (
    E820_ACPI,
    E820_RAM,
    merge,
    parse_iomem,
    read_memory_map,
    subtract,
)
from kdump.kexec.placement import Space
from kdump.kexec.segments import plan_panic, plan_reboot
from kdump.kexec.wishes import Wishes
from kdump.memory.protocol import Range

HIGH = Range(0x170000000, 0x180000000)
LINE = "console=ttyS1 panic=7 x=1"
IMAGE = b"image" * 1001  # ends within a word


def panic(root: Path, data: bytes | None = None, **options: Any) -> Plan:
    kernel = parse_kernel(memoryview(bytearray(data or kernels.bzimage())))
    return plan_panic(kernel, memoryview(IMAGE), LINE, root=root, **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return synthetic.machine(tmp_path)


@pytest.mark.parametrize("data", [kernels.bzimage(), kernels.VMLINUX])
def test_segments_lie_apart_inside_the_high_reservation(root: Path, data: bytes) -> None:
    plan = panic(root, data)
    assert plan.space == (HIGH,)
    places = [placed.range for placed in plan.segments]
    assert all(HIGH.start <= place.start and place.end <= HIGH.end for place in places)
    assert all(place.start % 4096 == place.end % 4096 == 0 for place in places)
    assert all(one.end <= other.start for one, other in pairwise(places))
    assert len(places) <= 16


def by_name(plan: Plan, name: str) -> bytes:
    return bytes(next(placed.data for placed in plan.segments if placed.name == name))


def test_boot_parameters_say_where_everything_is(root: Path) -> None:
    plan = panic(root)
    block = by_name(plan, "boot parameters")
    base = next(placed.address for placed in plan.segments if placed.name == "boot parameters")
    low, high = (
        struct.unpack_from("<I", block, at)[0] for at in (boot_params.CMD_LINE_PTR, boot_params.EXT_CMD_LINE_PTR)
    )
    text = block[(low | high << 32) - base :].split(b"\0", 1)[0].decode()
    core = next(placed for placed in plan.segments if placed.name == "core headers")
    assert text == f"elfcorehdr={core.address:#x} {LINE}"
    image = next(placed for placed in plan.segments if placed.name == "image")
    at, size = struct.unpack_from("<II", block, boot_params.RAMDISK_IMAGE)
    (at_high,) = struct.unpack_from("<I", block, boot_params.EXT_RAMDISK_IMAGE)
    assert (at | at_high << 32, size) == (image.address, len(IMAGE))
    assert struct.unpack_from("<Q", block, boot_params.ACPI_RSDP)[0] == synthetic.RSDP
    assert block[0x202:0x206] == b"HdrS"


def test_an_unpacked_kernel_is_started_where_it_is_put(root: Path) -> None:
    packed = kernels.packed_bzimage(kernels.packed(kernels.VMLINUX, "lz4"))
    kernel = unpacked(parse_kernel(memoryview(bytearray(packed))))
    plan = plan_panic(kernel, memoryview(IMAGE), LINE, root=root)
    parts = [placed for placed in plan.segments if placed.name.startswith("kernel")]
    assert [(placed.name, placed.size) for placed in parts] == [("kernel, part 1", 0x3000), ("kernel, part 2", 0x1000)]
    one, two = parts
    assert two.address - one.address == 0x200000 and one.address % 0x200000 == 0
    entry = purgatory.HEAD.unpack_from(by_name(plan, "purgatory"), purgatory.HEAD_AT)[0]
    assert entry == one.address
    block = by_name(plan, "boot parameters")  # with the setup header of the bzImage
    assert block[0x1F1:0x210] == packed[0x1F1:0x210]


def test_the_capture_kernel_sees_only_its_own_memory(root: Path) -> None:
    plan = panic(root)
    keep = [placed.range for placed in plan.segments if placed.name in ("core headers", "backup of low memory")]
    ram = [entry.range for entry in plan.e820 if entry.type == E820_RAM]
    assert merge(ram) == subtract([Range(0x1000, 0x9F000), Range(0x30000000, 0x40000000), HIGH], keep)
    assert Range(0x7FFE0000, 0x80000000) in [entry.range for entry in plan.e820 if entry.type == E820_ACPI]


def test_core_headers_cover_all_ram_but_the_reservation(root: Path) -> None:
    plan = panic(root)
    loads = [header for header in plan.core_headers if header.type == PT_LOAD]
    text, low, *rest = loads
    assert (text.virtual, text.physical, text.size) == (synthetic.TEXT, 0x50000000, 0x2000000)
    backup = next(placed for placed in plan.segments if placed.name == "backup of low memory")
    assert (low.physical, low.size, low.offset) == (0x1000, 0x9EC00, backup.address)
    assert [Range(header.physical, header.physical + header.size) for header in rest] == [
        Range(0x100000, 0x30000000),
        Range(0x40000000, 0x7FFE0000),
        Range(0x100000000, 0x170000000),
    ]
    assert all(header.virtual == synthetic.DIRECT + header.physical for header in [low, *rest])
    notes = [header for header in plan.core_headers if header.type == PT_NOTE]
    assert [(note.offset, note.size) for note in notes] == [
        (0x123400000, 368),
        (0x123400400, 368),
        (0x123450000, 0x1024),
    ]


def test_purgatory_checks_every_segment_but_itself(root: Path) -> None:
    plan = panic(root)
    code = by_name(plan, "purgatory")
    fields = purgatory.HEAD.unpack_from(code, purgatory.HEAD_AT)
    assert fields[5] == 0x2F8 and fields[7] == 7_000_000  # ttyS1, seven seconds
    regions = [
        purgatory.REGION.unpack_from(code, purgatory.REGIONS_AT + index * purgatory.REGION.size)
        for index in range(fields[8])
    ]
    checked = {placed.address: placed for placed in plan.segments if placed.checked}
    assert {region[0] for region in regions} == set(checked)
    for address, size, number in regions:
        data = bytes(checked[address].data)
        # Of the words that purgatory reads: the data, and the zeros that the kernel puts behind it.
        assert number == checksum(data.ljust(size, b"\0")) and 0 <= size - len(data) < 8 and size % 8 == 0
    assert any(len(placed.data) % 8 for placed in checked.values()), "no segment tries the zeros"
    own = next(placed for placed in plan.segments if placed.name == "purgatory")
    assert not own.checked and (own.size, len(own.data) <= 4096) == (purgatory.SIZE, True)


def test_nothing_is_checked_if_that_is_wished(root: Path) -> None:
    plan = panic(root, wishes=Wishes(check=False))
    assert purgatory.HEAD.unpack_from(by_name(plan, "purgatory"), purgatory.HEAD_AT)[8] == 0


def test_headers_that_the_kernel_rewrites_have_room_and_no_checksum(root: Path) -> None:
    plan = panic(root, elfcorehdr_size=917616)
    core = next(placed for placed in plan.segments if placed.name == "core headers")
    assert core.size >= 917616 and not core.checked


def test_a_reboot_takes_ram_below_4_gib_and_tells_the_whole_map(root: Path) -> None:
    kernel = parse_kernel(memoryview(bytearray(kernels.bzimage())))
    plan = plan_reboot(kernel, memoryview(IMAGE), "x", root=root)
    assert plan.core_headers == () and len(plan.e820) == len(synthetic.FIRMWARE)
    assert all(placed.range.end <= 1 << 32 for placed in plan.segments)
    bounded = plan_reboot(kernel, None, "x", wishes=Wishes(low=0x60000000, check=False), root=root)
    assert all(placed.address >= 0x60000000 for placed in bounded.segments)


@pytest.mark.parametrize(
    ("iomem", "named"),
    [
        ("00000000-00000000 : System RAM\n00000000-00000000 : Crash kernel\n", "hides"),
        ("00100000-7ffdffff : System RAM\n", "no memory is reserved"),
        ("00100000-7ffdffff : System RAM\n  30000000-30000fff : Crash kernel\n", "no room"),
    ],
)
def test_machines_that_cannot(tmp_path: Path, iomem: str, named: str) -> None:
    synthetic.machine(tmp_path, iomem=iomem)
    with pytest.raises(KdumpError, match=named):
        panic(tmp_path)


def test_without_kcore_virtual_addresses_are_left_out(root: Path) -> None:
    (root / "proc/kcore").unlink()
    loads = [header for header in panic(root).core_headers if header.type == PT_LOAD]
    assert len(loads) == 4 and all(header.virtual == 0 for header in loads)


def test_notes_that_are_hidden(root: Path) -> None:
    (root / "sys/kernel/vmcoreinfo").unlink()
    with pytest.raises(KdumpError, match="vmcoreinfo"):
        panic(root)


def test_more_entries_than_boot_params_hold(root: Path) -> None:
    for number in range(10, 200):
        path = root / f"sys/firmware/memmap/{number}"
        path.mkdir()
        base = 0x200000000 + number * 0x10000
        for name, value in (("start", hex(base)), ("end", hex(base + 0xFFF)), ("type", "Reserved")):
            (path / name).write_text(value)
    block = by_name(panic(root), "boot parameters")
    assert block[boot_params.E820_ENTRIES] == 128
    assert struct.unpack_from("<Q", block, boot_params.SETUP_DATA)[0]


def test_efi_state_goes_along(root: Path) -> None:
    efi = root / "sys/firmware/efi"
    entry = efi / "runtime-map/0"
    entry.mkdir(parents=True)
    names = ("type", "phys_addr", "virt_addr", "num_pages", "attribute")
    for name, value in zip(names, (5, 0x7FFE0000, 0xFFFFFFFEF0000000, 4, 1 << 63), strict=True):
        (entry / name).write_text(f"{value:#x}\n")
    (efi / "fw_vendor").write_text("0x7ffe1000\n")
    (efi / "config_table").write_text("0x7ffe2000\n")
    (efi / "systab").write_text("ACPI20=0x7ffe3000\nSMBIOS=0x7ffe4000\n")
    params = bytearray(4096)
    fields = (b"EL64", 0x7FFE5000, 48, 1, 0, 0, 0, 0)
    boot_params.EFI_INFO_FIELDS.pack_into(params, boot_params.EFI_INFO, *fields)
    (root / "sys/kernel/boot_params/data").write_bytes(params)
    platform = boot_params.read_platform(root)
    assert platform.acpi_rsdp == 0x7FFE3000
    assert platform.efi is not None and platform.efi.smbios == 0x7FFE4000
    plan = panic(root)
    block = by_name(plan, "boot parameters")
    base = next(placed.address for placed in plan.segments if placed.name == "boot parameters")
    info = boot_params.EFI_INFO_FIELDS.unpack_from(block, boot_params.EFI_INFO)
    at = (info[4] | info[7] << 32) - base
    assert block[at : at + info[5]] == boot_params.EFI_MEMDESC.pack(5, 0, 0x7FFE0000, 0xFFFFFFFEF0000000, 4, 1 << 63)


@settings(max_examples=200)
@given(st.text(alphabet="0123456789abcdef-: \nSystemRAM", max_size=400))
def test_iomem_is_parsed_whatever_it_says(text: str) -> None:
    for region in parse_iomem(text):
        assert region.range.size > 0


RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda t: Range(t[0], t[0] + t[1])), max_size=6)


@given(RANGES, RANGES)
def test_range_arithmetic_is_that_of_sets(some: list[Range], holes: list[Range]) -> None:
    def members(parts: object) -> set[int]:
        assert isinstance(parts, (list, tuple))
        return {number for part in parts for number in range(part.start, part.end)}

    left = subtract(some, holes)
    assert members(left) == members(some) - members(holes)
    assert all(one.end < other.start for one, other in pairwise(merge(some)))


@given(st.lists(st.tuples(st.integers(1, 1 << 16), st.sampled_from([4096, 1 << 16]), st.booleans()), max_size=12))
def test_space_hands_nothing_out_twice(wanted: list[tuple[int, int, bool]]) -> None:
    space = Space([Range(0x1000, 0x40000), Range(0x80000, 0x90000)])
    taken: list[Range] = []
    for size, align, top_down in wanted:
        try:
            at = space.take("piece", size, align=align, top_down=top_down)
        except KdumpError:
            continue
        assert at % align == 0
        taken.append(Range(at, at + -(-size // 4096) * 4096))
    assert sum(part.size for part in taken) == sum(part.size for part in merge(taken))
    assert not subtract(taken, space.total)


def test_the_map_is_read_whole(root: Path) -> None:
    found = read_memory_map(root)
    assert [part.start for part in found.ram] == [0x1000, 0x100000, 0x100000000]
    assert found.reservation[-1] == HIGH and len(found.firmware) == len(synthetic.FIRMWARE)
    assert found.kernel_code == Range(0x50000000, 0x51800000)
