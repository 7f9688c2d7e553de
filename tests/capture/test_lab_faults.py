"""What breaks in the capture kernel, on real machines: what is kept, and that the final action comes in time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump.capture.plan import CapturePlan, Deadlines, Hooks
from kdump.errors import KdumpError
from kdump.image.kernel import KernelTree
from kdump.lab import disk
from kdump.lab.causes import find_cause
from kdump.lab.crash import DUMPS, Scenario, crash
from kdump.memory import open_dump
from kdump.targets.protocol import Spec

pytestmark = pytest.mark.apart

MISSING = "00000000-0000-4000-8000-000000000000"
CORRUPT = "00000000-0000-4000-8000-000000000001"
READ_ONLY = "00000000-0000-4000-8000-000000000002"
FULL = "00000000-0000-4000-8000-000000000003"
HALF = "00000000-0000-4000-8000-000000000004"


def attach(path: Path, options: str = "") -> tuple[str, ...]:
    name = path.stem
    drive = f"if=none,id={name},format=raw,file={path}{options}"
    return ("-drive", drive, "-device", f"virtio-blk-pci,drive={name}")


def on(uuid: str) -> Spec:
    return Spec(f"file:///{uuid[-1]}", {"uuid": uuid, "fstype": "ext4", "path": "/"})


def full_filesystem(path: Path, content: Path) -> Path:
    """4 MiB of ext4 with less than 8 KiB free: not even room for the log."""
    content.mkdir()
    for size in range(2840 << 10, 1 << 20, -(8 << 10)):
        (content / "occupied").write_bytes(b"x" * size)
        with contextlib.suppress(KdumpError):
            return disk.create_ext4(path, 4 << 20, uuid=FULL, content=content)
    raise AssertionError


@pytest.mark.lab
def test_targets_fail_one_after_the_other_until_one_works(kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    corrupt = disk.create_ext4(tmp_path / "corrupt.img", 16 << 20, uuid=CORRUPT)
    with corrupt.open("r+b") as file:
        file.seek(1024 + 0x100)  # in the superblock, behind magic and UUID; then everything after it
        file.write(b"\xff" * 700)
        file.seek(4096)
        file.write(b"\xff" * (1 << 20))
    read_only = disk.create_ext4(tmp_path / "readonly.img", 16 << 20, uuid=READ_ONLY)
    full = full_filesystem(tmp_path / "full.img", tmp_path / "content")
    half = disk.create_ext4(tmp_path / "half.img", 8 << 20, uuid=HALF)
    hook = tmp_path / "hook"
    hook.write_text("#!/usr/bin/python3 -IS\nimport time\ntime.sleep(1000)\n")
    hook.chmod(0o755)
    targets = (*(on(uuid) for uuid in (MISSING, CORRUPT, READ_ONLY, FULL, HALF)), Spec(f"file:///{DUMPS}"))
    plan = CapturePlan(
        targets=targets, deadlines=Deadlines(target=4), hooks=Hooks(pre=("/hook",), seconds=1), report=False
    )
    devices = (*attach(corrupt), *attach(read_only, ",readonly=on"), *attach(full), *attach(half))
    scenario = Scenario(
        kernel("6.1"), find_cause("sysrq"), memory=1 << 30, work=24 << 20, plan=plan, devices=devices,
        files={"/hook": hook},
    )  # fmt: skip
    directory = tmp_path / "lab"
    directory.mkdir()
    saved = crash(scenario, directory)

    console = saved.console.read_text(errors="replace")
    assert f"{MISSING} did not appear within" in console
    assert f"ext4 {CORRUPT}) cannot be mounted" in console
    assert "Read-only file system" in console or f"ext4 {READ_ONLY}) cannot be mounted" in console
    assert "hook /hook failed: out of time" in console
    assert "vmcore failed: the dump is incomplete: no room" in console
    assert saved.manifest["status"] == "degraded"
    with open_dump(saved.directory / "vmcore") as dump:
        assert not dump.incomplete

    name = saved.manifest["crash"]
    disk.check(half)
    rest = disk.fetch(half, f"/{name}", tmp_path / "half")
    assert {path.name for path in rest.iterdir()} >= {"vmcore-dmesg.txt", "vmcore.incomplete", "manifest.json"}
    assert json.loads((rest / "manifest.json").read_text())["status"] == "incomplete"
    assert "Kernel panic" in (rest / "vmcore-dmesg.txt").read_text()
    with open_dump(rest / "vmcore.incomplete") as dump:
        assert dump.incomplete
        assert dump.vmcoreinfo


@pytest.mark.lab
def test_a_worker_that_runs_out_of_memory_is_tried_again(kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    plan = CapturePlan(inject={"vmcore": "oom"}, report=False)
    scenario = Scenario(kernel("6.1"), find_cause("sysrq"), memory=1 << 30, work=8 << 20, plan=plan)
    saved = crash(scenario, tmp_path)
    assert "worker killed by signal 9 in stage vmcore" in saved.console.read_text(errors="replace")
    assert saved.manifest["capture"]["attempt"] == 2
    assert {path.name for path in saved.directory.iterdir()} >= {"vmcore", "vmcore-dmesg.txt"}


@pytest.mark.lab
def test_a_panic_of_the_capture_kernel_restarts_the_machine(
    kernel: Callable[[str], KernelTree], tmp_path: Path
) -> None:
    plan = CapturePlan(inject={"vmcore": "panic"}, report=False)
    scenario = Scenario(kernel("6.1"), find_cause("sysrq"), memory=1 << 30, work=8 << 20, plan=plan)
    with pytest.raises(KdumpError, match="no manifest"):
        crash(scenario, tmp_path)
    (rest,) = tmp_path.glob("lab-*")
    assert "vmcore-dmesg.txt" in {path.name for path in rest.iterdir()}
    console = (tmp_path / "console.log").read_text(errors="replace")
    assert console.count("Kernel panic - not syncing") == 2
    assert "Rebooting in" in console
