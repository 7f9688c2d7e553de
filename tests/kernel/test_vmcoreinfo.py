"""VMCOREINFO: its text, its absence, and finding it in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.memory.machine import Machine
from tests.memory.writers import PAGE, Load, elf, note

from kdump.errors import KdumpError
from kdump.kernel import vmcoreinfo
from kdump.kernel.completed import completed
from kdump.kernel.kernel import Kernel
from kdump.kernel.summary import summarize
from kdump.memory import open_dump

TEXT = b"""\
OSRELEASE=6.1.0-56-cloud-amd64
BUILD-ID=3B43FAD5
PAGESIZE=4096
SYMBOL(_stext)=ffffffffac800000
SIZE(page)=64
OFFSET(page.flags)=0
LENGTH(node_data)=1024
NUMBER(phys_base)=-4096
NUMBER(PG_head_mask)=0x10000
NUMBER(damaged)=x
KERNELOFFSET=2b800000
CRASHTIME=1795434923
a line without meaning
"""


def test_every_kind_of_line() -> None:
    info = vmcoreinfo.parse(TEXT + bytes(100))
    assert info.release == "6.1.0-56-cloud-amd64"
    assert info.build_id == "3b43fad5"
    assert (info.page_size, info.crash_time, info.kaslr_offset) == (4096, 1795434923, 0x2B800000)
    assert info.symbol("_stext") == 0xFFFFFFFFAC800000
    assert (info.size("page"), info.offset("page.flags"), info.length("node_data")) == (64, 0, 1024)
    assert (info.number("phys_base"), info.number("PG_head_mask")) == (-4096, 65536)


@pytest.mark.parametrize("kind", ["symbol", "size", "offset", "length", "number"])
def test_what_is_missing_is_named(kind: str) -> None:
    with pytest.raises(KdumpError, match=rf"{kind.upper()}\(damaged\).*6\.1\.0-56"):
        getattr(vmcoreinfo.parse(TEXT), kind)("damaged")


def test_damaged_text_does_not_fail() -> None:
    info = vmcoreinfo.parse(bytes(range(1, 256)) * 3 + b"\nNUMBER(=\n=\n")
    assert info.release == ""
    assert info.page_size == 4096


def machine_with_text(five_levels: bool = False) -> Machine:
    machine = Machine(five_levels=five_levels)
    machine.write(0x600000, machine.vmcoreinfo)
    return machine


@pytest.mark.parametrize("five_levels", [False, True])
def test_found_in_memory(tmp_path: Path, five_levels: bool) -> None:
    machine = machine_with_text(five_levels)
    stale = machine.vmcoreinfo.replace(b"phys_base)=2", b"phys_base)=3").replace(b"6.1.0", b"5.0.0")
    machine.write(0x500000, stale)  # another kernel's, lower in memory
    machine.write(0x510000, b"OSRELEASE=no more than that\n")
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf(with_note=False))
    with open_dump(path) as dump:
        assert dump.vmcoreinfo == b""
        kernel = Kernel(dump)
        assert kernel.vmcoreinfo.release == "6.1.0-test"
        assert kernel.virtual.translate(machine.root_virtual) == machine.root


@pytest.mark.parametrize("size", [4096, 16384])
def test_a_dump_without_the_note_is_completed_from_memory(tmp_path: Path, size: int) -> None:
    machine = Machine()
    text = machine.vmcoreinfo.replace(b"PAGESIZE=4096", b"PAGESIZE=%d" % size)
    assert b"PAGESIZE=%d" % size in text
    machine.write(0x600000, text)
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf(with_note=False))
    with open_dump(path) as dump:
        assert (dump.vmcoreinfo, dump.memory.page_size) == (b"", 4096)
        found = completed(dump)
        assert (found.vmcoreinfo, found.memory.page_size) == (text.rstrip(b"\0"), size)
        assert list(found.memory.held()) == list(dump.memory.held())


def test_not_found_says_so(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(elf([Load(0, bytes(64 * PAGE))]))
    with pytest.raises(KdumpError, match="no VMCOREINFO") as caught:
        _ = Kernel(open_dump(path)).vmcoreinfo
    assert "vmcoreinfo device" in caught.value.remedy


def test_other_architectures_are_named(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(elf([Load(0, bytes(PAGE))], note("VMCOREINFO", 0, TEXT), machine=40))
    kernel = Kernel(open_dump(path))
    assert kernel.vmcoreinfo.release
    with pytest.raises(KdumpError, match="architecture arm is not supported"):
        _ = kernel.virtual


@pytest.mark.parametrize("missing", ["SYMBOL(init_top_pgt)", "NUMBER(phys_base)"])
def test_page_tables_that_cannot_be_found(tmp_path: Path, missing: str) -> None:
    machine = Machine()
    text = b"".join(line + b"\n" for line in machine.vmcoreinfo.splitlines() if not line.startswith(missing.encode()))
    path = tmp_path / "vmcore"
    path.write_bytes(elf([Load(0, bytes(machine.memory))], note("VMCOREINFO", 0, text)))
    with pytest.raises(KdumpError, match="page tables"):
        _ = Kernel(open_dump(path)).virtual


@pytest.mark.parametrize("seconds", ["-1", "253402300800", str(1 << 63), "soon"])
def test_a_time_that_no_date_has_is_none(seconds: str, tmp_path: Path) -> None:
    assert vmcoreinfo.parse(f"CRASHTIME={seconds}\n".encode()).crash_time == 0
    assert vmcoreinfo.parse(b"CRASHTIME=253402300799\n").crash_time == 253402300799
    machine = Machine()
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf())
    with open_dump(path) as dump:
        damaged = dump._replace(header={"timestamp": int(seconds)} if seconds != "soon" else {})
        assert summarize(damaged)["kernel"]["crash_time"] == 0  # type: ignore[index]
