"""What goes wrong on the way is said clearly, leaves nothing running, and loses nothing that was there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest

from kdump.capture.plan import CapturePlan, Deadlines
from kdump.errors import KdumpError
from kdump.image.kernel_tree import KernelTree
from kdump.lab import disk
from kdump.lab.causes import find_cause
from kdump.lab.crash import DUMPS, Scenario, crash
from kdump.lab.machine import Machine, MachineError
from kdump.targets.protocol import Spec

Kernels = Callable[[str], KernelTree]


def scenario(kernel: Kernels, **options: object) -> Scenario:
    base = Scenario(kernel("6.1"), find_cause("sysrq"), memory=512 << 20, crashkernel="192M", work=8 << 20)
    return replace(base, **options)  # type: ignore[arg-type]


def machines() -> list[str]:
    children = ["pgrep", "-a", "-P", str(os.getpid()), "qemu-system"]
    return subprocess.run(children, capture_output=True, text=True, check=False).stdout.splitlines()


@pytest.fixture(autouse=True)
def nothing_left_running() -> object:
    yield
    assert machines() == []


@pytest.mark.lab
def test_no_reservation(kernel: Kernels, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no memory is reserved for a capture kernel") as caught:
        crash(scenario(kernel, crashkernel=""), tmp_path)
    assert "crashkernel=" in str(caught.value)
    assert str(tmp_path / "console.log") in str(caught.value)


@pytest.mark.lab
def test_a_machine_that_dies_before_user_space_gets_one_more_try(
    kernel: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots = []

    class Unlucky(Machine):
        def __enter__(self) -> Self:
            super().__enter__()
            boots.append(self.pid)
            if len(boots) == 1:
                os.kill(self.pid, signal.SIGKILL)
            return self

    monkeypatch.setattr("kdump.lab.machine.Machine", Unlucky)
    told: list[str] = []
    with pytest.raises(MachineError, match="no memory is reserved for a capture kernel"):
        crash(scenario(kernel, crashkernel=""), tmp_path, told.append)
    assert len(boots) == 2 and "gets one more try" in told[-1]
    assert (tmp_path / "console.first.log").stat().st_size < (tmp_path / "console.log").stat().st_size


@pytest.mark.lab
def test_a_guest_that_panics_before_the_load(kernel: Kernels, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="Unable to mount root fs"):
        crash(scenario(kernel, cmdline="rdinit=/nowhere init=/nowhere panic=-1"), tmp_path)


@pytest.mark.lab
def test_a_guest_that_never_boots(kernel: Kernels, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="not within 4 s"):
        crash(
            scenario(kernel, cmdline="earlyprintk=serial initcall_debug rdinit=/x boot_delay=10000", timeout=4),
            tmp_path,
        )


@pytest.mark.lab
def test_target_missing_in_the_capture_kernel(kernel: Kernels, tmp_path: Path) -> None:
    elsewhere = Spec(
        "file:///" + DUMPS, {"uuid": "00000000-0000-4000-8000-000000000000", "fstype": "ext4", "path": "/"}
    )
    plan = CapturePlan(targets=(elsewhere,), deadlines=Deadlines(target=6))
    with pytest.raises(KdumpError, match="left nothing on the disk"):
        crash(scenario(kernel, plan=plan), tmp_path)
    console = (tmp_path / "console.log").read_text(errors="replace")
    assert "00000000-0000-4000-8000-000000000000 did not appear" in console
    assert "final action: poweroff" in console


@pytest.mark.lab
def test_power_cut_during_the_dump(kernel: Kernels, tmp_path: Path) -> None:
    cut: list[float] = []
    original = Machine.run_to_exit

    def cut_the_power(machine: Machine, timeout: float) -> None:
        machine.wait_for(r"vmcore-dmesg.txt saved", timeout)
        machine.wait_for(r"vmcore write: ", timeout)
        machine.kill()
        cut.append(time.monotonic())

    # Uncompressed and unfiltered, so that there is time to cut it.
    plan = CapturePlan(level=0, codec="none")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KdumpError, match=r"no manifest.*not complete"):
        patch.setattr(Machine, "run_to_exit", cut_the_power)
        crash(scenario(kernel, plan=plan), tmp_path)
    assert cut and Machine.run_to_exit is original
    (name,) = disk.listing(tmp_path / "disk.img", "/" + DUMPS)
    left = disk.listing(tmp_path / "disk.img", f"/{DUMPS}/{name}")
    assert "vmcore.incomplete" in left and "vmcore" not in left
    assert left["vmcore-dmesg.txt"] > 1000


def kdump(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kdump", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment or None,
    )


def test_no_qemu(tmp_path: Path, kernel: Kernels) -> None:
    result = kdump("demo", "--kernel", str(kernel("6.1").vmlinuz), "--output", str(tmp_path), PATH=str(tmp_path))
    assert (result.returncode, result.stdout.count("Traceback")) == (1, 0)
    assert "QEMU is not installed" in result.stderr and "apt-get install" in result.stderr


def test_no_apt(tmp_path: Path) -> None:
    result = kdump("demo", "--kernel", "6.99", PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert result.returncode == 1
    assert "is not installed" in result.stderr and "path" in result.stderr


def test_unknown_kernel(tmp_path: Path) -> None:
    result = kdump("demo", "--kernel", str(tmp_path / "vmlinuz"), "--output", str(tmp_path))
    assert result.returncode == 1 and "cannot be read" in result.stderr
    (tmp_path / "vmlinuz").write_bytes(b"not a kernel" * 1000)
    result = kdump("demo", "--kernel", str(tmp_path / "vmlinuz"), "--output", str(tmp_path))
    assert result.returncode == 1 and "is not a kernel image" in result.stderr


def test_results_directory_that_cannot_be_made(tmp_path: Path, kernel: Kernels) -> None:
    (tmp_path / "file").touch()
    result = kdump("demo", "--kernel", str(kernel("6.1").vmlinuz), "--output", str(tmp_path / "file"))
    assert result.returncode == 1 and "the results cannot be stored" in result.stderr


def test_no_room_for_the_results(tmp_path: Path, kernel: Kernels) -> None:
    # Room for the two images, but not for the machine's disk. In a mount namespace: nothing stays mounted.
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace of its own, as in a chroot that is no mount point")
    script = 'mount -t tmpfs -o size=30M none "$1" && exec "$2" -m kdump demo --kernel "$3" --output "$1"'
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", tmp_path, sys.executable, kernel("6.1").vmlinuz],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr.count("Traceback")) == (1, 0)
    assert "No space left on device" in result.stderr
    assert f"everything the run left is in {tmp_path}" in result.stderr


def test_wrong_usage() -> None:
    assert kdump("demo", "--cause", "boredom").returncode == 2
    assert kdump("demo", "--memory", "lots").returncode == 2
    assert kdump("demon").returncode == 2
