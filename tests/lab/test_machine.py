"""Machines: what QEMU is told; guests that run, hang and fail; nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump.errors import KdumpError
from kdump.image.kernel_tree import KernelTree
from kdump.lab.machine import Machine, MachineError
from kdump.lab.qemu import Disk, Nic, Spec, qemu_arguments


def test_arguments_hold_everything_asked_for(tmp_path: Path) -> None:
    spec = Spec(
        kernel=Path("/k"),
        initrd=Path("/i"),
        cmdline="console=ttyS0 quiet",
        disks=[Disk(Path("/a,b"), serial="S1"), Disk(Path("/n"), bus="nvme", format="qcow2", readonly=True)],
        memory=2 << 30,
        cpus=2,
        cpu="max,la57=off",
        nics=[Nic(), Nic("socket,listen=:1234", mac="52:54:00:00:00:07")],
    )
    text = " ".join(qemu_arguments(spec, "tcg,thread=multi", tmp_path / "qmp"))
    for part in (
        "-nodefaults", "-accel tcg,thread=multi", "-cpu max,la57=off", "-smp 2", "-m 2048M", "-no-reboot",
        "-kernel /k -append console=ttyS0 quiet -initrd /i", "file=/a,,b,", "virtio-blk-pci,drive=disk0,serial=S1",
        "format=qcow2,file=/n", "readonly=on", "nvme,drive=disk1,serial=", "user,id=net0",
        "virtio-net-pci,netdev=net0,mac=52:54:00:6b:64:00",
        "-netdev socket,listen=:1234,id=net1",
        "netdev=net1,mac=52:54:00:00:00:07",
    ):  # fmt: skip
        assert part in text, part
    assert "-no-reboot" not in qemu_arguments(Spec(reboots=True), "kvm", None)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KdumpError, match=r"/no/kernel does not exist"), Machine(Spec(kernel=Path("/no/kernel"))):
        pytest.fail("started")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KdumpError, match=r"QEMU is not installed.*\n.*apt-get install"), Machine(Spec()):
        pytest.fail("started")


def machines() -> set[int]:
    """Our QEMUs: children, and orphans, of this process's session or below it."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes()
        except OSError:
            continue
        if b"qemu-system" in text.split(b"\0")[0] and b"kdump-test-marker" in text:
            found.add(int(path.parent.name))
    return found


MARKER = ("-name", "kdump-test-marker")


def test_a_machine_without_a_system_is_killed_and_explained(tmp_path: Path) -> None:
    log = tmp_path / "console"
    started = time.monotonic()
    with pytest.raises(MachineError) as caught, Machine(Spec(extra=MARKER), console=log) as machine:
        assert machine.running
        with machine.qmp() as monitor:
            assert monitor.status() == "running"
            with pytest.raises(KdumpError, match=r"QEMU refused 'no-such-command'"):
                monitor.execute("no-such-command")
        machine.wait_for("login:", 2)
    assert time.monotonic() - started < 30
    assert "never printed 'login:': not within 2 s; its last lines:" in str(caught.value)
    assert "SeaBIOS" in str(caught.value)
    assert f"the whole console is in {log}" in str(caught.value)
    assert b"SeaBIOS" in log.read_bytes()
    assert not machines()


def test_a_refused_option_is_explained_with_qemus_words() -> None:
    with pytest.raises(MachineError, match=r"QEMU failed: exit status 1.*(?s:.*)no-such-device"):  # noqa: SIM117
        with Machine(Spec(extra=("-device", "no-such-device"))) as machine:
            machine.run_to_exit(20)


def test_quitting_through_the_monitor_ends_the_machine() -> None:
    with Machine(Spec(extra=MARKER)) as machine:
        with machine.qmp() as monitor:
            monitor.quit()
        machine.run_to_exit(20)
        assert not machine.running
        with pytest.raises(MachineError, match="it ended first"):
            machine.wait_for("more", 5)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_parent_that_dies_leaves_no_machine(how: signal.Signals) -> None:
    # A shell's background job ignores SIGINT, and its children inherit that.
    code = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from kdump.lab.machine import Machine
from kdump.lab.qemu import Spec
with Machine(Spec(extra={MARKER!r})) as machine:
    print("up", machine.pid, flush=True)
    machine.run_to_exit(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline().split()[1])
        assert pid in machines()
        os.kill(parent.pid, how)
        parent.wait(20)
    deadline = time.monotonic() + 10
    while machines() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not machines()


@pytest.mark.lab
def test_a_kernel_boots_and_its_failure_is_shown(kernel: Callable[[str], KernelTree]) -> None:
    tree = kernel("6.1")
    with Machine(Spec(kernel=tree.vmlinuz, cmdline="console=ttyS0 panic=-1", memory=256 << 20, cpus=2)) as machine:
        assert machine.wait_for(r"Linux version (\S+)", 60)[1] == tree.release
        assert machine.wait_for(r"smpboot: Total of (\d) processors", 60)[1] == "2"
        with pytest.raises(MachineError, match=r"it printed '.*Kernel panic - not syncing: VFS.*(?s:.*)Call Trace"):
            machine.wait_for("login:", 60, unless="Kernel panic")
        assert not machine.running


@pytest.mark.lab
def test_an_nmi_from_outside_arrives(kernel: Callable[[str], KernelTree]) -> None:
    spec = Spec(kernel=kernel("6.1").vmlinuz, cmdline="console=ttyS0 unknown_nmi_panic", memory=256 << 20)
    with Machine(spec) as machine:
        with machine.qmp() as monitor:
            machine.wait_for("smpboot: Total of", 60)
            monitor.inject_nmi()
        machine.wait_for("Kernel panic - not syncing: NMI", 20)
