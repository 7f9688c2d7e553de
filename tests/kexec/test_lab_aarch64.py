"""One machine of aarch64: it loads, explains, unloads, reboots into another kernel, and finds a damaged segment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kexec import machine as lab
from tests.kexec.machine import kdump, order

from kdump.image.kernel_tree import KernelTree
from kdump.lab.machine import Machine
from kdump.lab.qemu import Spec

pytestmark = [pytest.mark.lab, pytest.mark.matrix]


def test_a_reboot_and_a_damaged_segment(kernel: Callable[..., KernelTree], tmp_path: Path) -> None:
    old, new = kernel("6.1", "aarch64"), kernel("6.12", "aarch64")
    plain = lab.image(new, tmp_path / "plain.img")
    second = lab.image(new, tmp_path / "second.img", {"/vmlinuz": new.vmlinuz, "/image": plain})
    first = lab.image(old, tmp_path / "first.img", {"/vmlinuz": new.vmlinuz, "/image": second})
    line = "console=ttyAMA0 loglevel=3 crashkernel=192M"
    stub = tmp_path / "gdb"
    spec = Spec(
        kernel=old.vmlinuz, initrd=first, cmdline=line, memory=1 << 30, machine="aarch64", extra=lab.gdb_stub(stub)
    )
    with Machine(spec, console=tmp_path / "console.log") as running:
        assert running.wait_for(r"guest is up: (\S+)", lab.TIMEOUT)[1] == old.release
        load = kdump(running, "kexec", "-l", "/vmlinuz", "--initrd=/image", "--reuse-cmdline")
        assert load.status == 0, load.err
        running.type(json.dumps(["kdump", "kexec", "-e"]) + "\n")
        assert running.wait_for(r"guest is up: (\S+)", lab.TIMEOUT)[1] == new.release
        assert order(running, "read", "/proc/cmdline").out.strip() == line

        arguments = ("load", "--kernel=/vmlinuz", "--image=/image", "--append=panic=1")
        answer = kdump(running, *arguments, "--method=file")
        assert answer.status == 1 and "kexec_file_load" in answer.err  # Debian's kernels are built without it
        assert kdump(running, *arguments).status == 0
        assert order(running, "read", "/sys/kernel/kexec_crash_loaded").out.strip() == "1"
        assert kdump(running, "unload").status == 0
        assert order(running, "read", "/sys/kernel/kexec_crash_loaded").out.strip() == "0"
        assert kdump(running, *arguments).status == 0
        told = json.loads(kdump(running, *arguments, "--explain", "--json").out)
        place = lab.reservation(running)
        segments = {each["name"]: each["address"] for each in told["segments"]}
        assert segments.keys() == {"kernel", "core headers", "image", "device tree", "purgatory"}
        assert all(place.start <= address < place.end for address in segments.values())

        lab.poke(stub, segments["image"] + 12345, b"\xde\xad\xbe\xef")
        running.type(json.dumps(["write", "/proc/sysrq-trigger", "c"]) + "\n")
        found = running.wait_for(r"the segment at 0x([0-9a-f]{16}) is damaged; not booting it", lab.TIMEOUT)
        assert int(found[1], 16) == segments["image"]
        running.run_to_exit(60)
