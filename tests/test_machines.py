"""Machines unlike the lab's usual one: other kernels, other processors. Each must leave a complete dump."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from tests.conftest import CrashMaker

pytestmark = pytest.mark.lab


class Row(NamedTuple):
    kernel: str
    options: dict[str, Any]


# Hung on a file system that is frozen: tests/report/test_newest.py reads why out of the dump.
# Part of its reservation is the running system's until the crash.
MOVABLE = {"cause": "hung", "memory": 768 << 20, "crashkernel": "128M crashkernel=64M,cma"}
NEWEST = Row("newest", MOVABLE)
_MAPPED = """
import os, time
from kdump.capture import devicemapper
for _ in range(200):
    if os.path.exists("/dev/sda"):
        break
    time.sleep(0.1)
devicemapper.create("data", "LVM-data", [devicemapper.DmTarget(0, 20480, "linear", "8:0 2048")])
"""
_EMPTY = "if=none,format=raw,file.driver=null-co,file.size=1073741824,file.read-zeroes=on"
# No RDRAND, and nobody who vouches for a seed; disks of several kinds and a crowd of tasks and control
# groups for tests/report/test_storage.py and test_crowd.py.
STORAGE = Row(
    "6.1",
    {
        "cpu": "SandyBridge", "memory": 768 << 20, "cmdline": "random.trust_bootloader=off",
        "devices": (
            "-device", "virtio-scsi-pci", "-drive", f"id=scsi,{_EMPTY}", "-device", "scsi-hd,drive=scsi",
            "-drive", f"id=nvme,{_EMPTY}", "-device", "nvme,drive=nvme,serial=nvme",
        ),
        "guest_modules": ("virtio_scsi", "sd_mod", "dm_mod"),
        "crowd": (2600, 20, 120),
        "guest_commands": (("/usr/bin/python3", "-c", _MAPPED),),
    },
)  # fmt: skip
ROWS = [
    # crc32c is a module here, which ext4 asks for by an alias
    Row("6.1-generic", {"memory": 768 << 20, "crashkernel": "192M"}),
    # what Debian's backports have today, in packages of the new kind
    NEWEST,
    STORAGE,
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kernel}-{row.options.get('cpu', 'max')}")
def test_the_dump_is_complete(row: Row, lab_crash: CrashMaker) -> None:
    crash = lab_crash(row.kernel, **row.options)
    assert crash.manifest["status"] == "complete"
    assert {path.name for path in crash.directory.iterdir()} >= {"vmcore", "vmcore-dmesg.txt", "manifest.json"}


def test_the_movable_part_of_the_reservation_is_the_capture_kernels(lab_crash: CrashMaker) -> None:
    crash = lab_crash(NEWEST.kernel, **NEWEST.options)
    assert "crashkernel CMA reserved: 64 MB" in crash.console.read_text(errors="replace")
    assert 190 << 20 < crash.manifest["memory"]["ram"] <= 193 << 20  # but for what the kernel keeps back
