"""`kdump export`: what it writes, held against the tools that read it."""

from __future__ import annotations

import json
import os
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
from tests import foreign
from tests.conftest import Once
from tests.dump import journal_guest
from tests.dump.conftest import MEMORY, TRACED

from kdump.bench import files, images, isf
from kdump.cli.main import main
from kdump.kernel.ftrace import Tracer
from kdump.kernel.kernel import Kernel
from kdump.kernel.tasks import Tasks
from kdump.memory import open_dump
from kdump.memory.protocol import Dump, Range

PAGE = 4096
PLUGINS = (
    "pslist.PsList", "pstree.PsTree", "psaux.PsAux", "pidhashtable.PIDHashTable", "capabilities.Capabilities",
    "lsmod.Lsmod", "kmsg.Kmsg", "iomem.IOMem", "mountinfo.MountInfo", "boottime.Boottime", "sockstat.Sockstat",
    "ebpf.EBPF", "kthreads.Kthreads", "lsof.Lsof",
)  # fmt: skip
# Of a kernel that Volatility 2.28 does not know yet.
FAILING = {"newest": {"linux.lsmod.Lsmod", "linux.boottime.Boottime"}}
VOLATILITY = (
    pytest.param("6.12", 5, "elf", id="6.12-5-levels-elf"),
    pytest.param("6.1", 4, "lime", id="6.1-4-levels-lime", marks=pytest.mark.matrix),
    pytest.param("6.1", 4, "elf", id="6.1-4-levels-elf", marks=pytest.mark.matrix),
    pytest.param("newest", 5, "lime", id="newest-5-levels-lime", marks=pytest.mark.matrix),
    pytest.param("newest", 5, "elf", id="newest-5-levels-elf", marks=pytest.mark.matrix),
)
_DEVICES = (" SUBSYSTEM=", " DEVICE=")  # what Volatility shows of a record besides its text


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
    for path in ("etc/passwd", "/etc/../root"):
        assert main(["export", "vmcore", "--files", path, "-o", "directory"]) == 2
    assert "does not end in .json" in capsys.readouterr().err


@pytest.fixture
def symbols(dump_of: Callable[[str], Path], once: Once) -> Callable[[str], Path]:
    """A directory with the symbol file of a kernel."""

    def make(series: str, directory: Path) -> Path:
        assert main(["export", str(dump_of(series)), "--isf", "-o", str(directory / "linux.json")]) == 0
        return directory

    return lambda series: once(f"isf {series}", lambda directory: make(series, directory))


