"""Dumps of s390x: big-endian from the ELF header to the log; what goes beyond that is refused by name."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from tests.kernel.ring import Ring
from tests.memory.writers import Load, elf, note
from tests.memory.writers import kdump as compressed

from kdump.arch.s390x import S390X
from kdump.arch.s390x.paging import kernel_paging
from kdump.dump.first_pass import first_pass
from kdump.errors import KdumpError, NotPresentError
from kdump.kernel.kernel import Kernel
from kdump.kernel.vmcoreinfo import parse
from kdump.lab import apt, kernels
from kdump.lab.qmp import Qmp
from kdump.memory import open_dump
from kdump.memory.counts import count_pages
from kdump.memory.kdump_compressed import KdumpMemory
from kdump.memory.protocol import Memory, Range
from kdump.memory.virtual import VirtualMemory

IDENTITY = 0xFFFF888040000000  # where the ring's writer puts it
SIZE = 64 << 20
# As a 7.2 kernel says; before 6.10 there is no such line but KERNELOFFSET.
PLACES = f"IDENTITYBASE={IDENTITY:x}\nKERNELOFFSET=3fffe418000\nKERNELOFFPHYS=918000\n"
ROOT = "OSRELEASE=7.2.11-s390x\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=3fffff54000\n"


class Identity:
    """Memory of the identity mapping."""

    def __init__(self) -> None:
        self.extra: list[str] = []
        self.data = bytearray(SIZE)

    def place(self, virtual: int, data: bytes) -> None:
        self.data[virtual - IDENTITY : virtual - IDENTITY + len(data)] = data


@pytest.fixture(params=["elf", "kdump"])
def vmcore(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A dump in each format; QEMU and makedumpfile write the header of the latter in the machine's order."""
    ring = Ring(order=">")
    ring.add(b"Linux version 7.2", level=5)
    ring.add(b"crw_info: channel report", level=4, facility=3, caller=1 << 31 | 2)
    ring.add(b"Kernel panic - not syncing: sysrq triggered crash", level=0)
    memory = Identity()
    ring.into(memory)
    text = ROOT + PLACES + "\n".join(memory.extra) + "\n"
    path = tmp_path / "vmcore"
    notes = note("CORE", 1, bytes(336), ">") + note("VMCOREINFO", 0, text.encode(), ">")
    if request.param == "elf":
        path.write_bytes(elf([Load(0, bytes(memory.data))], notes, machine=22, order=">"))
        return path
    pages = {at // 4096: bytes(memory.data[at : at + 4096]) for at in range(0, SIZE, 4096)}
    path.write_bytes(compressed(pages, ram=[(0, SIZE // 4096)], notes=notes, machine=b"S390X", codec=1, order=">"))
    return path


def kdump(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "kdump", *words], capture_output=True, text=True, check=False)


def test_headers_and_log(vmcore: Path) -> None:
    with open_dump(vmcore) as dump:
        kernel = Kernel(dump)
        assert kernel.arch is S390X and dump.memory.ranges == [Range(0, SIZE)]
        assert (dump.notes[0].name, len(dump.notes[0].data)) == ("CORE", 336)
        records = kernel.log().records
    assert [(each.level, each.facility, each.caller_name) for each in records] == [
        (5, 0, "T1"),
        (4, 3, "C2"),
        (0, 0, "T1"),
    ]
    assert kdump("dmesg", vmcore).stdout.splitlines()[-1].endswith("Kernel panic - not syncing: sysrq triggered crash")
    assert "7.2.11-s390x s390x" in kdump("info", vmcore).stdout


def test_a_report_is_made_of_the_log(vmcore: Path) -> None:
    report = kdump("report", vmcore).stdout
    assert report.startswith("sysrq triggered crash\n")
    assert "symbols, types and objects of s390x are not read" in " ".join(report.split())


def test_what_goes_beyond_is_refused(vmcore: Path, tmp_path: Path) -> None:
    saved = kdump("save", vmcore, tmp_path / "out")
    assert saved.returncode == 1 and "dumps of s390x are not filtered" in saved.stderr
    assert not list(tmp_path.glob("out*"))
    with open_dump(vmcore) as dump:
        with pytest.raises(KdumpError, match="s390x are not filtered"):
            first_pass(dump, 0)
        for part in ("symbols", "types", "modules"):
            with pytest.raises(KdumpError, match="of s390x are not read"):
                getattr(Kernel(dump), part)


def test_split_parts_are_read(tmp_path: Path) -> None:
    pages = {pfn: bytes([pfn]) * 4096 for pfn in range(1, 200)}
    parts = [
        compressed(pages, ram=[(0, 200)], machine=b"s390x", codec=1, order=">", split=split)
        for split in ((0, 120), (120, 200))
    ]
    paths = [tmp_path / "one", tmp_path / "two"]
    for path, part in zip(paths, parts, strict=True):
        path.write_bytes(part)
    with open_dump(paths) as dump:
        assert all(bytes(dump.memory.view(pfn * 4096, 4096)) == page for pfn, page in pages.items())
        gathered = np.empty((4, 4096), np.uint8)
        assert cast("KdumpMemory", dump.memory).gather(np.array([1, 119, 120, 199]), gathered).all()
        assert gathered[:, 0].tolist() == [1, 119, 120, 199]
        assert count_pages(dump.memory).dumped == 199


@pytest.mark.matrix
@pytest.mark.lab
def test_qemus_dumps_have_the_log_that_the_console_had(tmp_path: Path) -> None:
    """Debian's kernel finds no root file system. QEMU writes its dump in both formats, each number big-endian."""
    names = apt.host("s390x").search("^linux-image-6.1.*-s390x$")
    name = max(names, key=lambda each: [int(part) for part in re.findall(r"\d+", each)])
    (image,) = (kernels.package(name, "s390x") / "boot").glob("vmlinuz-*")
    monitor, console = tmp_path / "monitor", tmp_path / "console"
    command = ["qemu-system-s390x", "-M", "s390-ccw-virtio", "-m", "512", "-display", "none", "-no-shutdown"]
    command += ["-action", "panic=pause", "-serial", f"file:{console}", "-qmp", f"unix:{monitor},server=on,wait=off"]
    with subprocess.Popen([*command, "-kernel", image, "-append", "panic=0"]) as machine:
        try:
            for _ in range(600):
                if console.exists() and "ret_from_fork" in console.read_text(errors="replace"):
                    break
                time.sleep(0.2)
            with Qmp(monitor, timeout=120) as qmp:
                for kind in ("elf", "kdump-zlib"):
                    qmp.execute("dump-guest-memory", paging=False, protocol=f"file:{tmp_path / kind}", format=kind)
        finally:
            machine.kill()
    printed = [line.rstrip() for line in console.read_text(errors="replace").splitlines() if line.startswith("[")]
    logs = [kdump("dmesg", tmp_path / kind).stdout for kind in ("elf", "kdump-zlib")]
    assert logs[0] == logs[1] and len(printed) > 100
    assert {line.rstrip() for line in logs[0].splitlines()} >= set(printed)
    for kind in ("elf", "kdump-zlib"):
        assert "131072 pages read" in kdump("verify", tmp_path / kind).stdout
        assert kdump("save", tmp_path / kind, tmp_path / "out").returncode == 1
        assert "not be mounted" in kdump("report", tmp_path / kind).stdout


@pytest.mark.parametrize(
    ("places", "virtual", "physical"),
    [
        (PLACES, 0x3FFFE518000, 0xA18000),  # _stext
        (PLACES, IDENTITY + 0x1FDBC000, 0x1FDBC000),
        ("IDENTITYBASE=0\nKERNELOFFSET=3fffe418000\nKERNELOFFPHYS=918000\n", 0x1FDBC000, 0x1FDBC000),
        ("KERNELOFFSET=0\n", 0x100000, 0x100000),
    ],
)
def test_where_memory_is_mapped(places: str, virtual: int, physical: int) -> None:
    root = ROOT if "PHYS" in places else ROOT.replace("3fffff54000", "1290000")
    paging = kernel_paging(parse((root + places).encode()))
    found = VirtualMemory(cast("Memory", _Nothing()), paging, "big")
    assert found.translate(virtual) == physical
    assert paging.root == (0x2454000 if "PHYS" in places else 0x1290000)
    with pytest.raises(NotPresentError):
        found.translate(1 << 62)


def test_figures_that_are_none_are_named() -> None:
    with pytest.raises(KeyError, match="IDENTITYBASE"):
        kernel_paging(parse((ROOT + PLACES.replace(f"{IDENTITY:x}", "x")).encode()))


class _Nothing:
    """Memory of which nothing is in the dump."""

    page_size = 4096
    ranges = (Range(0, 1 << 40),)

    def view(self, address: int, size: int) -> memoryview:
        return memoryview(struct.pack(">Q", 0) * (size // 8))
