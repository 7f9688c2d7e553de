"""Real kernels in every format, loaded by both methods, crashed and captured; low memory and headers looked at."""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tests.conftest import SERIES, CrashMaker
from tests.kexec import kernels
from tests.kexec.machine import gdb_stub, poke

from kdump.image.kernel_tree import KernelTree
from kdump.kernel.vmcoreinfo import parse
from kdump.kexec.formats import read_kernel, unpacked
from kdump.kexec.memory_map import merge, parse_iomem
from kdump.lab.causes import find_cause
from kdump.lab.crash import Crash, Scenario, crash
from kdump.memory import open_dump
from kdump.memory.protocol import Range

pytestmark = pytest.mark.lab

# Low memory that no kernel uses: the test writes there from outside before the panic.
PATTERN_AT, PATTERN = 0x50000, random.Random(640).randbytes(0x8000)
CAUSE = find_cause("nmi")  # comes from outside, so there is time to write before the panic
MEMORY = 768 << 20
PAGE, LOW_END = 4096, 1 << 20


class Row(NamedTuple):
    series: str
    kind: str
    method: str
    cpus: int
    levels: int


# A bzImage put in place unpacked is what every other lab test loads; with the file method a vmlinux is refused.
ROWS = [
    Row("6.12", "bzImage", "file", 2, 4),
    Row("6.1", "uki", "file", 1, 5),
    Row("6.12", "bzImage", "segments", 2, 5),
    Row("6.1", "bzImage", "segments", 1, 4),
    Row("6.12", "vmlinux", "segments", 1, 4),
    Row("6.1", "vmlinux.gz", "segments", 2, 5),
    Row("6.12", "uki", "segments", 2, 4),
]
COMPARED = ROWS[:2]


@pytest.fixture(scope="session")
def kernel_file(
    tmp_path_factory: pytest.TempPathFactory,
    kernel: Callable[[str], KernelTree],
    debug_vmlinux: Callable[[str], Path],
) -> Callable[[str, str], Path | None]:
    """`kernel_file("6.1", "uki")`: that kernel in that format, None for the bzImage as it is installed."""

    @cache
    def make(series: str, kind: str) -> Path | None:
        path = tmp_path_factory.mktemp("kernel") / kind
        if kind == "bzImage":
            return None
        if kind == "uki":
            sections = {".osrel": b"ID=lab\n", ".cmdline": b"quiet\0", ".initrd": b"not this one"}
            path.write_bytes(kernels.pe(sections | {".linux": kernel(series).vmlinuz.read_bytes()}))
            return path
        subprocess.run(["objcopy", "-S", debug_vmlinux(series), path], check=True)
        if kind.endswith(".gz"):
            path.write_bytes(gzip.compress(path.read_bytes(), 1))
        return path

    return make


@pytest.mark.parametrize("series", SERIES)
def test_a_bzimage_unpacked_is_its_vmlinux(
    series: str, kernel: Callable[[str], KernelTree], debug_vmlinux: Callable[[str], Path]
) -> None:
    """Debian's kernels are packed with lz4 (6.1) and zstd (6.12); the vmlinux is that of the debug package."""
    inside, plain = unpacked(read_kernel(kernel(series).vmlinuz)), read_kernel(debug_vmlinux(series))
    assert inside.parts == plain.parts and inside.release == plain.release == kernel(series).release
    assert (inside.span, inside.align, inside.entry) == (plain.span, plain.align, plain.entry)


@pytest.fixture(scope="session", params=ROWS, ids=lambda row: "-".join(map(str, row)))
def row(request: pytest.FixtureRequest) -> Row:
    found: Row = request.param
    return found


class Landed(NamedTuple):
    """A crash, and the machine's RAM as the capture kernel left it."""

    crash: Crash
    ram: Path


