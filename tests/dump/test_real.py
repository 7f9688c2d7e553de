"""Page classes on real kernels: against makedumpfile where it supports one, against the kernel's own counters."""

from __future__ import annotations

import filecmp
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests import foreign
from tests.dump.conftest import MEMORY

from kdump.cli.main import main
from kdump.dump.classes import PageClass
from kdump.dump.codecs import CODECS, compressor
from kdump.dump.destination import Destination, save_to
from kdump.dump.facts import find_facts
from kdump.dump.first_pass import first_pass, open_memory_map
from kdump.dump.pages import PageReader
from kdump.dump.pipeline import Options
from kdump.dump.zones import SLACK_OF_A_CPU, free_pages
from kdump.kernel import vmcoreinfo
from kdump.kernel.kernel import Kernel
from kdump.memory import open_dump
from kdump.memory.protocol import Dump

pytestmark = pytest.mark.lab


def held(dump: Dump) -> NDArray[np.bool_]:
    """Shape (pages,): which pages the dump holds."""
    return dump.memory.present(0, max(each.end for each in dump.memory.ranges) // dump.memory.page_size)


def on_cpu_lists(vmcore: Path, vmlinux: Path) -> set[int]:
    """The pfns of free pages on the CPUs' lists, as drgn finds them with debug information.

    Sources: include/linux/mmzone.h (per_cpu_pages), mm/page_alloc.c (order_to_pindex).
    """
    import drgn
    from drgn.helpers.linux.cpumask import for_each_possible_cpu
    from drgn.helpers.linux.list import list_for_each_entry
    from drgn.helpers.linux.mm import page_to_pfn
    from drgn.helpers.linux.mmzone import for_each_online_pgdat
    from drgn.helpers.linux.percpu import per_cpu_ptr

    program = drgn.Program()
    program.set_core_dump(vmcore)
    program.load_debug_info([vmlinux])
    found: set[int] = set()
    for zone in (zone for node in for_each_online_pgdat(program) for zone in node.node_zones if zone.present_pages):
        for cpu in for_each_possible_cpu(program):
            pages = per_cpu_ptr(zone.per_cpu_pageset, cpu)
            on_lists = 0
            for index, head in enumerate(pages.lists):
                order = index // 3 if index < 12 else 9
                for page in list_for_each_entry("struct page", head.address_of_(), "lru"):
                    pfn = page_to_pfn(page).value_()
                    found |= set(range(pfn, pfn + (1 << order)))
                    on_lists += 1 << order
            assert on_lists == pages.count.value_()
    return found


@pytest.mark.parametrize("level", [0, 2, 4, 8, 16, 24, 31])
def test_the_same_pages_as_makedumpfile_on_a_kernel_it_supports(
    level: int, whole: Callable[[str], Path], tmp_path: Path, debug_vmlinux: Callable[[str], Path]
) -> None:
    """But for free pages on the CPUs' lists, which makedumpfile keeps."""
    theirs = tmp_path / "theirs"
    foreign.run("makedumpfile", "--message-level", "0", "-l", "-d", str(level), whole("6.1"), theirs)
    with open_dump(theirs) as one, open_dump(whole("6.1")) as source:
        ours = first_pass(source, level).kept
        bits = np.unpackbits(np.concatenate(list(ours.bitmap())), bitorder="little")[: ours.limit].view(np.bool_)
        kept_by_them = held(one)
        assert np.flatnonzero(bits & ~kept_by_them).tolist() == []
        expected = on_cpu_lists(whole("6.1"), debug_vmlinux("6.1")) if level & 16 else set()
        assert set(np.flatnonzero(kept_by_them & ~bits).tolist()) == expected
        assert bool(expected) == bool(level & 16)


@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_free_pages_on_the_cpus_lists(
    series: str, whole: Callable[[str], Path], debug_vmlinux: Callable[[str], Path]
) -> None:
    with open_dump(whole(series)) as dump:
        found = open_memory_map(dump).listed
    assert set(found.tolist()) == on_cpu_lists(whole(series), debug_vmlinux(series))
    assert len(found) > 16


@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_classes_agree_with_the_kernels_own_counters(series: str, whole: Callable[[str], Path]) -> None:
    with open_dump(whole(series)) as dump:
        kernel = Kernel(dump)
        found = first_pass(dump, 31)
        assert not found.not_applied
        assert not found.doubts
        counters = free_pages(kernel.vmcoreinfo, kernel.virtual)
        assert counters is not None
        free, zones = counters
        listed = len(open_memory_map(dump).listed)  # these the zones do not count
        assert abs(int(found.by_class[PageClass.FREE]) - listed - free) <= SLACK_OF_A_CPU * zones
        on_lists = sum(lru_counters(kernel))
        classed = sum(int(found.by_class[kind]) for kind in (PageClass.CACHE, PageClass.CACHE_PRIVATE, PageClass.USER))
        # Pages on their way to a list are in the CPU's batches of 15 (31 since 6.11), several kinds of them.
        assert abs(classed - on_lists) <= SLACK_OF_A_CPU * zones + 6 * 31
        assert classed > MEMORY // 4096 // 10  # the machine did use memory


def lru_counters(kernel: Kernel) -> Iterator[int]:
    """Pages on the LRU lists, by zone and list, as the zones count them."""
    info, virtual = kernel.vmcoreinfo, kernel.virtual
    items = kernel.types.enum("zone_stat_item")
    lists = [number for name, number in items.items() if name.startswith(("NR_ZONE_INACTIVE", "NR_ZONE_ACTIVE"))]
    lists.append(items["NR_ZONE_UNEVICTABLE"])
    node = virtual.u64(info.symbols["node_data"])
    for number in range(virtual.u32(node + info.offsets["pglist_data.nr_zones"])):
        zone = node + info.offsets["pglist_data.node_zones"] + number * info.sizes["zone"]
        for item in lists:
            yield max(int(np.int64(np.uint64(virtual.u64(zone + info.offsets["zone.vm_stat"] + 8 * item)))), 0)


@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_free_pages_are_nobodys(series: str, whole: Callable[[str], Path]) -> None:
    """No page table of the kernel or of a process lies on a page that level 31 drops."""
    with open_dump(whole(series)) as dump:
        kernel = Kernel(dump)
        dropped = held(dump)
        for pfns in first_pass(dump, 31).kept.pfns():
            dropped[pfns] = False
        paging = kernel.virtual.paging
        tables = [paging.root]
        for level in range(len(paging.shifts) - 1):
            below: list[int] = []
            for table in tables:
                assert not dropped[table // 4096]
                entries = np.frombuffer(dump.memory.view(table, 4096), "<u8")
                leaf = (
                    (entries & np.uint64(paging.table_mask)) != np.uint64(paging.table)
                    if level
                    else np.zeros(512, np.bool_)
                )
                inner = entries[((entries & np.uint64(paging.present)) != 0) & ~leaf]
                below += (inner & np.uint64(paging.address_mask)).tolist()
            tables = below
        assert tables
        assert not dropped[np.array(tables) // 4096].any()


def test_types_stand_in_for_vmcoreinfo(whole: Callable[[str], Path]) -> None:
    """On 6.12 all that the filter must know is in BTF too, and more: VMCOREINFO does not tell unaccepted memory."""
    told = ("NUMBER(PG_", "NUMBER(PAGE_", "OFFSET(page.", "SIZE(page)")
    with open_dump(whole("6.12")) as dump:
        kernel = Kernel(dump)
        lines = kernel.vmcoreinfo.raw.split(b"\0")[0].decode().splitlines()
        poorer = vmcoreinfo.parse("\n".join(line for line in lines if not line.startswith(told)).encode())
        found = find_facts(poorer, lambda: kernel.types)
        assert replace(found, unaccepted_type=None) == replace(find_facts(kernel.vmcoreinfo), unaccepted_type=None)
        assert found.unaccepted_type is not None


@pytest.mark.parametrize("form", ["kdump", "elf", "flat", "split"])
def test_crash_sees_the_same_in_every_container(
    form: str, whole: Callable[[str], Path], debug_vmlinux: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = {"kdump": ["-z"], "elf": ["--elf"], "flat": ["--flat"], "split": ["--split", "3"]}[form]
    assert main(["save", *options, str(whole("6.1")), str(out)]) == 0
    paths = [f"{out}.{number}" for number in (1, 2, 3)] if form == "split" else [out]
    ask = ("crash", "-s", "-i", "/dev/null", debug_vmlinux("6.1"))
    commands = "bt\nps\nkmem -i\nlog\nquit\n"
    assert foreign.run(*ask, *paths, text=commands) == foreign.run(*ask, whole("6.1"), text=commands)


@pytest.mark.parametrize("codec", ["-c", "-l", "-p"])
def test_pages_of_our_own_encoders_are_read_by_crash_drgn_and_makedumpfile(
    codec: str, whole: Callable[[str], Path], debug_vmlinux: Callable[[str], Path], tmp_path: Path
) -> None:
    """By zlib, liblzo2 and libsnappy; drgn and makedumpfile read every page."""
    import drgn

    out, vmlinux = tmp_path / "out", debug_vmlinux("6.1")
    assert main(["save", codec, "-d", "1", str(whole("6.1")), str(out)]) == 0
    assert foreign.ask_crash(vmlinux, out, "6.1") == foreign.ask_crash(vmlinux, whole("6.1"), "6.1")
    program = drgn.Program()
    program.set_core_dump(out)
    with open_dump(whole("6.1")) as dump:
        pfns = np.flatnonzero(held(dump)).tolist()
        assert len(pfns) > 100_000
        for pfn in pfns:
            assert program.read(pfn * 4096, 4096, physical=True) == dump.memory.view(pfn * 4096, 4096), hex(pfn)
    if codec == "-p":
        return  # Debian's makedumpfile is built without snappy
    foreign.run(*foreign.from_debian_13("makedumpfile"), "-c", "-d", "1", out, tmp_path / "again")
    with open_dump(whole("6.1")) as dump, open_dump(tmp_path / "again") as again:
        for pfn in pfns:
            assert again.memory.view(pfn * 4096, 4096) == dump.memory.view(pfn * 4096, 4096), hex(pfn)


@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_a_dump_cut_at_a_quarter_opens_in_crash_and_drgn(
    series: str, whole: Callable[[str], Path], debug_vmlinux: Callable[[str], Path], tmp_path: Path
) -> None:
    """At a level that keeps more than the kernel's memory: that is written first."""
    source, out = tmp_path / "elf", tmp_path / "out"
    assert main(["save", "-d", "0", "--elf", str(whole(series)), str(source)]) == 0
    limit = ["-L", str(whole(series).stat().st_size // 4)]
    assert main(["makedumpfile", "--message-level", "0", "-z", "-d", "1", *limit, str(source), str(out)]) == 1
    cut = tmp_path / "out.incomplete"
    with open_dump(cut) as dump:
        assert dump.incomplete
    vmlinux = debug_vmlinux(series)
    assert foreign.ask_crash(vmlinux, cut, series) == foreign.ask_crash(vmlinux, whole(series), series)
    assert len(foreign.panicking_stack_by_drgn(cut, vmlinux)) > 5
    assert foreign.panicking_stack_by_drgn(cut, vmlinux) == foreign.panicking_stack_by_drgn(whole(series), vmlinux)


@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_a_dump_of_level_31_without_its_last_pages_opens_in_crash_and_drgn(
    series: str, whole: Callable[[str], Path], debug_vmlinux: Callable[[str], Path], tmp_path: Path
) -> None:
    """The memory map and reclaimable slabs are last: neither tool needs them for a look at a crash."""
    done = [0]
    with open_dump(whole(series)) as dump:
        selection = first_pass(dump, 31)
        assert selection.first
        first = selection.first.count
        assert 0 < first < selection.kept.count * 0.9

        def progress(stage: str, size: int, _total: int) -> None:
            done[0] = size // 4096 if stage == "write" else 0

        options = Options(progress=progress, stop=lambda: "cut" if done[0] >= first else "")
        saved = save_to(dump, Destination.parse(str(tmp_path / "cut")), options)
    assert first <= saved.summary.pages_written < selection.kept.count
    cut, vmlinux = Path(saved.paths[0]), debug_vmlinux(series)
    assert foreign.ask_crash(vmlinux, cut, series) == foreign.ask_crash(vmlinux, whole(series), series)
    frames = foreign.panicking_stack_by_drgn(cut, vmlinux)
    assert len(frames) > 5
    assert frames == foreign.panicking_stack_by_drgn(whole(series), vmlinux)


@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_zlib_streams_of_real_pages_are_as_small_as_zlibs(series: str, whole: Callable[[str], Path]) -> None:
    """What level 31 keeps, each page by itself; and every one is read back."""
    with open_dump(whole(series)) as dump:
        read, compress = PageReader(dump.memory), compressor(CODECS["zlib"])
        ours = theirs = 0
        for pfns in first_pass(dump, 31).kept.pfns():
            for start in range(0, len(pfns), 512):
                pages, _ = read(pfns[start : start + 512])
                packed = compress(pages, drop_zeros=True)
                ours += len(packed.data)
                place = 0
                for page, size in zip(pages, packed.sizes.tolist(), strict=True):
                    stream = bytes(packed.data[place : place + size])
                    place += size
                    if 0 < size < len(page):
                        assert zlib.decompress(stream) == page.tobytes()
                    if size:
                        theirs += min(len(page), len(zlib.compress(page.data, 1)))
    assert 0 < ours < theirs * 1.01  # 0.98 where slabs are most of it, 1.00 with many modules' types and code


def test_parts_are_joined_by_makedumpfile_too(whole: Callable[[str], Path], tmp_path: Path) -> None:
    parts = [str(tmp_path / f"out.{number}") for number in (1, 2, 3)]
    assert main(["save", "-c", "--split", "3", str(whole("6.1")), str(tmp_path / "out")]) == 0
    assert main(["makedumpfile", "--reassemble", *parts, str(tmp_path / "ours")]) == 0
    foreign.run("makedumpfile", "--reassemble", *parts, tmp_path / "joined")
    assert filecmp.cmp(tmp_path / "joined", tmp_path / "ours", shallow=False)
