"""A real kernel read from inside (/proc/kcore), from outside (QEMU's dumps), and as makedumpfile writes it."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests import foreign
from tests.memory.conftest import MEMORY, Live, Maker

from kdump.kernel.kernel import Kernel
from kdump.kernel.printk import format_record
from kdump.memory import open_dump
from kdump.memory.protocol import Dump
from kdump.report.build import build
from kdump.report.context import Context

MACHINES = {"6.1 4-level": ("6.1", "max,la57=off", True), "6.12 5-level": ("6.12", "max", False)}

pytestmark = pytest.mark.lab


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest, live: Maker) -> Live:
    series, cpu, vmcoreinfo = MACHINES[request.param]
    return live(series, cpu, vmcoreinfo=vmcoreinfo)


def test_a_live_kernel_reads_itself(machine: Live) -> None:
    facts = machine.facts
    assert facts["format"] == "kcore"
    assert set(facts["release"]) == {machine.tree.release}
    count, same, newer, lost = facts["log"]
    assert count > 100
    assert same
    assert newer < 5
    assert lost == []
    assert facts["vmcoreinfo found"]
    assert facts["manifest live"]
    assert facts["report"]["live"]
    assert facts["report"]["title"] == "a running kernel"
    assert "Live       taken while the kernel was running" in facts["report"]["text"]
    assert facts["report"]["problems"] == []
    total = int(re.search(r"MemTotal: +(\d+) kB", facts["meminfo"])[1]) << 10  # type: ignore[index]
    assert total < facts["memory"] < MEMORY - (64 << 20)
    start, end = re.search(r"([0-9a-f]+)-([0-9a-f]+) : Crash kernel", facts["iomem"]).groups()  # type: ignore[union-attr]
    assert all(high <= int(start, 16) or low > int(end, 16) for low, high in facts["ranges"])


def log_text(dump: Dump) -> str:
    log = Kernel(dump).log()
    assert log.lost == []
    return "".join(f"{line}\n" for record in log.records for line in format_record(record))


def assert_same_pages(source: Dump, other: Dump) -> int:
    """Every page that `other` holds equals the source's; returns how many."""
    size, count = source.memory.page_size, 0
    for each in other.memory.held():
        for start in range(each.start, each.end, 1 << 20):
            length = min(1 << 20, each.end - start)
            theirs = np.frombuffer(other.memory.view(start, length), np.uint64)
            assert np.array_equal(np.frombuffer(source.memory.view(start, length), np.uint64), theirs), hex(start)
            count += length // size
    return count


def test_qemus_dumps_are_one_memory(machine: Live) -> None:
    release = machine.tree.release
    with open_dump(machine.dumps["elf"]) as source:
        text = log_text(source)
        assert build(Context(Kernel(source)), "guest", short=True).live
        assert f"Linux version {release} " in text
        whole = sum(each.size for each in source.memory.ranges) // source.memory.page_size
        for kind, path in machine.dumps.items():
            with open_dump(path) as dump:
                assert dump.format == ("elf" if kind.startswith("elf") else "flattened+kdump")
                assert not dump.incomplete
                assert Kernel(dump).vmcoreinfo.release == release
                assert log_text(dump) == text
                pages = assert_same_pages(source, dump)
                assert pages == whole if kind != "elf-paging" else pages > 0.9 * whole


MAKEDUMPFILE = {
    "zlib": ["-c"], "lzo": ["-l"], "plain": [], "elf": ["-E"], "level 31": ["-c", "-d", "31"],
    "elf 31": ["-E", "-d", "31"],
}  # fmt: skip


def makedumpfile(arguments: Sequence[str | Path], output: Path | None = None) -> None:
    with output.open("wb") if output else open("/dev/null", "wb") as stdout:
        subprocess.run(["makedumpfile", *arguments], check=True, stdout=stdout, stderr=subprocess.DEVNULL, timeout=300)


@pytest.fixture(scope="session")
def plain(live: Maker) -> Path:
    """QEMU's ELF dump with its headers where makedumpfile looks for them: it takes e_phoff to be 64."""
    path = live(*MACHINES["6.1 4-level"][:2], vmcoreinfo=True).dumps["elf"]
    copy = path.with_name("plain")
    shutil.copyfile(path, copy)
    with copy.open("r+b") as file:
        header = bytearray(file.read(64))
        (headers_at,), (count,) = struct.unpack_from("<Q", header, 32), struct.unpack_from("<H", header, 56)
        file.seek(headers_at)
        headers = file.read(56 * count)
        struct.pack_into("<QQ", header, 32, 64, 0)
        struct.pack_into("<HHHHHH", header, 52, 64, 56, count, 0, 0, 0)
        file.seek(0)
        file.write(header + headers)
    return copy


FORMS = [
    *(("file", kind) for kind in MAKEDUMPFILE), ("flattened", "lzo"), ("flattened", "level 31"),
    ("flattened", "elf 31"), ("split", "zlib"), ("split", "level 31"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "kind"), FORMS)
def test_what_makedumpfile_writes_is_read(plain: Path, tmp_path: Path, form: str, kind: str) -> None:
    outputs = [tmp_path / f"part{number}" for number in range(3 if form == "split" else 1)]
    if form == "flattened":
        makedumpfile([*MAKEDUMPFILE[kind], "-F", plain], outputs[0])
    else:
        makedumpfile([*MAKEDUMPFILE[kind], *(["--split"] if form == "split" else []), plain, *outputs])
    with open_dump(plain) as source, open_dump(outputs) as dump:
        assert dump.format == ("flattened+" if form == "flattened" else "") + ("elf" if "elf" in kind else "kdump")
        assert not dump.incomplete
        assert dump.vmcoreinfo == source.vmcoreinfo
        pages = assert_same_pages(source, dump)
        # makedumpfile leaves out what has no struct page: the video memory and firmware that QEMU dumps too.
        ram = sum(each.size for each in source.memory.ranges if each.end <= MEMORY) // 4096
        assert pages >= ram if "31" not in kind else 1000 < pages < ram / 2
        ours = foreign.log_messages(log_text(dump))
    if form == "file":
        theirs = foreign.log_messages(foreign.log_of_makedumpfile(outputs[0], tmp_path))
        assert [line.strip() for line in ours] == [line.strip() for line in theirs]