@pytest.mark.lab
@pytest.mark.parametrize(("series", "levels", "image"), VOLATILITY)
def test_volatility_sees_what_we_see(
    series: str, levels: int, image: str, dump_of: Callable[[str], Path], symbols: Callable[[str], Path], tmp_path: Path
) -> None:
    vmcore = dump_of(series)
    assert main(["export", str(vmcore), f"--{image}", "-o", str(tmp_path / image)]) == 0
    assert (tmp_path / image).stat().st_mode & 0o777 == 0o600
    names = [f"linux.{name}" for name in PLUGINS]
    program = [sys.executable, "-m", "tests.bench.volatility_plugins"]
    places = [tmp_path / image, symbols(series), tmp_path]
    done = subprocess.run([*program, *map(str, places), *names], capture_output=True, text=True, check=True)
    answers: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    failed = {name: rows for name, rows in answers.items() if isinstance(rows, str)}
    assert failed.keys() == FAILING.get(series, set()), failed
    with open_dump(vmcore) as dump:
        kernel = Kernel(dump)
        tasks = list(Tasks(kernel))
        processes = {task.pid: task.command for task in tasks if task.pid == task.tgid}
        threads = {task.pid for task in tasks if task.kernel_thread}
        modules = {module.name for module in kernel.modules}
        log = [record.text for record in kernel.log().records]
        # Why some fail: what they ask for is not in the kernel.
        known = kernel.types.struct("taint_flag").has("module"), kernel.symbols.get("tk_core") is not None
    assert len(kernel.virtual.paging.shifts) == levels
    for name, pid, command in (
        ("pslist.PsList", "PID", "COMM"), ("psaux.PsAux", "PID", "COMM"), ("capabilities.Capabilities", "Pid", "Name"),
        ("pstree.PsTree", "PID", "COMM"), ("pidhashtable.PIDHashTable", "PID", "COMM"),
    ):  # fmt: skip
        assert {row[pid]: row[command] for row in answers[f"linux.{name}"]} == processes, name
    lines = [row["line"] for row in answers["linux.kmsg.Kmsg"] if not row["line"].startswith(_DEVICES)]
    text = b"\n".join(log).decode().splitlines()
    assert lines in (text, text[:-1])  # Volatility 2.28 leaves out the last record of some logs
    assert {row["Name"] for row in answers["linux.iomem.IOMem"]} >= {"System RAM", "Kernel code", "Crash kernel"}
    assert "/run/disk" in {row["MOUNT_POINT"] for row in answers["linux.mountinfo.MountInfo"]}
    if failed:
        assert known == (False, False)
    else:
        assert {row["Module Name"] for row in answers["linux.lsmod.Lsmod"]} == modules
        (boot,) = answers["linux.boottime.Boottime"]
        assert re.match(r"20\d\d-", boot["Boot Time"])
    assert {row["Name"] for row in answers["linux.ebpf.EBPF"]} == {"kdump_lab"}
    assert {row["Process Name"] for row in answers["linux.sockstat.Sockstat"]} == {"init"}
    assert threads > {row["TID"] for row in answers["linux.kthreads.Kthreads"]} > {3}
    opened = {(row["PID"], row["Process"]) for row in answers["linux.lsof.Lsof"]}
    assert {(1, "init")} <= opened <= set(processes.items())


@pytest.mark.lab
def test_the_symbol_file_follows_its_schema(symbols: Callable[[str], Path]) -> None:
    """All of it takes the validator half a minute: some of each table. Nothing refers to a type that is not there."""
    import jsonschema
    import volatility3

    schema = json.loads((Path(volatility3.__file__).parent / "schemas" / f"schema-{isf.FORMAT}.json").read_text())
    whole = json.loads((symbols("6.12") / "linux.json").read_text())
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
        whole[table] = dict(list(whole[table].items())[::400])
    jsonschema.validate(whole, schema)


