"""The power is cut after a build, in the middle of one, and while collecting. The next boot is ready, and dumps.

QEMU is killed. What the guest had not yet flushed is lost with its page cache, and its file system (ext4, with delayed
allocation) is as its journal left it.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

from tests.system import debian
from tests.system.test_debian import BOOT_TIMEOUT, SET_UP, System, pytestmark

from kdump.capture.crash import manifest_text
from kdump.files.digest import Pieces
from kdump.lab import disk
from kdump.lab.machine import Machine
from kdump.lab.qemu import Disk, Spec
from kdump.targets import rawstore
from kdump.targets.block import BlockSession

__all__ = ["pytestmark"]
CRASH = "web1-20261123T120000Z-0001"
SIZE = 300 << 20
IDLE = "@@@ idle"

FIRST = """\
step ready kdump status
sed -i 's/^#level = .*/level = 17/' /etc/kdump/kdump.toml
step build kdump build --load
echo "@@@ cut"; sleep 1000
"""
SECOND = """\
step ready kdump status
sed -i 's/^level = .*/level = 31/' /etc/kdump/kdump.toml
echo "@@@ cut"
step build kdump build --load
sleep 1000
"""
THIRD = """\
step ready kdump status
echo "@@@ cut"
step collect kdump collect /dev/vdb
sleep 1000
"""
FOURTH = """\
step ready kdump status
step list kdump list --json
step collect kdump collect /dev/vdb
step verify kdump verify /var/crash/web1-20261123T120000Z-0001
step empty kdump collect /dev/vdb
sync
step crash kdump test --real --confirm kdumptest
"""
FIFTH = """\
step test kdump test
sync; poweroff
"""


def raw_crash(path: Path, size: int = SIZE) -> Path:
    """A partition with a crash on it, as the capture kernel leaves it."""
    disk.create(path, size + (16 << 20))
    descriptor = os.open(path, os.O_RDWR)
    rawstore.format_device(descriptor, str(path))
    header = rawstore.RawHeader(rawstore.WRITING, CRASH, sequence=rawstore.read_header(descriptor, str(path)).sequence)
    session = BlockSession(descriptor, header, str(path))
    entries = []
    for name, data in {"vmcore-dmesg.txt": b"a log\n", "vmcore": os.urandom(1 << 20) * (size >> 20)}.items():
        stream = session.create(name)
        stream.write(data)
        stream.seal()
        pieces = Pieces()
        pieces.add(0, data)
        entries.append({"name": name, **pieces.describe()})
    stream = session.create("manifest.json")
    stream.write(manifest_text({"crash": CRASH, "status": "complete", "files": entries}))
    stream.seal()
    session.close()
    return path


class Cut(System):
    """A Debian whose power can be cut."""

    def until(self, pattern: str, *, seconds: float = 0) -> None:
        """Boot, wait for a line and `seconds` more, and cut the power."""
        spec = Spec(disks=[self.disk, Disk(self.place / "raw.img")], memory=2560 << 20, cpus=2, reboots=True)
        with Machine(spec, console=self.place / "cut.log") as machine:
            machine.wait_for(pattern, BOOT_TIMEOUT, unless=IDLE)
            if seconds:
                time.sleep(seconds)
            machine.kill()
            self.said |= debian.steps([text for _when, text in machine.lines])


def test_the_power_may_be_cut_at_any_moment(tmp_path: Path) -> None:
    raw_crash(tmp_path / "raw.img")
    system = Cut(tmp_path, [SET_UP, FIRST, SECOND, THIRD, FOURTH, FIFTH], {}, volume_group=False)
    system.first_boot()
    assert system.status("1 setup") == 3
    system.until("@@@ cut")  # right after the build
    assert system.is_ready("2 ready")
    assert system.status("2 build") == 0
    system.until("@@@ cut", seconds=random.uniform(0, 20))  # within a build
    assert system.is_ready("3 ready"), system.text("3 ready")
    system.until("@@@ cut", seconds=random.uniform(0, 10))  # while collecting
    assert system.is_ready("4 ready"), system.text("4 ready")
    spec = Spec(disks=[system.disk, Disk(tmp_path / "raw.img")], memory=2560 << 20, cpus=2, reboots=True)
    with Machine(spec, console=tmp_path / "last.log") as machine:
        machine.run_to_exit(4 * BOOT_TIMEOUT)
        system.said |= debian.steps([text for _when, text in machine.lines])
    assert system.is_ready("5 ready"), system.text("5 ready")
    for crash in json.loads(system.text("5 list")):
        assert crash["status"] == "complete"  # or it is not there, but never half
    assert system.status("5 collect") == 0
    assert system.status("5 verify") == 0
    assert "no crash to collect" in system.text("5 empty")
    assert system.status("6 test") == 0
    assert system.lines("6 test")[0].startswith("passed: /var/crash/")
