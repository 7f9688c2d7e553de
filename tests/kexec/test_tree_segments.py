"""Loading with a device tree, on synthetic machines: segments, device tree, core headers, purgatory's parameters."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.kexec import kernels, synthetic

from kdump.elf import EM_AARCH64, EM_RISCV, PT_LOAD, PT_NOTE
from kdump.errors import FormatError, KdumpError
from kdump.kexec import elfcore, purgatory
from kdump.kexec.checksum import checksum
from kdump.kexec.devicetree import DeviceTree, Node, parse
from kdump.kexec.formats import KernelImage, parse_kernel
from kdump.kexec.load_plan import Plan
from kdump.kexec.memory_map import read_memory_map
from kdump.kexec.purgatory import REGION, aarch64, riscv64
from kdump.kexec.segments import plan_panic, plan_reboot
from kdump.kexec.sources import check_kernel
from kdump.memory.protocol import Range

IOMEM = """\
09000000-09000fff : pl011@9000000
40000000-bfffffff : System RAM
  40210000-4181ffff : Kernel code
  41820000-41e4ffff : reserved
  41e50000-422cffff : Kernel data
  a0000000-afffffff : Crash kernel
c0000000-c000ffff : reserved
100000000-17fffffff : System RAM
  150000000-15fffffff : Crash kernel
