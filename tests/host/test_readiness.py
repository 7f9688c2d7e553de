"""Readiness on trees laid out like a machine's proc, sys, var and run: verdict, remedies, formats, exit status."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kdump.capture.plan import PLAN_PATH, CapturePlan
from kdump.cli.main import main
from kdump.cli.status import screen
from kdump.errors import KdumpError
from kdump.host import built, config, readiness, rehearsed
from kdump.host.checks import NO, NOTE, YES, Check, Readiness, as_prometheus
from kdump.host.config import Config
from kdump.host.plan import Prepared, kernel_image
from kdump.host.readiness import Examination
from kdump.image.closure import Search
from kdump.image.kernel_tree import KernelTree
from kdump.image.made import content_digest
from kdump.targets.protocol import Spec

MIB = 1 << 20
MEMINFO = (
    "MemTotal: 1000000 kB\nMemFree: 500000 kB\nAnonPages: 100000 kB\nCached: 200000 kB\nBuffers: 0 kB\nShmem: 0 kB\n"
)


class Machine:
    """A directory that looks like a machine, and its configuration."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.config = Config(targets=(f"file://{root}/var/crash",))
        self.write("proc/cmdline", "quiet crashkernel=240M\n")
        self.write("proc/meminfo", MEMINFO)
        self.write("proc/iomem", "00100000-3fffffff : System RAM\n")
        self.write("proc/sys/kernel/osrelease", "6.1.0\n")
        self.write("sys/kernel/kexec_crash_loaded", "1\n")
        self.write("sys/kernel/kexec_crash_size", str(240 * MIB))
        self.write("boot/vmlinuz", "kernel")
        plan = CapturePlan(targets=(Spec(self.config.targets[0], {"fstype": "ext4", "uuid": "1234"}),))
        tree = KernelTree(os.uname().release, root / "boot/vmlinuz", None)
        self.prepared = Prepared(tree, plan, ("virtio_blk",), {PLAN_PATH: plan.to_json().encode()}, ())
        monkeypatch.setattr(readiness, "prepare", lambda _config, search: self.prepared)
        monkeypatch.setattr(built, "fingerprint", lambda prepared: {"plan": prepared.plan.hostname, "kernel": "k"})
        self.differences: list[str] = []  # between the image and what is loaded
        monkeypatch.setattr(built, "outdated", lambda _record, _config, _root: self.differences)
        monkeypatch.setattr(built, "PARTS", {"plan": "the plan", "kernel": "the kernel"})

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def build(self) -> None:
        state = self.root / "var/lib/linux-kdump"
        image = self.write(f"var/lib/linux-kdump/{os.uname().release}/capture.img", "image")
        record = built.Record(
            str(image),
            os.uname().release,
            "/boot/vmlinuz",
            5,
            1000.0,
            built.fingerprint(self.prepared),
            content_digest([b"image"]),
        )
        record.write(built.directory(os.uname().release, state) / built.RECORD)

    def look(self) -> Readiness:
        return Examination(self.config, self.root).run()

    def answers(self) -> dict[str, str]:
        return {check.name: check.answer for check in self.look().checks}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path, monkeypatch)
    made.build()
    return made


def the(found: Readiness, name: str) -> Check:
    return next(check for check in found.checks if check.name == name)


def test_a_machine_that_is_ready(machine: Machine) -> None:
    found = machine.look()
    assert found.verdict == "ready"
    assert machine.answers() == {
        "reservation": YES,
        "targets": YES,
        "image": YES,
        "loaded": YES,
        "space": YES,
        "panic policy": YES,
        "secure boot": YES,
        "rehearsal": NOTE,
        "crashes": YES,
    }
    assert "drivers: virtio_blk" in the(found, "image").found


def test_every_no_has_a_remedy_and_a_place_in_the_verdict(machine: Machine) -> None:
    machine.write("sys/kernel/kexec_crash_loaded", "0\n")
    machine.write("sys/kernel/kexec_crash_size", "0\n")
    machine.write("proc/cmdline", "quiet\n")
    (machine.root / f"var/lib/linux-kdump/{os.uname().release}/capture.img").unlink()
    found = machine.look()
    assert found.verdict == "not ready: reservation, image, loaded"
    assert all(check.remedy for check in found.checks if check.answer == NO)


def test_a_rejected_parameter_is_explained(machine: Machine) -> None:
    machine.write("sys/kernel/kexec_crash_size", "0\n")
    machine.write("proc/cmdline", "crashkernel=176MB\n")
    assert "'B' after the size" in the(machine.look(), "reservation").found
    machine.write("proc/cmdline", "crashkernel=64G-:512M\n")
    assert "no size above zero" in the(machine.look(), "reservation").found


