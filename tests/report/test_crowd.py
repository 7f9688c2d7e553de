"""A crowd of threads, processes and control groups on a real machine: counted right, and folded."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from tests import foreign
from tests.conftest import CrashMaker
from tests.test_machines import STORAGE

from kdump.lab.crash import Crash

pytestmark = pytest.mark.lab
THREADS, PROCESSES, GROUPS = STORAGE.options["crowd"]


@pytest.fixture(scope="module")
def crash(lab_crash: CrashMaker) -> Crash:
    return lab_crash(STORAGE.kernel, **STORAGE.options)


@pytest.fixture(scope="module")
def sections(crash: Crash) -> dict[str, Any]:
    output = foreign.run(sys.executable, "-m", "kdump", "report", "--json", crash.directory / "vmcore")
    found: dict[str, Any] = json.loads(output)["sections"]
    return found


def test_every_task_is_counted_once(sections: dict[str, Any], crash: Crash) -> None:
    counted = sections["tasks"]["counts"]["threads"]
    processes = len(crash.before["tasks"])  # of which each thread but the first is counted beside
    assert processes + THREADS - 10 < counted < processes + THREADS + 10
    assert sum(row["count"] for row in sections["tasks"]["tasks"]) == counted


def test_what_is_alike_is_one_line(sections: dict[str, Any]) -> None:
    rows = sections["tasks"]["tasks"]
    assert len(rows) < 100
    counts = sorted(row["count"] for row in rows if row["command"] == "init")
    assert counts[-3:] == [PROCESSES, THREADS - 2500, 2500]
    equal = next(row for row in rows if row["count"] == PROCESSES and row["command"] == "init")
    assert equal["rss"] > PROCESSES << 20  # of all of them
    workers = [row for row in rows if row["command"].startswith("[kworker")]
    assert any(row["count"] > 3 and row["command"].endswith("…]") for row in workers)


def test_timers_of_those_who_sleep(sections: dict[str, Any]) -> None:
    timers = [row for row in sections["timers"]["timers"] if row["function"] == "hrtimer_wakeup"]
    assert THREADS - 2500 <= sum(row["timers"] for row in timers) < THREADS - 2500 + 20
    assert all(0 < row["next"] <= 3600 for row in timers)


def test_control_groups(sections: dict[str, Any]) -> None:
    found = sections["cgroups"]
    assert found["summary"].startswith(f"{GROUPS + 2 + 1} groups")  # two slices and the root
    paths = [row["path"] for row in found["groups"]]
    assert "/" in paths and any(path.startswith("/slice-") for path in paths)


def test_stacks_of_the_crowd_are_in_vmalloc(sections: dict[str, Any]) -> None:
    areas = {row["caller"]: row["areas"] for row in sections["owners"]["vmalloc"]}
    assert areas["kernel_clone"] > THREADS + PROCESSES
