"""The power is cut while an image is replaced and while a crash is collected: the next boot is sound, and it dumps.

QEMU is killed: what the guest had not written is lost with its page cache, and its ext4 is as the journal left it.
What it wrote and did not flush survives in the host's page cache: a disk that loses its own cache would be harsher.
KDUMP_CUTS says how often the power is cut in each of the two.
"""

from __future__ import annotations

import os
import random
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.attack import power_guest
from tests.system.test_power_cut import CRASH, raw_crash

from kdump.capture.plan import CapturePlan
from kdump.image.build import build, module_paths
from kdump.lab import crash as lab
from kdump.lab import disk
from kdump.lab.causes import find_cause
from kdump.lab.machine import Machine
from kdump.lab.qemu import Disk, Spec
from kdump.memory import open_dump

if TYPE_CHECKING:
    from kdump.image.kernel_tree import KernelTree

CUTS = int(os.environ.get("KDUMP_CUTS", "2"))  # of each kind
BOOT = 180.0  # seconds; emulated, on a busy machine
WRONG = "Kernel panic|Traceback|damaged|NO image"


class Guest:
    """A machine with a disk and a raw partition that outlive its boots."""

    def __init__(self, tree: KernelTree, place: Path) -> None:
        self.tree, self.place = tree, place
        volume = str(uuid.uuid4())
        content = place / "content"
        (content / "boot").mkdir(parents=True)
        for name in ("state", "crash", lab.DUMPS):
            (content / name).mkdir(parents=True)
        shutil.copyfile(tree.vmlinuz, content / "boot/vmlinuz")
        for name, level in (("old", 31), ("new", 17)):
            scenario = lab.Scenario(tree, find_cause("sysrq"), plan=CapturePlan(level=level))
            lab.build_capture(scenario, volume, content / f"boot/{name}.img")
        self.disk = disk.create_ext4(place / "disk.img", 2 << 30, uuid=volume, content=content)
        self.raw = raw_crash(place / "raw.img", 48 << 20)
        self.image = place / "guest.img"
        modules = "\n".join(module_paths(tree, lab.MODULES)).encode()
        files: dict[str, bytes | Path] = {power_guest.MODULES: modules, power_guest.VOLUME: volume.encode()}
        build(tree, entry="tests.attack.power_guest", modules=lab.MODULES, files=files, output=self.image)

    def boot(self, stage: str) -> Machine:
        cmdline = f"console=ttyS0,115200 panic=30 crashkernel=256M stage={stage}"
        disks = [Disk(self.disk), Disk(self.raw)]
        spec = Spec(self.tree.vmlinuz, self.image, cmdline, disks, memory=1 << 30)
        return Machine(spec, console=self.place / f"{stage}.log")

    def cut(self, stage: str, after: float) -> tuple[str, float]:
        """Boot, and cut the power `after` seconds of work or, if that is BOOT, right after its end.

        What was recorded before it, and for how long it worked.
        """
        with self.boot(stage) as machine:
            found = machine.wait_for("power: SOUND (\\w+)|power: NO", BOOT, unless="Kernel panic|Traceback|damaged")
            machine.wait_for("power: BEGIN", BOOT, unless=WRONG)
            began = time.monotonic()
            if after < BOOT:
                time.sleep(after)
            else:
                machine.wait_for("power: END", after, unless=WRONG)
            machine.kill()
            return found[1] or "", time.monotonic() - began


@pytest.mark.lab
@pytest.mark.matrix
@pytest.mark.timeout(3000)
def test_the_next_boot_is_sound_and_dumps(kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    guest = Guest(kernel("6.1"), tmp_path)
    assert guest.cut("old", BOOT)[0] == ""  # the first image; the power is cut right after it was made
    was, took = guest.cut("new", BOOT)
    assert was == "old"
    possible = {"new"}
    for number in range(CUTS):
        stage = ("old", "new")[number % 2]
        was, _ = guest.cut(stage, random.uniform(0, took))
        assert was in possible
        possible = {was, stage}
    for _ in range(CUTS):
        guest.cut("collect", random.uniform(0, 2 * took))
    with guest.boot("collect") as machine:  # what was interrupted is ended
        machine.wait_for(r"power: END (None|\(True, True\))", BOOT, unless=WRONG)
        machine.kill()
    with guest.boot("panic") as machine:
        machine.wait_for("power: LOADED", BOOT, unless=WRONG)
        machine.run_to_exit(2 * BOOT)
    disk.check(guest.disk)
    fetched = disk.fetch(guest.disk, f"/crash/{CRASH}", tmp_path / "fetched")
    assert {path.name for path in fetched.iterdir()} == {"vmcore", "vmcore-dmesg.txt", "manifest.json"}
    assert set(disk.listing(guest.disk, "/crash")) == {CRASH}
    (name,) = disk.listing(guest.disk, f"/{lab.DUMPS}")
    with open_dump(disk.fetch(guest.disk, f"/{lab.DUMPS}/{name}", tmp_path / "dump") / "vmcore") as dump:
        assert not dump.incomplete
