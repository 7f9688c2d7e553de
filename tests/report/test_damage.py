"""Dumps that are cut off, incomplete, of kernels that do not describe themselves, and full of nonsense."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import CrashMaker
from tests.report.machines import MACHINES

from kdump.cli.main import main
from kdump.errors import KdumpError, NotPresentError
from kdump.kernel.columns import Columns
from kdump.kernel.kernel import Kernel
from kdump.memory import open_dump
from kdump.report import html, sections, text
from kdump.report import json as as_json
from kdump.report.build import build
from kdump.report.context import Context
from kdump.report.model import Report

pytestmark = pytest.mark.lab
_STATUS = 424  # struct disk_dump_header: status, whose bit 3 says that the dump is incomplete
_NONSENSE = (0, 1, 0xDEAD000000000100, (1 << 64) - 1, 0xFFFF888000000000, 0x6B6B6B6B6B6B6B6B)


@pytest.fixture(scope="module")
def vmcore(lab_crash: CrashMaker) -> Path:
    return lab_crash("6.1", **MACHINES["6.1"]).directory / "vmcore"


@pytest.fixture
def context(vmcore: Path) -> Iterator[Context]:
    with open_dump(vmcore) as dump:
        yield Context(Kernel(dump))


def whole(report: Report, context: Context) -> dict[str, Any]:
    """All three renderings, whatever is in the report; the JSON one is returned."""
    assert [section.name for section in report.sections] == list(sections.ALL)
    assert report.verdict.signature
    assert all(len(line) <= text.WIDTH for line in text.render(report))
    assert "".join(html.render(report, context.lines)).endswith("</html>")
    document: dict[str, Any] = json.loads("".join(as_json.render(report)))
    return document


@pytest.mark.parametrize("percent", [0.1, 10, 50, 90])
def test_cut_off(vmcore: Path, percent: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the front part of a dump the report gives what there is, says what there is not, and does not exit 0."""
    part = tmp_path / "part"
    with vmcore.open("rb") as file:
        part.write_bytes(file.read(int(vmcore.stat().st_size * percent / 100)))
    status = main(["report", str(part)])
    output = capsys.readouterr()
    if percent < 1:  # within the bitmaps
        assert (status, output.out) == (1, "") and "Traceback" not in output.err
        return
    assert status == 3
    assert "What could not be read" in output.out and "the dump is marked incomplete" in output.out
    # Where in the file the log lies is the memory's order, and that KASLR's.
    assert output.out.startswith("sysrq triggered crash") or "log" in output.out.split("Kernel", 1)[0]