def test_a_stale_image_and_an_older_one_in_memory(machine: Machine) -> None:
    machine.prepared = Prepared(
        machine.prepared.kernel, CapturePlan(hostname="other"), (), dict(machine.prepared.files), ()
    )
    assert the(machine.look(), "image").found == "stale: the plan changed"
    machine.differences = ["the image"]
    assert the(machine.look(), "loaded").found == "what is loaded is not the image of now: the image"
    (machine.root / f"var/lib/linux-kdump/{os.uname().release}/capture.img").unlink()
    assert "not an image that kdump built" in the(machine.look(), "loaded").found


def test_a_target_that_would_fail_is_a_no(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_config: Config, search: Search) -> Prepared:
        raise KdumpError("the server is gone", why="no route", remedy="find it")

    monkeypatch.setattr(readiness, "prepare", fail)
    found = machine.look()
    assert the(found, "targets") == Check("targets", NO, "the server is gone: no route", "find it")
    assert the(found, "image").answer == NO


def test_a_kernel_that_is_gone_is_not_a_targets_fault(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "prepare", lambda _config, search: kernel_image("6.1.0-none"))
    found = machine.look()
    assert the(found, "kernel").found.startswith("the image of kernel 6.1.0-none is not found: looked for /boot/vm")
    assert the(found, "targets") == Check("targets", NO, "cannot be judged without the kernel to capture with")


def test_policy_lockdown_and_room(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.write("proc/sys/kernel/panic_on_oops", "0\n")
    machine.write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    monkeypatch.setattr("kdump.host.expected.free_space", lambda _place: 10 * MIB)
    found = machine.look()
    assert "kernel.panic_on_oops is 0, wanted 1" in the(found, "panic policy").found
    assert the(found, "secure boot").answer == NOTE
    assert the(found, "space").answer == NO
    assert found.figures["expected_dump_bytes"] == 200000 << 10


def test_a_pool_that_a_dump_would_fill_is_named(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for left, answers in ((4 * MIB, [YES, NOTE]), (10_000 * MIB, [YES])):
        monkeypatch.setattr("kdump.host.volumes.rooms", lambda _layers, left=left: [("the thin-pool vg-pool", left)])
        monkeypatch.setattr("kdump.host.expected.free_space", lambda _place: 10_000 * MIB)
        found = [check for check in machine.look().checks if check.name == "space"]
        assert [check.answer for check in found] == answers


def test_the_last_rehearsal(machine: Machine) -> None:
    state = machine.root / "var/lib/linux-kdump"
    good = rehearsed.Rehearsal(1e9, True, os.uname().release, 240 * MIB, 120 * MIB)
    rehearsed.record(good, state)
    assert the(machine.look(), "rehearsal").answer == NOTE  # too long ago
    import time

    rehearsed.record(rehearsed.Rehearsal(time.time() - 60, True, os.uname().release), state)
    assert the(machine.look(), "rehearsal").answer == YES
    rehearsed.record(rehearsed.Rehearsal(time.time() - 60, False, os.uname().release), state)
    assert "FAILED" in the(machine.look(), "rehearsal").found


def test_what_a_rehearsal_measured_is_what_should_be_reserved(machine: Machine) -> None:
    rehearsed.record(rehearsed.Rehearsal(1e9, True, "6.1", 256 * MIB, 200 * MIB), machine.root / "var/lib/linux-kdump")
    check = the(machine.look(), "reservation")
    assert check.answer == NOTE
    assert check.found == "240 MiB reserved, measurement says 272 MiB"


@pytest.mark.parametrize("content", ["", "imag", "imagE", "image of another kernel"])
def test_a_damaged_image_is_no_image(content: str, machine: Machine) -> None:
    machine.write(f"var/lib/linux-kdump/{os.uname().release}/capture.img", content)
    assert not machine.look().ready
    assert the(machine.look(), "image").remedy == "`kdump build --load`"


def test_the_screen_fits(machine: Machine) -> None:
    machine.write("proc/sys/kernel/panic_on_oops", "0\n")
    lines = screen(machine.look())
    assert lines[0] == "kdump is ready"
    assert max(map(len, lines)) <= 80


def test_figures_for_graphs(machine: Machine) -> None:
    text = as_prometheus(machine.look())
    assert "kdump_ready 1\n" in text
    assert 'kdump_check{name="panic policy"} 1\n' in text
    assert f"kdump_reserved_bytes {240 * MIB}\n" in text
    for line in text.splitlines():
        assert line.startswith("#") or len(line.rsplit(" ", 1)) == 2


def test_the_command_on_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = tmp_path / "kdump.toml"
    toml.write_text('targets = ["file:///var/crash"]\n')
    status = main(["status", "--json", "--config", str(toml), "--prometheus", str(tmp_path / "kdump.prom")])
    told = json.loads(capsys.readouterr().out)
    assert status == (0 if told["ready"] else 3)
    assert config.load(toml).targets == ("file:///var/crash",)
    assert f"kdump_ready {int(told['ready'])}\n" in (tmp_path / "kdump.prom").read_text()
    assert main(["status", "--quiet", "--config", str(toml)]) == status
    assert capsys.readouterr().out == ""