"""
DIRECT, TEXT = 0xFFF0000000000000, 0xFFFF800080000000
HIGH, LOW = Range(0x150000000, 0x160000000), Range(0xA0000000, 0xB0000000)
LINE = "console=ttyAMA0 panic=7 nokaslr"
IMAGE = b"image" * 1001


def tree() -> DeviceTree:
    wide = (2).to_bytes(4, "big")
    chosen = {"stdout-path": b"serial0:115200\0", "bootargs": b"old\0", "kaslr-seed": bytes(8), "linux,uefi-x": b"kept"}
    return DeviceTree(
        Node(
            "",
            {"#address-cells": wide, "#size-cells": wide},
            [
                Node("aliases", {"serial0": b"/pl011@9000000\0"}),
                Node("psci", {"method": b"hvc\0"}),
                Node("pl011@9000000", {"compatible": b"arm,pl011\0x\0", "reg": struct.pack(">QQ", 0x9000000, 0x1000)}),
                Node("chosen", chosen),
            ],
        )
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    synthetic.machine(tmp_path, iomem=IOMEM)
    synthetic.write(tmp_path, proc__sys__kernel__arch="aarch64\n")
    (tmp_path / "sys/firmware/fdt").write_bytes(tree().pack())
    headers = [
        elfcore.Header(PT_LOAD, 7, 0, TEXT + 0x200000, 0x40200000, 0x2100000),
        elfcore.Header(PT_LOAD, 7, 0, DIRECT, 0x40000000, 0x80000000),
        elfcore.Header(PT_LOAD, 7, 0, 0xFFFFFDFFC0000000, (1 << 64) - 1, 0x1000),
    ]
    (tmp_path / "proc/kcore").write_bytes(elfcore.pack(headers, EM_AARCH64))
    return tmp_path


def panic(root: Path, **options: Any) -> Plan:
    kernel = parse_kernel(memoryview(bytearray(kernels.flat_image())))
    return plan_panic(kernel, memoryview(IMAGE), LINE, root=root, **options)


def data(plan: Plan, name: str) -> bytes:
    return bytes(next(placed.data for placed in plan.segments if placed.name == name))


def place(plan: Plan, name: str) -> Range:
    return next(placed.range for placed in plan.segments if placed.name == name)


def test_segments_lie_apart_in_whole_pages_of_any_size(root: Path) -> None:
    plan = panic(root)
    places = [placed.range for placed in plan.segments]
    assert all(HIGH.start <= each.start and each.end <= HIGH.end for each in places)
    assert all(each.start % 0x10000 == each.end % 0x10000 == 0 for each in places)
    assert all(one.end <= other.start for one, other in pairwise(places))
    assert place(plan, "kernel").start % (2 << 20) == 0
    assert plan.entry == place(plan, "purgatory").start


def test_the_tree_is_the_machines_own_but_for_what_the_kernel_is_told(root: Path) -> None:
    plan = panic(root)
    told = parse(data(plan, "device tree"))
    chosen = told.chosen().properties
    image, core = place(plan, "image").start, place(plan, "core headers")
    assert chosen["bootargs"] == LINE.encode() + b"\0"
    assert int.from_bytes(chosen["linux,initrd-start"], "big") == image
    assert int.from_bytes(chosen["linux,initrd-end"], "big") == image + len(IMAGE)
    assert struct.unpack(">QQ", chosen["linux,elfcorehdr"]) == (core.start, core.size)
    assert struct.unpack(">4Q", chosen["linux,usable-memory-range"]) == (HIGH.start, HIGH.size, LOW.start, LOW.size)
    assert "kaslr-seed" not in chosen  # nokaslr
    assert len(set(chosen["rng-seed"])) > 1 and chosen["linux,uefi-x"] == b"kept"
    ours, theirs = tree(), told
    ours.root.children.pop()
    theirs.root.children.pop()
    assert ours.root == theirs.root


def test_core_headers_cover_ram_notes_and_text(root: Path) -> None:
    plan = panic(root)
    packed = data(plan, "core headers")
    assert struct.unpack_from("<H", packed, 18)[0] == EM_AARCH64
    loads = [header for header in plan.core_headers if header.type == PT_LOAD]
    assert (loads[0].virtual, loads[0].physical) == (TEXT + 0x200000, 0x40200000)
    assert [(each.physical, each.physical + each.size) for each in loads[1:]] == [
        (0x40000000, LOW.start), (LOW.end, 0xC0000000), (0x100000000, HIGH.start), (HIGH.end, 0x180000000),
    ]  # fmt: skip
    assert all((each.virtual - each.physical) % (1 << 64) == DIRECT - 0x40000000 for each in loads[1:])
    assert sum(header.type == PT_NOTE for header in plan.core_headers) == 3


def test_a_kernel_that_does_not_show_its_text_has_the_direct_map_alone(root: Path) -> None:
    headers = [elfcore.Header(PT_LOAD, 7, 0, DIRECT, 0x40000000, 0x80000000)]
    (root / "proc/kcore").write_bytes(elfcore.pack(headers, EM_AARCH64))
    assert elfcore.read_mappings(read_memory_map(root), root) == elfcore.Mappings(DIRECT - 0x40000000, 0, None)


def test_purgatory_checks_all_and_knows_how_to_complain_and_reset(root: Path) -> None:
    plan = panic(root)
    code = data(plan, "purgatory")
    assert code[purgatory.MAGIC_AT : purgatory.MAGIC_AT + 8] == aarch64.MAGIC
    entry, tree_at, uart, conduit, after, resets, count = aarch64.HEAD.unpack_from(code, purgatory.HEAD_AT)
    assert (entry, tree_at) == (place(plan, "kernel").start, place(plan, "device tree").start)
    assert (uart, conduit, after, resets, count) == (0x9000000, aarch64.CONDUITS["hvc"], 7, 1, 4)
    checked = {REGION.unpack_from(code, aarch64.REGIONS_AT + number * REGION.size)[::2] for number in range(count)}
    assert checked == {(each.address, checksum(each.data)) for each in plan.segments if each.checked}


def test_with_acpi_the_fixed_table_tells_how_psci_is_called(root: Path) -> None:
    bare = DeviceTree(Node("", {}, [Node("chosen", {"linux,uefi-system-table": bytes(8)})]))
    assert (aarch64.uart(bare), aarch64.conduit(bare, root)) == (0, 0)
    table = root / "sys/firmware/acpi/tables/FACP"
    table.parent.mkdir(parents=True)
    for flags, found in ((0, 0), (1, 1), (3, 2), (2, 0)):
        table.write_bytes(bytes(129) + bytes([flags, 0]))
        assert aarch64.conduit(bare, root) == found


def test_a_reboot_keeps_out_of_what_is_reserved(root: Path) -> None:
    kernel = parse_kernel(memoryview(bytearray(kernels.flat_image())))
    plan = plan_reboot(kernel, memoryview(IMAGE), "x", root=root)
    reserved = [LOW, HIGH, Range(0x41820000, 0x41E50000)]
    places = [placed.range for placed in plan.segments]
    assert all(one.end <= other.start or other.end <= one.start for one in places for other in reserved)
    chosen = parse(data(plan, "device tree")).chosen().properties
    assert "linux,elfcorehdr" not in chosen and "linux,usable-memory-range" not in chosen
    assert any(chosen["kaslr-seed"])


def test_another_architectures_kernel_is_refused(root: Path) -> None:
    with pytest.raises(KdumpError, match="another architecture"):
        check_kernel(parse_kernel(memoryview(kernels.bzimage())), "x", root)
    check_kernel(parse_kernel(memoryview(kernels.flat_image())), "x", root)
    with pytest.raises(KdumpError, match="another architecture"):
        check_kernel(parse_kernel(memoryview(kernels.flat_image(magic=b"RSC\x05"))), "x", root)


RISCV_IOMEM = """\
80000000-bfffffff : System RAM
  80000000-8007ffff : Reserved
  80202000-8206a337 : Kernel image
    80202000-80c76977 : Kernel code
  90000000-9fffffff : Crash kernel
  bcc00000-bfe01fff : Reserved
