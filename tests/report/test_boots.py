"""A console's log goes on with the next boot: what the report says of the machine is of the boot with the crash."""

from __future__ import annotations

import pytest

from kdump.report import build
from kdump.report.context import Context
from kdump.report.logtext import from_text
from kdump.report.model import Facts, Report, Text

_BEFORE = """\
[    0.000000] Linux version 6.1.0-9-amd64 (builder@earlier) #1 SMP
[    0.000000] Command line: root=/dev/vda1
[    0.000000] DMI: Earlier Board
[   77.000000] reboot: Restarting system
"""
_CRASHED = """\
[    0.000000] Linux version 6.12.8-amd64 (builder@own) #2 SMP
[    0.000000] Command line: root=/dev/vda2 crashkernel=256M
[    0.000000] DMI: Own Board
[   50.000000] mce: [Hardware Error]: CPU 1: Machine Check Exception: 5 Bank 4: be00000000800400
[   50.000001] Kernel panic - not syncing: Fatal machine check
"""
_CAPTURE = """\
[    0.000000] Linux version 6.12.8-capture (builder@capture) #3 SMP
[    0.000000] Command line: elfcorehdr=0x2d000000
[    0.000000] DMI: Capture Board
""" + "".join(f"[    1.{number:06}] kdump: {number} %\n" for number in range(100))


def _report(text: str) -> Report:
    return build.build(Context(None, from_text(text)), "log", only=["system", "log"])


def _facts(report: Report) -> dict[str, object]:
    (block,) = report.sections[0].blocks
    assert isinstance(block, Facts)
    return {fact.key: fact.value for fact in block.facts}


@pytest.mark.parametrize("before", ["", _BEFORE], ids=["first", "second"])
@pytest.mark.parametrize("after", ["", _CAPTURE], ids=["last", "captured"])
def test_the_machine_is_described_by_the_boot_that_crashed(before: str, after: str) -> None:
    report = _report(before + _CRASHED + after)
    assert report.kernel == "6.12.8-amd64"  # which the machine check's own lines do not name
    assert _facts(report) == {
        "version": "6.12.8-amd64 (builder@own) #2 SMP",
        "command_line": "root=/dev/vda2 crashkernel=256M",
        "hardware": "Own Board",
    }


def test_the_end_of_the_log_is_the_end_of_that_boot() -> None:
    (block,) = _report(_BEFORE + _CRASHED + _CAPTURE).sections[1].blocks
    assert isinstance(block, Text)
    assert [line.split("] ", 1)[1] for line in block.lines] == [
        line.split("] ", 1)[1] for line in _CRASHED.splitlines()
    ]
    assert block.title == "of the boot in question"


def test_what_a_later_boot_says_is_not_said_of_a_boot_without_a_banner() -> None:
    report = _report("\n".join(_CRASHED.splitlines()[3:]) + "\n" + _CAPTURE)
    assert report.kernel == ""
    assert _facts(report) == {}
