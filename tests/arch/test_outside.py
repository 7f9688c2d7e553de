"""Kernels that nothing here can crash from inside: QEMU takes their dumps when they panic for want of a root.

There is no VMCOREINFO note in such a dump, no registers that the kernel kept, and no user space that ever ran.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump.dump.first_pass import first_pass
from kdump.dump.zones import free_pages, with_nodes
from kdump.image.kernel_tree import KernelTree
from kdump.kernel.kernel import Kernel
from kdump.kernel.tasks import Tasks
from kdump.lab.qmp import Qmp
from kdump.memory import open_dump
from kdump.report.build import build
from kdump.report.context import Context

pytestmark = [pytest.mark.lab, pytest.mark.matrix]

PATIENCE = 240.0  # seconds until the panic
MACHINES = {
    "aarch64": ("qemu-system-aarch64", "-machine", "virt,gic-version=3", "-cpu", "max,pauth-impdef=on"),
}
CONSOLES = {"aarch64": "ttyAMA0"}


def taken_from_outside(tree: KernelTree, machine: str, directory: Path) -> Path:
    """The dump of a machine that found no root."""
    program = shutil.which(MACHINES[machine][0])
    if program is None:
        pytest.skip(f"{MACHINES[machine][0]} is not installed")
    dump, monitor, log = directory / "vmcore", directory / "qmp", directory / "console"
    arguments = [
        program, *MACHINES[machine][1:], "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-accel", "tcg,thread=multi", "-smp", "2", "-m", "512M", "-kernel", str(tree.vmlinuz),
        "-append", f"console={CONSOLES[machine]} panic=0", "-serial", f"file:{log}",
        "-qmp", f"unix:{monitor},server=on,wait=off",
    ]  # fmt: skip
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        while b"end Kernel panic" not in (log.read_bytes() if log.exists() else b""):
            assert process.poll() is None and time.monotonic() < end, "it does not panic"
            time.sleep(0.5)
        with Qmp(monitor) as qmp:
            qmp.dump_guest_memory(dump)
    finally:
        process.kill()
        process.wait()
    return dump


@pytest.mark.parametrize(("machine", "series"), [("aarch64", "6.1"), ("aarch64", "newest")])
def test_a_dump_from_outside_is_told_whole(
    machine: str, series: str, kernel: Callable[..., KernelTree], tmp_path: Path
) -> None:
    """The 6.1 kernel has no KALLSYMS_ALL: its variables are found by what it exports."""
    vmcore = taken_from_outside(kernel(series, machine), machine, tmp_path)
    with open_dump(vmcore) as dump:
        found = Kernel(dump)
        assert found.arch.name == machine
        tasks = Tasks(found)
        stacks = {task.pid: tasks.stack(task) for task in tasks}
        assert len(stacks) > 30 and all(stack.reliable for stack in stacks.values())
        names = [symbol.name for frame in stacks[1].frames if (symbol := found.symbolizer.at(frame.lookup))]
        assert "panic" in names and "kernel_init" in names
        assert tasks.objects.cpus() == [0, 1]
        selection = first_pass(dump, 31)
        assert not selection.not_applied
        free = free_pages(with_nodes(found), found.virtual)
        assert (
            free is not None and 0 <= selection.dropped_by_class["free"] - free[0] < 1 << 14
        )  # those on the CPUs' lists
        report = build(Context(found), str(vmcore))
    assert "Unable to mount root fs" in report.verdict.title
    assert not [section.name for section in report.sections if section.error and "only functions" not in section.error]