def test_marked_incomplete(vmcore: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(vmcore.read_bytes())
    with copy.open("r+b") as file:
        file.seek(_STATUS)
        status = file.read(1)[0]
        file.seek(_STATUS)
        file.write(bytes([status | 8]))
    assert main(["report", "--json", str(copy)]) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["incomplete"] and report["verdict"]["kind"] == "sysrq"


@pytest.mark.parametrize("missing", ["types", "symbols"])
def test_a_kernel_that_does_not_describe_itself(
    context: Context, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without BTF, or without kallsyms too, there is the log, and the verdict out of it."""

    def none(_: Kernel) -> None:
        raise KdumpError(f"the kernel has no {missing}")

    monkeypatch.setattr(Kernel, missing, property(none))
    document = whole(build(context, "unknown"), context)
    assert (document["verdict"]["kind"], document["verdict"]["task"]["command"]) == ("sysrq", "init")
    assert document["sections"]["log"]["log"]
    assert "needs the kernel's symbols and types" in document["sections"]["tasks"]["error"]
    assert f"the kernel has no {missing}" in document["problems"]


def test_a_task_list_in_a_circle(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tenth process leads back to the third, and the fifth has no threads that can be read."""
    objects = context.objects
    leaders = [task for task in context.all_tasks if task.pid == task.tgid]
    kind = objects.types.struct("task_struct")
    node = [objects.address(task.struct) + kind.offset("tasks") for task in leaders]
    signal = objects.address(leaders[4].struct) + kind.offset("signal")
    patch(monkeypatch, objects, {node[9]: node[2], signal: 0xFFFF0BAD00000000})
    fresh = Context(context.kernel)
    document = whole(build(fresh, "circle"), fresh)
    assert len(document["sections"]["tasks"]["tasks"]) < 12
    notes = " ".join(document["sections"]["cpus"].get("notes", []) + document["problems"]) + json.dumps(document)
    assert "runs in a circle" in notes and "cannot be read" in notes
    assert document["verdict"]["kind"] == "sysrq"


def test_a_clock_that_the_kernel_found_unstable(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """No clock of a virtual machine drifts when asked to, so a flag is set in a real dump (CLOCK_SOURCE_UNSTABLE)."""
    objects = context.objects
    kind = objects.types.struct("clocksource")
    sources = objects.list(objects.symbols.address("clocksource_list"), "clocksource", "list")
    source = next(each for each in sources if objects.string(each.name) == "acpi_pm")
    place = objects.address(source) + kind.offset("flags")
    patch(monkeypatch, objects, {place: objects.unsigned(place) | 0x40})
    report = build(context, "clocks", only=["clocks"])
    (finding,) = [each.text for each in report.findings if each.section == "clocks"]
    assert re.fullmatch(r"the kernel found the clock source acpi_pm unstable; it uses (tsc|hpet)", finding)


def patch(monkeypatch: pytest.MonkeyPatch, objects: Any, words: dict[int, int]) -> None:
    intact, columns = objects.bytes, Columns.words

    def gathered(self: Columns, bases: Any, offsets: Any) -> Any:
        values, ok = columns(self, bases, offsets)
        places = np.asarray(bases, np.uint64)[:, None] + np.array(offsets, np.uint64)
        for address, word in words.items():
            values[places == np.uint64(address)] = word
        return values, ok

    def patched(address: int, size: int) -> memoryview:
        if size == 8 and address in words:
            return memoryview(words[address].to_bytes(8, "little"))
        found: memoryview = intact(address, size)
        return found

    monkeypatch.setattr(objects, "bytes", patched)
    monkeypatch.setattr(Columns, "words", gathered)


def damaged(context: Context, seed: int, change: Callable[[random.Random, int, bytearray], None]) -> None:
    """Every read of the kernel's structures goes through `change` at a rate that the seed decides."""
    chance = random.Random(seed)
    rate = 10 ** chance.uniform(-3, -1)
    objects = context.objects
    intact = objects.bytes

    def corrupted(address: int, size: int) -> memoryview:
        data = bytearray(intact(address, size))
        if data and chance.random() < rate:
            change(chance, address, data)
        return memoryview(bytes(data))

    objects.bytes = corrupted  # type: ignore[method-assign]


@pytest.mark.parametrize("seed", range(8))
def test_corrupted_memory_never_ends_a_report(context: Context, seed: int) -> None:
    """Some of what is read is replaced by nonsense: bad pointers, poison, flipped bytes."""

    def nonsense(chance: random.Random, _: int, data: bytearray) -> None:
        if len(data) == 8 and chance.random() < 0.5:
            data[:] = chance.choice(_NONSENSE).to_bytes(8, "little")
        else:
            data[chance.randrange(len(data))] = chance.randrange(256)

    damaged(context, seed, nonsense)
    whole(build(context, "corrupted"), context)


@pytest.mark.parametrize("seed", range(4))
def test_filtered_too_far(context: Context, seed: int) -> None:
    """Pages that a level 31 would keep are not there."""

    def absent(_: random.Random, address: int, data: bytearray) -> None:
        raise NotPresentError(address, len(data), virtual=True, why="filtered out")

    damaged(context, seed, absent)
    document = whole(build(context, "filtered"), context)
    assert "filtered out" in json.dumps(document)


def test_hostile_strings(context: Context) -> None:
    """Names that hold terminal escapes and HTML reach neither a terminal nor a page as such."""
    nasty = "\x1b[31m<img src=x onerror=alert(1)>"
    context.objects.string = lambda value, limit=0: nasty  # type: ignore[method-assign]
    report = build(context, "hostile")
    assert not [line for line in text.render(report) if "\x1b" in line]
    page = "".join(html.render(report, context.lines))
    assert "<img" not in page and "&lt;img" in page
    whole(report, context)
