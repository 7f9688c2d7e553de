"""`kdump export`: what it writes, held against the tools that read it."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from numpy.typing import NDArray
from tests.conftest import CrashMaker
from tests.report.machines import MACHINES

from kdump.bench import images, isf
from kdump.cli.main import main
from kdump.kernel.kernel import Kernel
from kdump.kernel.tasks import Tasks
from kdump.memory import open_dump
from kdump.memory.protocol import Dump, Range

PAGE = 4096
PLUGINS = (
    "pslist.PsList", "pstree.PsTree", "psaux.PsAux", "pidhashtable.PIDHashTable", "capabilities.Capabilities",
    "lsmod.Lsmod", "kmsg.Kmsg", "iomem.IOMem", "mountinfo.MountInfo", "boottime.Boottime", "sockstat.Sockstat",
    "ebpf.EBPF",
)  # fmt: skip
VOLATILITY = (
    pytest.param("6.12", "elf", id="6.12-5-levels-elf"),
    pytest.param("6.1", "lime", id="6.1-4-levels-lime", marks=pytest.mark.matrix),
)


class Pages:
    """Memory that holds some pages, each full of the low byte of its number."""

    page_size = PAGE
    ranges = (Range(0, 64 * PAGE),)

    def __init__(self, *pfns: int) -> None:
        self.pfns = pfns

    def held(self) -> Iterator[Range]:
        return (Range(pfn * PAGE, (pfn + 1) * PAGE) for pfn in self.pfns)

    def present(self, first: int, count: int) -> NDArray[np.bool_]:
        return np.isin(np.arange(first, first + count), self.pfns)

    def view(self, address: int, size: int) -> memoryview:
        pages = range(address // PAGE, (address + size - 1) // PAGE + 1)
        assert set(pages) <= set(self.pfns)
        whole = b"".join(bytes([pfn]) * PAGE for pfn in pages)
        return memoryview(whole)[address % PAGE :][:size]

    def close(self) -> None: ...


def dump_of(*pfns: int) -> Dump:
    return Dump("dump", "elf", cast(Any, Pages(*pfns)), b"", header={"machine": "x86_64"})


def written(tmp_path: Path, write: Callable[[int], images.Summary]) -> tuple[bytes, images.Summary]:
    with (tmp_path / "image").open("w+b") as file:
        summary = write(file.fileno())
        return (tmp_path / "image").read_bytes(), summary


def test_lime_has_a_head_for_each_run(tmp_path: Path) -> None:
    raw, summary = written(tmp_path, lambda fd: images.lime(dump_of(1, 2, 5), fd, lambda *_: None))
    assert summary == images.Summary(3, 2, 0, 0, 2 * 32 + 3 * PAGE) and len(raw) == summary.size
    found, at = {}, 0
    while at < len(raw):
        magic, version, first, last, _ = struct.unpack_from("<IIQQQ", raw, at)
        assert (magic, version) == (0x4C694D45, 1)
        found[first] = raw[at + 32 : at + 33 + last - first]
        at += 33 + last - first
    assert found == {PAGE: b"\1" * PAGE + b"\2" * PAGE, 5 * PAGE: b"\5" * PAGE}


@pytest.mark.parametrize(("most", "starts"), [(9, [1, 4, 10]), (2, [1, 10]), (1, [1])])
def test_segments_hold_all_that_they_claim(tmp_path: Path, most: int, starts: list[int]) -> None:
    _, summary = written(tmp_path, lambda fd: images.equal_elf(dump_of(1, 2, 4, 10), fd, lambda *_: None, most))
    with (tmp_path / "image").open("rb") as file:
        loads = [each for each in ELFFile(file).iter_segments() if each["p_type"] == "PT_LOAD"]
        assert [each["p_paddr"] // PAGE for each in loads] == starts
        for each in loads:
            assert each["p_filesz"] == each["p_memsz"]
            for number, at in enumerate(range(0, each["p_filesz"], PAGE), each["p_paddr"] // PAGE):
                value = number if number in (1, 2, 4, 10) else 0
                assert each.data()[at : at + PAGE] == bytes([value]) * PAGE
    assert summary.pages == 4 and summary.zeros == {9: 0, 2: 1, 1: 6}[most]


def test_a_symbol_file_needs_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "vmcore", "--isf", "-o", "symbols.txt"]) == 2
    assert "does not end in .json" in capsys.readouterr().err


@pytest.fixture
def vmcore(lab_crash: CrashMaker) -> Callable[[str], Path]:
    return lambda series: lab_crash(series, **MACHINES[series]).directory / "vmcore"


@pytest.mark.lab
@pytest.mark.parametrize(("series", "image"), VOLATILITY)
def test_volatility_sees_what_we_see(series: str, image: str, vmcore: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "symbols").mkdir()
    assert main(["export", str(vmcore(series)), "--isf", "-o", str(tmp_path / "symbols" / "linux.json")]) == 0
    assert main(["export", str(vmcore(series)), f"--{image}", "-o", str(tmp_path / image)]) == 0
    assert (tmp_path / image).stat().st_mode & 0o777 == 0o600
    names = [f"linux.{name}" for name in PLUGINS]
    program = [sys.executable, "-m", "tests.bench.volatility_plugins"]
    places = [str(tmp_path / name) for name in (image, "symbols", "")]
    done = subprocess.run([*program, *places, *names], capture_output=True, text=True, check=True)
    answers: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    assert {name: rows for name, rows in answers.items() if isinstance(rows, str)} == {}
    with open_dump(vmcore(series)) as dump:
        kernel = Kernel(dump)
        tasks = list(Tasks(kernel))
        processes = {task.pid: task.command for task in tasks if task.pid == task.tgid}
        modules = {module.name for module in kernel.modules}
        log = [record.text for record in kernel.log().records]

        booted = kernel.vmcoreinfo.crash_time
    assert len(kernel.virtual.paging.shifts) == (5 if series == "6.12" else 4)
    for name, pid, command in (
        ("pslist.PsList", "PID", "COMM"), ("psaux.PsAux", "PID", "COMM"), ("capabilities.Capabilities", "Pid", "Name"),
        ("pstree.PsTree", "PID", "COMM"), ("pidhashtable.PIDHashTable", "PID", "COMM"),
    ):  # fmt: skip
        assert {row[pid]: row[command] for row in answers[f"linux.{name}"]} == processes, name
    assert {row["Module Name"] for row in answers["linux.lsmod.Lsmod"]} == modules
    lines = [row["line"] for row in answers["linux.kmsg.Kmsg"]]
    assert lines[-20:] == b"\n".join(log).decode().splitlines()[-20:]
    assert {row["Name"] for row in answers["linux.iomem.IOMem"]} >= {"System RAM", "Kernel code", "Crash kernel"}
    assert "/run/disk" in {row["MOUNT_POINT"] for row in answers["linux.mountinfo.MountInfo"]}
    (boot,) = answers["linux.boottime.Boottime"]
    assert re.match(r"20\d\d-", boot["Boot Time"]) and booted
    assert {row["Name"] for row in answers["linux.ebpf.EBPF"]} == {"kdump_lab"}
    assert {row["Process Name"] for row in answers["linux.sockstat.Sockstat"]} == {"init"}


@pytest.mark.lab
def test_the_symbol_file_follows_its_schema(vmcore: Callable[[str], Path]) -> None:
    """All of it takes the validator half a minute: this is every fortieth of each table, and what they refer to."""
    import jsonschema
    import volatility3

    schema = json.loads((Path(volatility3.__file__).parent / "schemas" / f"schema-{isf.FORMAT}.json").read_text())
    with open_dump(vmcore("6.12")) as dump:
        whole = json.loads(isf.make(Kernel(dump), "1.0").text)
    named = {kind: set(whole[table]) for kind, table in (("struct", "user_types"), ("enum", "enums"))}
    missing = []

    def look(kind: dict[str, Any]) -> None:
        table = "struct" if kind["kind"] == "union" else kind["kind"]
        if table in named and kind["name"] not in named[table]:
            missing.append(kind["name"])
        if kind["kind"] == "base" and kind["name"] not in whole["base_types"]:
            missing.append(kind["name"])
        for part in ("subtype", "type"):
            if part in kind:
                look(kind[part])

    for each in whole["user_types"].values():
        for field in each["fields"].values():
            look(field["type"])
    for symbol in whole["symbols"].values():
        look(symbol["type"])
    assert missing == []
    for table in ("user_types", "enums", "symbols"):
        whole[table] = dict(list(whole[table].items())[::40])
    jsonschema.validate(whole, schema)
