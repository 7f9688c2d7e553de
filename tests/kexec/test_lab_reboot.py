"""Reboot into another kernel version and back, by both methods, without firmware in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kexec import machine as lab
from tests.kexec.machine import kdump

from kdump.image.kernel_tree import KernelTree
from kdump.lab.machine import Machine
from kdump.lab.qemu import Spec

pytestmark = pytest.mark.lab


def test_reboot_into_another_version_and_back(kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    old, new = kernel("6.1"), kernel("6.12")
    # Each image holds the next kernel and its image: old starts new by segments, new starts old by files.
    last = lab.image(old, tmp_path / "last.img")
    middle = lab.image(new, tmp_path / "middle.img", {"/vmlinuz": old.vmlinuz, "/image": last})
    first = lab.image(old, tmp_path / "first.img", {"/vmlinuz": new.vmlinuz, "/image": middle})
    line = "console=ttyS0,115200 loglevel=3"
    spec = Spec(kernel=old.vmlinuz, initrd=first, cmdline=line, memory=1 << 30, cpus=2)
    with Machine(spec, console=tmp_path / "console.log") as machine:
        assert machine.wait_for(r"guest is up: (\S+)", lab.TIMEOUT)[1] == old.release
        assert kdump(machine, "kexec", "-e").status == 1  # nothing is loaded yet
        for method, release in (("-c", new.release), ("-s", old.release)):
            load = kdump(machine, "kexec", "-l", method, "/vmlinuz", "--initrd=/image", "--reuse-cmdline")
            assert load.status == 0, load.err
            assert kdump(machine, "kexec", "-l", "-S").status == 1
            machine.type(json.dumps(["kdump", "kexec", "-e"]) + "\n")
            assert machine.wait_for(r"guest is up: (\S+)", lab.TIMEOUT)[1] == release
        assert lab.order(machine, "read", "/proc/cmdline").out.strip() == line