"""


@pytest.fixture
def riscv(tmp_path: Path) -> Path:
    """As OpenSBI leaves a machine to the kernel: its own memory is set aside, and guarded."""
    synthetic.machine(tmp_path, iomem=RISCV_IOMEM)
    synthetic.write(tmp_path, proc__sys__kernel__arch="riscv64\n")
    wide, set_aside = (2).to_bytes(4, "big"), struct.pack(">QQ", 0x80000000, 0x80000)
    buffer = {"compatible": b"ramoops\0", "reg": struct.pack(">QQ", 0xB0000000, 0x100000)}
    pool = {"reusable": b"", "reg": struct.pack(">QQ", 0xB1000000, 0x100000)}
    cells = {"#address-cells": wide, "#size-cells": wide}
    kept = [Node("mmode_resv0@80000000", {"reg": set_aside}), Node("ramoops@b0000000", buffer), Node("pool", pool)]
    root = Node(
        "",
        cells,
        [
            Node("cpus", {"timebase-frequency": (10_000_000).to_bytes(4, "big")}),
            Node("reserved-memory", cells, kept),
            Node("chosen", {"bootargs": b"old\0"}),
        ],
    )
    (tmp_path / "sys/firmware/fdt").write_bytes(DeviceTree(root).pack())
    headers = [
        elfcore.Header(PT_LOAD, 7, 0, 0xFFFFFFFF80000000, 0x80202000, 0x1E68338),
        elfcore.Header(PT_LOAD, 7, 0, 0xFF60000000000000, 0x80000000, 0x40000000),
    ]
    (tmp_path / "proc/kcore").write_bytes(elfcore.pack(headers, EM_RISCV))
    return tmp_path


def riscv_kernel() -> KernelImage:
    """Its text_offset is 2 MiB: firmware has the first ones of RAM."""
    return parse_kernel(memoryview(bytearray(kernels.flat_image(magic=b"RSC\x05", text_offset=2 << 20))))


def test_riscv_is_loaded_by_the_same_planner(riscv: Path) -> None:
    kernel = riscv_kernel()
    check_kernel(kernel, LINE, riscv)
    plan = plan_panic(kernel, memoryview(IMAGE), LINE, root=riscv)
    assert place(plan, "kernel").start == 0x90000000  # the first of its memory: older kernels see none below themselves
    assert all(each.address >= 0x90000000 and each.range.end <= 0xA0000000 for each in plan.segments)
    chosen = parse(data(plan, "device tree")).chosen().properties
    assert struct.unpack(">QQ", chosen["linux,usable-memory-range"]) == (0x90000000, 0x10000000)
    assert struct.unpack(">QQ", chosen["linux,elfcorehdr"])[0] == place(plan, "core headers").start
    code = data(plan, "purgatory")
    assert code[purgatory.MAGIC_AT : purgatory.MAGIC_AT + 8] == riscv64.MAGIC
    found = riscv64.HEAD.unpack_from(code, purgatory.HEAD_AT)
    assert found == (place(plan, "kernel").start, place(plan, "device tree").start, 7 * 10_000_000, 1, 4)
    checked = {REGION.unpack_from(code, riscv64.REGIONS_AT + number * REGION.size)[::2] for number in range(4)}
    assert checked == {(each.address, checksum(each.data)) for each in plan.segments if each.checked}


def test_memory_of_the_firmware_is_not_in_the_dump_and_nothing_is_put_there(riscv: Path) -> None:
    """The processor guards it: a kernel that looks at it dies."""
    plan = plan_panic(riscv_kernel(), None, LINE, root=riscv)
    loads = [header for header in plan.core_headers if header.type == PT_LOAD]
    assert (loads[0].virtual, loads[0].physical) == (0xFFFFFFFF80000000, 0x80202000)
    assert [(each.physical, each.physical + each.size) for each in loads[1:]] == [
        (0x80080000, 0x90000000), (0xA0000000, 0xC0000000),
    ]  # fmt: skip
    assert all(each.virtual - each.physical == 0xFF60000000000000 - 0x80000000 for each in loads[1:])
    reboot = plan_reboot(riscv_kernel(), memoryview(IMAGE), "x", root=riscv)
    taken = [Range(0x80000000, 0x80080000), Range(0xBCC00000, 0xBFE02000), Range(0x90000000, 0xA0000000)]
    assert not any(
        each.address < part.end and part.start < each.range.end for each in reboot.segments for part in taken
    )


def test_a_machine_without_a_tree_is_told(root: Path) -> None:
    (root / "sys/firmware/fdt").unlink()
    with pytest.raises(KdumpError, match="device tree"):
        panic(root)


def test_images_in_every_wrapping_are_the_same_kernel() -> None:
    plain = kernels.flat_image()
    kernel = parse_kernel(memoryview(plain))
    assert (kernel.kind, kernel.machine, kernel.release) == ("Image", "aarch64", "6.12.0-test")
    for name, pack in kernels.PACKERS.items():
        if name not in ("lzma",):
            assert parse_kernel(memoryview(pack(plain))).parts[0].data == plain
    zboot = parse_kernel(memoryview(kernels.zboot(plain)))
    assert zboot.kind == "EFI zboot image" and zboot.parts[0].data == plain
    uki = parse_kernel(memoryview(kernels.pe({".linux": kernels.zboot(plain), ".initrd": b"i"}, machine=0xAA64)))
    assert uki.parts[0].data == plain and bytes(uki.initrd or b"") == b"i"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (kernels.flat_image(flags=1), "big-endian"),
        (kernels.flat_image(size=0), "older than Linux 3.17"),
        (kernels.flat_image(size=64), "sizes that no kernel has"),
        (kernels.flat_image(size=1 << 40), "sizes that no kernel has"),
        (kernels.zboot(b"x")[:40], "truncated"),
        (kernels.zboot(kernels.flat_image(), compression=b"brotli"), "brotli"),
        (kernels.zboot(kernels.flat_image())[:-100], "outside the file"),
    ],
)
def test_damaged_images_are_named(data: bytes, named: str) -> None:
    with pytest.raises(FormatError, match=named):
        parse_kernel(memoryview(data))