@pytest.fixture(scope="session")
def landed(
    row: Row,
    kernel: Callable[[str], KernelTree],
    kernel_file: Callable[[str, str], Path | None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Landed]:
    directory = tmp_path_factory.mktemp("loaded")
    ram, stub = directory / "ram", directory / "gdb"
    scenario = Scenario(
        kernel(row.series),
        CAUSE,
        cpus=row.cpus,
        cpu="max" if row.levels == 5 else "max,la57=off",
        memory=MEMORY,
        method=row.method,
        capture_kernel=kernel_file(row.series, row.kind),
        devices=(
            *gdb_stub(stub),
            *("-object", f"memory-backend-file,id=ram,size={MEMORY},mem-path={ram},share=on"),
            *("-machine", "memory-backend=ram"),
        ),
    )

    def step(told: str) -> None:
        if "loaded its capture kernel" in told:  # now the guest waits for the NMI
            poke(stub, PATTERN_AT, PATTERN)

    result = crash(scenario, directory, step)
    result.disk.unlink()
    yield Landed(result, ram)
    ram.unlink()


@pytest.fixture
def crashed(landed: Landed) -> Crash:
    return landed.crash


def test_it_was_loaded_by_that_method_and_reports_the_panic(row: Row, crashed: Crash) -> None:
    console = crashed.console.read_text(errors="replace")
    assert f"LOADED the capture kernel by the {row.method} method" in console
    assert crashed.manifest["status"] == "complete"
    report = subprocess.run(
        [sys.executable, "-m", "kdump", "report", "--json", crashed.directory / "vmcore"],
        check=True,
        capture_output=True,
        text=True,
    )
    verdict = json.loads(report.stdout)["verdict"]
    assert re.search(CAUSE.panic, verdict["panic"])
    assert CAUSE.function in [frame["function"].removesuffix(".cold") for frame in verdict["frames"]]


def test_low_memory_is_what_the_production_kernel_had_there(row: Row, crashed: Crash) -> None:
    with open_dump(crashed.directory / "vmcore") as dump:
        low = [part for part in dump.memory.ranges if part.start < 0xA0000]
        if row.method == "file":
            assert not low, "the kernel's own headers leave the first MiB out"
        else:
            assert bytes(dump.memory.view(PATTERN_AT, len(PATTERN))) == PATTERN


def test_pages_are_those_of_the_machine(landed: Landed) -> None:
    """Whatever the method, what the dump holds is what the dead kernel's RAM held (low memory apart, see above)."""
    ram = np.memmap(landed.ram, np.uint8, "r").reshape(-1, PAGE)
    compared = 0
    with open_dump(landed.crash.directory / "vmcore") as dump:
        for part in dump.memory.ranges:
            first, last = max(part.start, LOW_END) // PAGE, part.end // PAGE
            if first >= last:
                continue
            held = np.flatnonzero(dump.memory.present(first, last - first)) + first
            for pfn in held:
                assert bytes(dump.memory.view(int(pfn) * PAGE, PAGE)) == ram[pfn].tobytes(), f"page {pfn:#x} differs"
                compared += 1
    assert compared > 1000


def test_both_methods_give_the_same_dump(row: Row, crashed: Crash, lab_crash: CrashMaker) -> None:
    """The same ranges and VMCOREINFO, but for what KASLR moves and the clock. (Contents differ between two boots.)"""
    if row not in COMPARED:
        pytest.skip("compared for the rows by the file method, with machines that other tests crash anyway")
    other = lab_crash(
        row.series,
        "sysrq",
        cpus=row.cpus,
        cpu="max" if row.levels == 5 else "max,la57=off",
        cmdline="" if row.levels == 5 else "nokaslr",
        memory=MEMORY,
    )
    assert "LOADED the capture kernel by the segments method" in other.console.read_text(errors="replace")
    with open_dump(crashed.directory / "vmcore") as ours, open_dump(other.directory / "vmcore") as theirs:
        for crash, dump in ((crashed, ours), (other, theirs)):
            # The reservation lies elsewhere at each boot; together with it, both dumps hold all RAM.
            held = [part for part in dump.memory.ranges if part.start >= LOW_END]
            ram = [part for part in places(crash, "System RAM") if part.start >= LOW_END]
            assert merge([*held, *places(crash, "Crash kernel")]) == merge(ram)
        a, b = parse(ours.vmcoreinfo), parse(theirs.vmcoreinfo)
        assert (a.offsets, a.sizes, a.lengths, a.release, a.build_id) == (
            b.offsets, b.sizes, b.lengths, b.release, b.build_id
        )  # fmt: skip
        assert a.symbols.keys() == b.symbols.keys() and a.strings.keys() == b.strings.keys()


def places(crash: Crash, name: str) -> list[Range]:
    """Where the production kernel's /proc/iomem shows that name."""
    return [region.range for region in parse_iomem(crash.before["iomem"]) if region.name == name]
