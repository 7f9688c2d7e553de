"""The final action on a machine of its own, where the capture finds no dead kernel: the failure action is what it does.

`poweroff` ends every other machine of the lab.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdump.capture.plan import PLAN_PATH, CapturePlan, Deadlines
from kdump.image.build import build
from kdump.image.kernel_tree import KernelTree
from kdump.lab.machine import Machine
from kdump.lab.qemu import Spec

SLOW = pytest.mark.system


@pytest.mark.lab
@pytest.mark.parametrize(
    ("action", "ends"),
    [
        ("shell", "reboot: Restarting system"),
        pytest.param("reboot", "reboot: Restarting system", marks=SLOW),
        pytest.param("poweroff", "reboot: Power down", marks=SLOW),
        pytest.param("halt", "reboot: System halted", marks=SLOW),
        pytest.param("kexec", "reboot: Restarting system", marks=SLOW),  # no kernel is loaded: the next best
    ],
)
def test_what_happens_last(action: str, ends: str, kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    tree = kernel("6.1")
    plan = CapturePlan(on_failure=action, deadlines=Deadlines(action=10))
    image = tmp_path / "image"
    build(tree, entry="kdump.capture.__main__", files={PLAN_PATH: plan.to_json().encode()}, output=image)
    spec = Spec(kernel=tree.vmlinuz, initrd=image, cmdline="console=ttyS0,115200 panic=-1", memory=256 << 20)
    with Machine(spec, console=tmp_path / "console.log") as machine:
        machine.wait_for(rf"final action: {action}", 120, unless="Kernel panic")
        if action == "shell":
            machine.wait_for("leave it to go on", 20)
            machine.type("print(6 * 7)\n")
            machine.wait_for(r"\b42\b", 60)
            machine.type("exit()\n")
        if action == "kexec":
            machine.wait_for("kexec: Invalid argument", 20)
        machine.wait_for(ends, 30)
        if action != "halt":
            machine.run_to_exit(20)
