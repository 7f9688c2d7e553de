"""Machines started by UEFI firmware, without Secure Boot: the capture kernel, unpacked, finds EFI as it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.conftest import SERIES, CrashMaker

from kdump.capture.plan import CapturePlan
from kdump.lab import kernels
from kdump.memory import open_dump

pytestmark = pytest.mark.lab


@pytest.fixture(scope="session")
def firmware() -> Path:
    return kernels.package("ovmf") / "usr/share/ovmf/OVMF.fd"


@pytest.mark.parametrize("series", SERIES)
def test_a_crash_by_uefi(series: str, lab_crash: CrashMaker, firmware: Path) -> None:
    loud = {"cmdline": "ignore_loglevel", "append": "ignore_loglevel"}
    crash = lab_crash(series, firmware=firmware, plan=CapturePlan(report=False), timeout=300, **loud)
    text = crash.console.read_text(errors="replace")
    before, _, after = text.partition("Kernel panic - not syncing")
    assert "by the segments method" in before
    table = re.compile(r"efi: .*ACPI 2.0=(0x[0-9a-f]+)")  # where the firmware left its tables
    assert "BIOS-provided physical RAM map" in after and "EDK II" in after
    found = table.findall(text)
    assert len(found) == 2 and found[0] == found[1]
    assert crash.manifest["status"] == "complete"
    with open_dump(crash.directory / "vmcore") as dump:
        assert not dump.incomplete
