"""The whole path on real kernels: every cause, 4 and 5 levels of page tables, KASLR on and off, 1 and 2 CPUs.

What each machine leaves is opened in tools we did not write. The machines of `ROWS` cover every pair of these; the
other 76 of all 88 are run by `pytest -m product` (an hour on two CPUs).
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from tests import foreign
from tests.conftest import SERIES, CrashMaker

from kdump.lab.causes import CAUSES, find_cause
from kdump.lab.crash import Crash
from kdump.report.frames import normalise

pytestmark = pytest.mark.lab


class Row(NamedTuple):
    series: str
    cause: str
    cpus: int
    levels: int
    kaslr: bool

    def crash(self, lab_crash: CrashMaker) -> Crash:
        return lab_crash(
            self.series,
            self.cause,
            cpus=self.cpus,
            cpu="max" if self.levels == 5 else "max,la57=off",
            cmdline="" if self.kaslr else "nokaslr",
            memory=768 << 20,
        )


ROWS = [
    Row("6.1", "sysrq", 1, 5, True),
    Row("6.12", "sysrq", 2, 4, False),
    Row("6.1", "nmi", 2, 4, True),
    Row("6.12", "nmi", 1, 5, False),
    Row("6.1", "oom", 1, 4, False),
    Row("6.12", "oom", 2, 5, True),
    Row("6.1", "init", 2, 5, False),
    Row("6.12", "init", 1, 4, True),
    Row("6.1", "cpu", 2, 4, True),
    Row("6.12", "cpu", 2, 5, False),
    Row("6.1", "hung", 1, 5, False),
    Row("6.12", "hung", 2, 4, True),
]


PRODUCT = [
    Row(*values)
    for values in itertools.product(SERIES, [cause.name for cause in CAUSES], (1, 2), (4, 5), (True, False))
    if find_cause(values[1]).cpus <= values[2]
]
MACHINES = [
    pytest.param(row, id="-".join(map(str, row)), marks=() if row in ROWS else pytest.mark.product) for row in PRODUCT
]


@pytest.fixture(params=MACHINES)
def row(request: pytest.FixtureRequest) -> Row:
    found: Row = request.param
    return found


def kdump(*arguments: str | Path) -> str:
    return foreign.run(sys.executable, "-m", "kdump", *arguments)


def test_rows_cover_every_pair() -> None:
    fields = range(len(Row._fields))
    for first in fields:
        for second in fields:
            if first >= second:
                continue
            assert {(row[first], row[second]) for row in ROWS} == {(row[first], row[second]) for row in PRODUCT}
    assert len(PRODUCT) == 88


def test_the_crash_lands_and_every_tool_opens_it(
    row: Row, lab_crash: CrashMaker, debug_vmlinux: Callable[[str], Path], tmp_path: Path
) -> None:
    crash = row.crash(lab_crash)
    cause = find_cause(row.cause)
    vmcore = crash.directory / "vmcore"

    assert crash.manifest["status"] == "complete"
    assert crash.manifest["capture"]["kernel_hashes"]
    assert {path.name for path in crash.directory.iterdir()} >= {"vmcore", "vmcore-dmesg.txt", "manifest.json"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in crash.directory.iterdir())
    kdump("verify", crash.directory)

    report = json.loads(kdump("report", "--json", vmcore))
    seen = foreign.ask_crash(debug_vmlinux(row.series), vmcore, row.series)
    assert re.search(cause.panic, seen.panic), seen.panic
    verdict = report["verdict"]
    assert re.search(cause.panic, verdict["panic"])
    named = verdict["task"]["pid"], verdict["task"]["command"]
    if row.cause == "hung":  # the verdict is about the task that hangs, not the watchdog that panicked
        assert f"INFO: task {named[1]}:{named[0]} blocked for more than" in kdump("dmesg", vmcore)
    else:
        assert named == (seen.pid, seen.command)
    assert report["kernel"] == seen.release
    # A hung task's verdict is about its own stack; who panicked then is the watchdog, on a CPU.
    stacks = [verdict["frames"], *(stack["frames"] for stack in report["sections"]["cpus"]["stacks"])]
    assert cause.function in {normalise(frame.get("function", "")) for frames in stacks for frame in frames}
    if row.cause == "hung":  # why it hung, from the semaphore that a reader waits for to the file system that has it
        assert re.search(
            r"It has waited for [\d.]+ s for the ext4 file system at /run/disk, frozen for", verdict["explanation"]
        )
    if row.cause == "cpu":
        assert verdict["task"]["cpu"] != 0

    ours = kdump("dmesg", vmcore)
    assert foreign.log_messages(ours) == foreign.log_messages((crash.directory / "vmcore-dmesg.txt").read_text())
    theirs = foreign.log_of_makedumpfile(vmcore, tmp_path)
    assert foreign.log_messages(ours) == foreign.log_messages(theirs)


def test_drgn_opens_it(row: Row, lab_crash: CrashMaker) -> None:
    crash = row.crash(lab_crash)
    assert foreign.release_by_drgn(crash.directory / "vmcore") == crash.before["uname"][2]


def test_one_flipped_byte_is_found(lab_crash: CrashMaker, tmp_path: Path) -> None:
    crash = ROWS[0].crash(lab_crash)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", crash.directory, copy], check=True)
    vmcore = copy / "vmcore"
    with vmcore.open("r+b") as file:
        file.seek(vmcore.stat().st_size * 2 // 3)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0x10]))
    result = subprocess.run(
        [sys.executable, "-m", "kdump", "verify", str(copy)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "vmcore" in result.stderr + result.stdout
