from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from kdump.capture.console import Console
from kdump.capture.stages import DEGRADED, DONE, FAILED, Stages, install_alarm
from kdump.errors import KdumpError, describe


@pytest.fixture
def console() -> Iterator[Console]:
    null = os.open(os.devnull, os.O_WRONLY)
    yield Console(null)
    os.close(null)


def test_a_failure_is_recorded_and_the_next_stage_runs(console: Console) -> None:
    stages = Stages(console)

    def broken() -> None:
        raise KdumpError("the disk is gone", why="somebody took it")

    assert stages.run("first", 5, broken) is None
    assert stages.run("second", 5, lambda: 7) == 7
    assert [(r.name, r.outcome, r.error) for r in stages.records] == [
        ("first", FAILED, "the disk is gone: somebody took it"),
        ("second", DONE, ""),
    ]
    assert "first failed: the disk is gone" in console.lines[0]


def test_a_hang_ends_by_its_deadline(console: Console) -> None:
    stages = Stages(console)
    install_alarm(stages)
    began = time.monotonic()
    stages.run("slow", 0.2, lambda: time.sleep(30))
    assert time.monotonic() - began < 5
    assert stages.records[0].error == "out of time"


def test_progress_renews_the_deadline(console: Console) -> None:
    stages = Stages(console)
    install_alarm(stages)

    def works() -> str:
        stages.renew(30)
        time.sleep(0.4)
        return "done"

    assert stages.run("slow", 0.2, works) == "done"


def test_the_supervisor_hears_of_each_stage(console: Console) -> None:
    reading, writing = os.pipe()
    Stages(console, writing).run("dmesg", 5, lambda: None)
    os.close(writing)
    lines = os.read(reading, 1000).decode().splitlines()
    os.close(reading)
    assert [line.rpartition(" ")[0] for line in lines] == ["dmesg", "between stages"]
    assert float(lines[0].rpartition(" ")[2]) == pytest.approx(5, abs=1)


def test_injected_faults_and_degradation(console: Console) -> None:
    stages = Stages(console, inject={"dmesg": "raise"})
    assert stages.run("dmesg", 5, lambda: "x") is None
    assert "injected" in stages.records[0].error
    stages.run("vmcore", 5, lambda: stages.degrade("2 pages unreadable"))
    assert (stages.records[1].outcome, stages.records[1].error) == (DEGRADED, "2 pages unreadable")


def test_foreign_exceptions_name_their_place() -> None:
    try:
        list(range(0)).pop()
    except IndexError as error:
        assert describe(error).startswith("IndexError: pop from empty list (test_stages.py:")
    assert describe(OSError(28, "No space left on device", "/x")) == "/x: No space left on device"


def test_an_alarm_that_is_heard_late_breaks_nothing(console: Console) -> None:
    """As from a system call that cannot be interrupted and then fails: the alarm is heard after the failure."""
    # In a child, which has one thread: a second one, left over by another test, would hear the alarm at once.
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _hear_an_alarm_late(console)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def _hear_an_alarm_late(console: Console) -> None:
    stages = Stages(console)
    install_alarm(stages)

    def fails_late() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(0.2)
        raise OSError(5, "Input/output error")

    real = console.say

    def hears_now(text: str) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        real(text)

    console.say = hears_now  # type: ignore[method-assign]
    assert stages.run("late", 0.1, fails_late) is None
    assert stages.records[0].error == "Input/output error"
    assert stages.run("next", 5, lambda: 7) == 7
