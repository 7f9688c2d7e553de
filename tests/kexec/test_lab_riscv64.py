"""Machines of riscv64: they load kernels, reboot into one, find a damaged segment, and crash into one.

The image here copies /proc/vmcore as it is; the dump is read, filtered and reported on this host.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kexec import machine as lab
from tests.kexec import riscv
from tests.kexec.machine import kdump, order

from kdump.arch.riscv64 import RISCV64
from kdump.image.kernel_tree import KernelTree
from kdump.kernel.kernel import Kernel
from kdump.kernel.tasks import Tasks
from kdump.lab.machine import Machine
from kdump.lab.qemu import Disk, Spec
from kdump.memory import open_dump
from kdump.memory.counts import count_pages
from kdump.report.build import build
from kdump.report.context import Context

pytestmark = [pytest.mark.lab, pytest.mark.matrix]
LINE = "console=ttyS0 loglevel=4 crashkernel=192M"
MEMORY = 1 << 30


def test_a_reboot_and_a_damaged_segment(kernel: Callable[..., KernelTree], tmp_path: Path) -> None:
    old, new = kernel("6.12-generic", "riscv64"), kernel("newest-generic", "riscv64")
    plain = riscv.copying(new, tmp_path / "plain.img")
    second = riscv.serving(tmp_path / "second.img", {"/vmlinuz": new.vmlinuz, "/image": plain})
    first = riscv.serving(tmp_path / "first.img", {"/vmlinuz": new.vmlinuz, "/image": second})
    stub = tmp_path / "gdb"
    spec = Spec(
        kernel=old.vmlinuz, initrd=first, cmdline=LINE, memory=MEMORY, cpus=2, machine="riscv64",
        extra=lab.gdb_stub(stub),
    )  # fmt: skip
    lab.reboots_and_finds_damage(spec, old.release, new.release, stub, tmp_path / "console.log")


def test_a_crash_of_which_the_dump_is_read_filtered_and_reported(
    kernel: Callable[..., KernelTree], tmp_path: Path
) -> None:
    tree = kernel("6.12-generic", "riscv64")
    capture = riscv.copying(tree, tmp_path / "capture.img")
    image = riscv.serving(tmp_path / "first.img", {"/vmlinuz": tree.vmlinuz, "/image": capture})
    vmcore = tmp_path / "disk"
    with vmcore.open("wb") as file:
        file.truncate(MEMORY)
    spec = Spec(
        kernel=tree.vmlinuz, initrd=image, cmdline=LINE, memory=MEMORY, cpus=2, machine="riscv64", disks=[Disk(vmcore)]
    )
    with Machine(spec, console=tmp_path / "console.log") as running:
        running.wait_for(r"guest is up", lab.TIMEOUT)
        listed = order(running, "run", "/bin/busybox", "ps", "-o", "pid,comm").out
        loaded = kdump(running, "load", "--kernel=/vmlinuz", "--image=/image", "--append=console=ttyS0 panic=1")
        assert loaded.status == 0, loaded.err
        outside = tmp_path / "outside"
        with running.qmp() as monitor:
            monitor.execute("dump-guest-memory", paging=False, protocol=f"file:{outside}", format="kdump-zlib")
        running.type(json.dumps(["write", "/proc/sysrq-trigger", "c"]) + "\n")
        running.wait_for(r"records out", lab.TIMEOUT)
        running.run_to_exit(60)

    with open_dump(outside) as dump:  # QEMU does not name the machine, and writes no VMCOREINFO
        living = Kernel(dump)
        assert living.arch is RISCV64 and living.vmcoreinfo.strings["OSRELEASE"] == tree.release
        assert {task.pid for task in Tasks(living)} >= {1, 2} and len(living.log().records) > 100
    outside.unlink()
    with open_dump(vmcore) as dump:
        dead = Kernel(dump)
        assert dead.arch is RISCV64 and dead.vmcoreinfo.strings["OSRELEASE"] == tree.release
        assert "Kernel panic - not syncing: sysrq triggered crash" in [
            bytes(each.text).decode() for each in dead.log().records
        ]
        tasks = Tasks(dead)
        known = {int(pid): name for pid, name in (line.split(None, 1) for line in listed.splitlines()[1:])}
        found = {task.pid: task.command for task in tasks}
        assert len(known.keys() - found.keys()) <= 3 and len(known) > 40  # the last one is ps; a thread may end
        assert all(tasks.stack(task).reliable for task in tasks)
        panicked = tasks.cpu_stack(tasks.panic_cpu() or 0)
        names = [place.name for frame in panicked.frames if (place := dead.symbolizer.at(frame.lookup))]
        assert "sysrq_handle_crash" in names and panicked.user is not None
        report = build(Context(dead), str(vmcore))
    assert report.verdict.title == "sysrq triggered crash" and not report.problems
    assert [(section.name, section.error) for section in report.sections if section.error] == []

    saved = tmp_path / "vmcore"
    done = subprocess.run(
        [sys.executable, "-m", "kdump", "save", vmcore, saved], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr  # 3 if free pages were not as many as the kernel counts
    with open_dump(vmcore) as whole, open_dump(saved) as dump:
        counts = count_pages(dump.memory)
        assert counts.dumped < counts.memory / 3 and Kernel(dump).log().records == Kernel(whole).log().records
        assert {task.pid for task in Tasks(Kernel(dump))} == found.keys()
        for part in dump.memory.held():
            size = min(part.size, 1 << 16)
            assert dump.memory.view(part.start, size) == whole.memory.view(part.start, size)