@pytest.mark.lab
def test_gdb_opens_a_process(whole: Callable[[str], Path], tmp_path: Path) -> None:
    core = tmp_path / "core"
    assert main(["export", str(whole("6.12")), "--gcore", "1", "-o", str(core)]) == 0
    with core.open("rb") as file:
        loads = [each for each in ELFFile(file).iter_segments() if each["p_type"] == "PT_LOAD"]
        work = next(each for each in loads if each["p_filesz"] >= MEMORY // 6)["p_vaddr"]
    # What lab/guest.py wrote to its anonymous memory: each MiB begins with its place.
    first = next(at for at in range(work, work + (2 << 20), 4096) if _word(core, at) == 1 << 20)
    said = foreign.run(
        "gdb", "-nx", "-q", "-batch", "-ex", "info auxv", "-ex", "x/i $rip-2", "-ex", f"x/2gx {first:#x}",
        "-ex", f"x/s {first + 8:#x}", "-ex", "info proc mappings", "-ex", "info threads", "-c", core,
    )  # fmt: skip
    assert re.search(r'AT_EXECFN .* "/init"$', said, re.M)
    assert re.search(r"^ +0x[0-9a-f]+:\tsyscall", said, re.M)
    assert re.search(rf"^{first:#x}:\t0x0*100000\t", said, re.M)
    assert re.search(r"^\* 1 +LWP 1 ", said, re.M) and "/usr/lib/libc.so.6" in said


def _word(core: Path, address: int) -> int:
    with core.open("rb") as file:
        for each in ELFFile(file).iter_segments():
            if each["p_vaddr"] <= address < each["p_vaddr"] + each["p_filesz"]:
                file.seek(each["p_offset"] + address - each["p_vaddr"])
                return int.from_bytes(file.read(8), "little")
    return -1


@pytest.mark.lab
def test_what_has_no_core_says_why(
    dump_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = str(dump_of("6.12"))
    for pid, said in (
        ("2", "process 2 (kthreadd) has no memory of its own: it is a kernel thread"),
        ("4000", "no process 4000"),
    ):
        assert main(["export", dump, "--gcore", pid, "-o", str(tmp_path / "core")]) == 1
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.lab
def test_trace_cmd_reads_every_event(whole: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "trace.dat"
    assert main(["export", str(whole("6.12")), "--trace-dat", "-o", str(path)]) == 0
    lines = foreign.run("trace-cmd", "report", "-t", path).splitlines()
    theirs = [
        (int(found[1]), int(found[2]), int(found[3]) * 10**9 + int(found[4]), found[5], found[6])
        for line in lines
        if (found := re.match(r".*-(\d+) +\[(\d+)\] +(\d+)\.(\d{9}): (\w+): +(.*)$", line))
    ]
    assert len(theirs) == len(lines) - 1 > 1000  # the first tells how many CPUs there are
    with open_dump(whole("6.12")) as dump:
        ours = Tracer(Kernel(dump).objects).last(1 << 20)
    assert [each[:4] for each in theirs] == [(each.pid, each.cpu, each.nanoseconds, each.name) for each in ours]
    assert {each[3] for each in theirs} == {name.partition(":")[2] for name in TRACED.split(",")}
    assert any(re.fullmatch(r"\S+:\d+ \[\d+\] \S+ ==> init:1 \[\d+\]", each[4]) for each in theirs)


@pytest.mark.lab
def test_files_come_out_of_the_page_cache(whole: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["export", str(whole("6.12")), "--files", "/run/disk", "-o", str(out)]
    assert main(command) == 0
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {"run/disk/page-cache", "run/disk/before-panic.json"} <= written
    assert all(path.stat().st_mode & 0o077 == 0 for path in [out, *out.rglob("*")])
    assert json.loads((out / "run/disk/before-panic.json").read_text())
    content = (out / "run/disk/page-cache").read_bytes()
    assert len(content) == MEMORY // 6
    starts = {at: int.from_bytes(content[at : at + 8], "little") for at in range(0, len(content), 1 << 20)}
    assert all(value in (0, at) for at, value in starts.items())  # some pages may have left the page cache
    assert sum(value == at for at, value in starts.items()) > len(starts) // 2
    assert main(command) == 1  # it is there


@pytest.mark.lab
def test_journalctl_reads_the_journal(whole: Callable[[str], Path], tmp_path: Path) -> None:
    """journald still had the file open, in the memory of a machine without a disk for it: every message is there."""
    out = tmp_path / "out"
    assert main(["export", str(whole("6.12")), "--journal", "-o", str(out)]) == 0
    (directory,) = out.glob("run/log/journal/*")  # journald begins a new file when one is as large as it may be
    fields = "--output-fields=MESSAGE,KDUMP_NUMBER,_TRANSPORT"
    said = foreign.run("journalctl", "--directory", directory, "--no-pager", "--all", "-o", "json", fields)
    entries = [json.loads(line) for line in said.splitlines()]
    ours = {int(each["KDUMP_NUMBER"]): each["MESSAGE"] for each in entries if "KDUMP_NUMBER" in each}
    assert ours == {number: journal_guest.message(number).decode() for number in range(journal_guest.MESSAGES)}
    assert any(each["_TRANSPORT"] == "kernel" and "Linux version" in each["MESSAGE"] for each in entries)
    foreign.run("journalctl", "--directory", directory, "--verify")


def test_nothing_is_written_beside_the_directory(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    directory = os.open(tmp_path / "out", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in ("/../../x", "/a/../b", "/\x1b[31m/\u202e", "/" + "\u00e9" * 300, "//.. ", "/c/."):
            path, descriptor = files._create(name, directory)
            os.close(descriptor)
            assert (tmp_path / "out" / path).is_file()
    finally:
        os.close(directory)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert all(part.name.isprintable() for part in (tmp_path / "out").rglob("*"))
