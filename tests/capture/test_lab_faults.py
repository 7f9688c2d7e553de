"""What breaks in the capture kernel, on real machines: what is kept, and that the final action comes in time."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.targets.servers import may_mount, small_filesystem, sshd

from kdump.capture.plan import CapturePlan, Deadlines, Hooks
from kdump.errors import KdumpError
from kdump.image.kernel_tree import KernelTree
from kdump.lab import disk
from kdump.lab.causes import find_cause
from kdump.lab.crash import DUMPS, Scenario, crash
from kdump.memory import open_dump
from kdump.targets import target_for
from kdump.targets.protocol import Spec

MISSING = "00000000-0000-4000-8000-000000000000"
CORRUPT = "00000000-0000-4000-8000-000000000001"
READ_ONLY = "00000000-0000-4000-8000-000000000002"
FULL = "00000000-0000-4000-8000-000000000003"
HALF = "00000000-0000-4000-8000-000000000004"
SEALING = "00000000-0000-4000-8000-000000000005"
HOST = "10.0.2.2"  # this machine, as QEMU's user network shows it to a guest
MACS = ("52:54:00:12:34:01", "52:54:00:12:34:02")
NETWORK = {
    "interface": [  # on the first cable nobody answers
        {"name": "silent", "mac": MACS[0], "dhcp": True},
        {"name": "eth0", "mac": MACS[1], "dhcp": True},
    ]
}
CARDS = (
    "-netdev", "hubport,id=net0,hubid=1", "-device", f"virtio-net-pci,netdev=net0,mac={MACS[0]}",
    "-netdev", "user,id=net1", "-device", f"virtio-net-pci,netdev=net1,mac={MACS[1]}",
)  # fmt: skip


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
@pytest.mark.skipif(not may_mount(), reason="needs root to mount a small file system")
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
    sealing = disk.create_ext4(tmp_path / "sealing.img", 512 << 20, uuid=SEALING)
    directory = tmp_path / "lab"
    directory.mkdir()
    with sshd(tmp_path / "sshd", HOST) as ssh, small_filesystem(tmp_path / "small", "3m") as small:
        keys = {"identity": "/etc/kdump/id", "known_hosts": "/etc/kdump/known_hosts"}
        to_ssh = Spec(f"ssh://root@{HOST}:{ssh.port}{small}", keys)
        local = (on(uuid) for uuid in (MISSING, CORRUPT, READ_ONLY, FULL, HALF, SEALING))
        plan = CapturePlan(
            targets=(*local, to_ssh, Spec(f"file:///{DUMPS}")),
            deadlines=Deadlines(target=6, network=8),
            hooks=Hooks(pre=("/hook",), seconds=1),
            report=False,
            network=NETWORK,
            inject={"seal vmcore": "full"},
        )
        devices = (*attach(corrupt), *attach(read_only, ",readonly=on"), *attach(full), *attach(half))
        files: dict[str, bytes | Path] = {
            "/hook": hook,
            "/etc/kdump/id": (ssh.directory / "id").read_bytes(),
            "/etc/kdump/known_hosts": (ssh.directory / "known_hosts").read_bytes(),
            **target_for(to_ssh).files(),
        }
        scenario = Scenario(
            kernel("6.1"), find_cause("sysrq"), memory=1 << 30, work=24 << 20, plan=plan, files=files,
            devices=(*devices, *attach(sealing), *CARDS), modules=("virtio_net",),
        )  # fmt: skip
        saved = crash(scenario, directory)
        there = {path.name for path in (small / saved.manifest["crash"]).iterdir()}

    console = saved.console.read_text(errors="replace")
    assert f"{MISSING} did not appear within" in console
    assert f"ext4 {CORRUPT}) cannot be mounted" in console
    assert "Read-only file system" in console or f"ext4 {READ_ONLY}) cannot be mounted" in console
    assert "hook /hook failed: out of time" in console
    assert "vmcore failed: the dump is incomplete: no room" in console
    assert saved.manifest["status"] == "degraded"
    with open_dump(saved.directory / "vmcore") as dump:
        assert not dump.incomplete

    assert "no DHCP server answers on silent" in console
    assert re.search(r"eth0: 10\.0\.2\.\d+/24 from the DHCP server 10\.0\.2\.2, [\d.]+ s", console)
    assert "it will not fit at level 31: about" in console
    assert there >= {"vmcore-dmesg.txt", "vmcore.incomplete"}

    name = saved.manifest["crash"]
    for medium, whole in ((half, False), (sealing, True)):
        disk.check(medium)
        rest = disk.fetch(medium, f"/{name}", tmp_path / medium.stem)
        assert {path.name for path in rest.iterdir()} >= {"vmcore-dmesg.txt", "vmcore.incomplete", "manifest.json"}
        assert json.loads((rest / "manifest.json").read_text())["status"] == "incomplete"
        assert "Kernel panic" in (rest / "vmcore-dmesg.txt").read_text()
        with open_dump(rest / "vmcore.incomplete") as dump:
            assert dump.incomplete is not whole  # the second lacks nothing but its name
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


@pytest.mark.lab
@pytest.mark.system
@pytest.mark.parametrize("fed", [True, False])
def test_a_watchdog_that_the_first_kernel_armed_is_fed(
    fed: bool, kernel: Callable[[str], KernelTree], tmp_path: Path
) -> None:
    """It would reset the machine after 30 s; a hook holds the dump up for longer. 6.1 has no driver for QEMU's."""
    hook = tmp_path / "hook"
    hook.write_text("#!/usr/bin/python3 -IS\nimport time\ntime.sleep(45)\n")
    hook.chmod(0o755)
    plan = CapturePlan(hooks=Hooks(pre=("/hook",), seconds=60), report=False, watchdog=fed)
    scenario = Scenario(
        kernel("6.12"), find_cause("sysrq"), memory=1 << 30, work=8 << 20, plan=plan, files={"/hook": hook},
        devices=("-device", "i6300esb"), watchdog="i6300esb", modules=("i6300esb",) if fed else (),
    )  # fmt: skip
    if not fed:
        with pytest.raises(KdumpError, match="left nothing on the disk"):
            crash(scenario, tmp_path)
        assert "dmesg" not in (tmp_path / "console.log").read_text(errors="replace").partition("capture of lab")[2]
        return
    saved = crash(scenario, tmp_path)
    assert saved.manifest["status"] == "complete"
    assert saved.timeline["vmcore"] > 45
