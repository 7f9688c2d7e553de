"""Disks of several kinds on a real machine, and what their drivers kept about them."""

from __future__ import annotations

import json
import re
import sys

import pytest
from tests import foreign
from tests.conftest import CrashMaker
from tests.test_machines import STORAGE

pytestmark = pytest.mark.lab


def test_what_is_below_each_disk(lab_crash: CrashMaker) -> None:
    """Types of SCSI and of the device mapper are those of their modules."""
    vmcore = lab_crash(STORAGE.kernel, **STORAGE.options).directory / "vmcore"
    output = foreign.run(sys.executable, "-m", "kdump", "report", "--json", "--section", "block", vmcore)
    section = json.loads(output)["sections"]["block"]
    assert "notes" not in section
    disks = {row["disk"]: row for row in section["disks"]}
    assert (disks["sda"]["driver"], disks["sda"]["state"]) == ("scsi", "running")
    sent, done = map(int, re.findall(r"(\d+) (?:sent|done)", disks["sda"]["detail"]))
    assert sent == done > 5 and disks["sda"]["in_flight"] == 0
    assert (disks["nvme0n1"]["driver"], disks["nvme0n1"]["state"]) == ("nvme", "live")
    mapped = disks["dm-0"]
    assert (mapped["driver"], mapped["state"], mapped["detail"]) == ("device mapper", "active", "linear")
    assert mapped["size"] == 10 << 20
    assert section["summary"].endswith("0 requests in flight")
