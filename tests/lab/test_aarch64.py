"""Machines of aarch64, from the loader to the report: images made here, on whatever architecture this is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import CrashMaker

from kdump.arch.aarch64 import AARCH64
from kdump.capture.plan import CapturePlan
from kdump.kernel.kernel import Kernel
from kdump.kernel.tasks import Tasks
from kdump.lab.causes import CAUSES, find_cause
from kdump.lab.crash import Crash
from kdump.memory import open_dump

pytestmark = pytest.mark.lab
MIB = 1 << 20
QUIET = CapturePlan(report=False)  # the report is made here, where it takes less time


def firmware() -> Path:
    return next(path for path in map(Path, AARCH64.emulated.firmware) if path.exists())


def small(lab_crash: CrashMaker, series: str, cause: str = "sysrq", **options: Any) -> Crash:
    return lab_crash(series, cause, machine="aarch64", **{"work": 16 * MIB, "timeout": 400, "plan": QUIET, **options})


def check(crash: Crash, page_size: int, function: str = "sysrq_handle_crash") -> None:
    """The dump is complete, and says of the machine what the machine said of itself."""
    assert crash.manifest["status"] == "complete"
    assert all(stage["outcome"] == "done" for stage in crash.manifest["stages"])
    with open_dump(crash.directory / "vmcore") as dump:
        kernel = Kernel(dump)
        assert kernel.arch is AARCH64
        assert kernel.vmcoreinfo.page_size == page_size
        tasks = {str(task.pid): task.command for task in Tasks(kernel)}
    known = {pid: command[:15] for pid, command in crash.before["tasks"].items() if not command.startswith("kworker")}
    assert {pid: tasks[pid] for pid in known if pid in tasks} == {pid: known[pid] for pid in known if pid in tasks}
    assert "1" in tasks and len(known.keys() - tasks.keys()) <= 2  # a kernel thread may end before the crash


def test_a_machine_is_crashed_and_its_dump_read(lab_crash: CrashMaker) -> None:
    crash = small(lab_crash, "6.12", plan=CapturePlan(), crashkernel="192M", cpus=2)
    check(crash, 4096)
    report = (crash.directory / "report.txt").read_text()
    assert "sysrq triggered crash" in report and "sysrq_handle_crash" in report
    assert crash.image.size < 12 * MIB
    console = crash.console.read_text(errors="replace")
    assert "by the segments method" in console  # Debian's kernels have no other there


def test_pages_of_16_kib(lab_crash: CrashMaker) -> None:
    check(small(lab_crash, "6.12-16k", crashkernel="256M"), 16384)


def test_efi_and_acpi(lab_crash: CrashMaker) -> None:
    """The device tree holds nothing but what leads to EFI's tables there."""
    crash = small(lab_crash, "6.12", firmware=firmware(), cmdline="acpi=force", append="loglevel=7", cpus=2)
    check(crash, 4096)
    console = crash.console.read_text(errors="replace")
    assert console.count("ACPI: RSDP") == 2  # of the dying kernel, and of the capture kernel


@pytest.mark.matrix
@pytest.mark.parametrize("series", ["6.1", "6.12-generic", "6.12-rt", "newest"])
def test_other_kernels(lab_crash: CrashMaker, series: str) -> None:
    """6.1 does not show where its text is mapped; the newest is what backports has today."""
    crash = small(lab_crash, series, cpus=2)
    check(crash, 4096)


@pytest.mark.matrix
@pytest.mark.parametrize("cause", [cause.name for cause in CAUSES if cause.known_to("aarch64")])
@pytest.mark.parametrize(("series", "page_size"), [("6.12", 4096), ("6.12-16k", 16384), ("newest", 4096)])
def test_every_cause(lab_crash: CrashMaker, series: str, page_size: int, cause: str) -> None:
    crash = small(lab_crash, series, cause, cpus=2)
    check(crash, page_size)
    console = crash.console.read_text(errors="replace")
    assert re.search(find_cause(cause).panic, console)


@pytest.mark.matrix
def test_a_reservation_in_two_parts(lab_crash: CrashMaker) -> None:
    """The kernel takes segments in the high one; the other is for devices that reach no further."""
    crash = small(lab_crash, "6.12", memory=5 << 30, crashkernel="256M,high", work=MIB)
    check(crash, 4096)
    assert crash.before["iomem"].count("Crash kernel") == 2
