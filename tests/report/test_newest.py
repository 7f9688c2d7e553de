"""The report on the newest kernel that Debian's backports have: what a kernel moves breaks this first."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest
from tests import foreign
from tests.conftest import CrashMaker
from tests.report import asked
from tests.test_machines import NEWEST

from kdump.bench.variables import typed
from kdump.kernel.kernel import Kernel
from kdump.lab.crash import Crash
from kdump.memory import open_dump

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def crash(lab_crash: CrashMaker) -> Crash:
    return lab_crash(NEWEST.kernel, **NEWEST.options)


@pytest.fixture(scope="module")
def report(crash: Crash) -> dict[str, Any]:
    output = foreign.run(sys.executable, "-m", "kdump", "report", "--json", crash.directory / "vmcore")
    found: dict[str, Any] = json.loads(output)
    return found


def test_every_section_is_read(report: dict[str, Any]) -> None:
    sections = report["sections"]
    assert {name: section["error"] for name, section in sections.items() if "error" in section} == {}
    notes = [note for section in sections.values() for note in section.get("notes", [])]
    assert [note for note in notes if "page" not in note] == []  # nobody built a kernel with CONFIG_PAGE_OWNER
    assert report["problems"] == []


def test_stacks_reach_their_beginning(report: dict[str, Any]) -> None:
    """Unwind tables number the registers as they like: a wrong number ends a stack after two frames."""
    stacks = report["sections"]["cpus"]["stacks"] + report["sections"]["blocked"]["blocked"]
    for stack in stacks:
        assert "note" not in stack, stack
        assert len(stack["frames"]) > 4
        last = stack["frames"][-1]["function"]
        assert re.match(r"entry_SYSCALL|ret_from_fork|common_startup|secondary_startup|start_", last), last


def test_nothing_false_about_timers(report: dict[str, Any]) -> None:
    timers = report["sections"]["timers"]["timers"]
    assert {row["kind"] for row in timers} == {"wheel", "high resolution"}
    assert min(row["next"] for row in timers) > -60  # the panicking CPU may have been late, but not by weeks
    assert not [finding["text"] for finding in report["findings"] if "overdue" in finding["text"]]


def test_the_clock_in_use_is_the_one_that_the_log_names(report: dict[str, Any], crash: Crash) -> None:
    log = (crash.directory / "vmcore-dmesg.txt").read_text()
    used = [row["source"] for row in report["sections"]["clocks"]["sources"] if row["used"]]
    assert used == re.findall(r"clocksource: Switched to clocksource (\S+)", log)[-1:]


def test_figures_agree_with_those_of_the_machine(report: dict[str, Any], crash: Crash) -> None:
    portrait = {
        name: int(value) << 10
        for name, value in re.findall(r"^(\w+): +(\d+) kB", crash.before["meminfo"], re.MULTILINE)
    }
    figures = report["sections"]["memory"]["meminfo"]
    assert figures["MemTotal"] == portrait["MemTotal"]
    for name in ("Slab", "VmallocUsed", "Percpu", "AnonPages", "PageTables", "KernelStack"):
        assert abs(figures[name] - portrait[name]) <= (4 << 20) + portrait[name] // 10, name
    caches = report["sections"]["memory"]["slab"]
    assert len(caches) > 10
    assert portrait["Slab"] // 4 < sum(row["size"] for row in caches) < portrait["Slab"] * 1.2
    ticks = next(line.split() for line in crash.before["interrupts"].splitlines() if line.lstrip().startswith("LOC:"))
    local = {row["name"]: row["count"] for row in report["sections"]["interrupts"]["local"]}
    assert local["apic_timer"] >= int(ticks[1]) > 100
    tasks = {int(pid) for pid in crash.before["tasks"]}
    counted = report["sections"]["tasks"]["counts"]["threads"]
    assert len(tasks) - 10 < counted < len(tasks) + 10


def test_the_reason_of_the_hang(report: dict[str, Any]) -> None:
    reason = r"It has waited for [\d.]+ s for the ext4 file system at /run/disk, frozen for [\d.]+ s or longer\.$"
    assert re.search(reason, report["verdict"]["explanation"]), report["verdict"]["explanation"]


def test_variables_have_types(crash: Crash) -> None:
    """7.x links variables as if they were code: a symbol's letter alone would call all of them functions."""
    vmcore = crash.directory / "vmcore"
    with open_dump(vmcore) as dump:
        kernel = Kernel(dump)
        names = {each.symbol.name for each in typed(kernel, kernel.symbols)}
        assert {"init_task", "init_pid_ns", "jiffies", "chrdevs", "runqueues"} <= names and len(names) > 12_000
        assert asked.without_type(vmcore, kernel) == []
