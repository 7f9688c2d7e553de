"""A rehearsal on a real kernel: passes, learns, and fails when the reservation is too small to boot in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kdump.capture.plan import PLAN_PATH, CapturePlan, Hooks
from kdump.config import Config
from kdump.host import expected, rehearsed
from kdump.host.plan import Prepared, plan_of
from kdump.lab import rehearsal
from kdump.targets.protocol import Spec

if TYPE_CHECKING:
    from kdump.image.kernel import KernelTree


def prepared(tree: KernelTree) -> Prepared:
    """What `kdump.host.plan.prepare` gives on a machine with one file target and a hook."""
    plan = replace(plan_of(Config()), targets=(Spec("file:///var/crash"),), hooks=Hooks(post=("/usr/bin/hook",)))
    files: dict[str, bytes | Path] = {PLAN_PATH: plan.to_json().encode(), "/usr/bin/hook": Path("/bin/true")}
    return Prepared(tree, plan, ("virtio_net",), files, ())


def test_the_twin_is_this_machines_but_for_what_it_stands_in_for(tmp_path: Path) -> None:
    from kdump.image.kernel import KernelTree

    machine = prepared(KernelTree("6.1", tmp_path / "vmlinuz", None))
    twin = rehearsal.scenario(Config(), machine, "192M", 1 << 30)
    assert twin.tree is machine.kernel
    assert (twin.plan.level, twin.plan.codec) == (machine.plan.level, machine.plan.codec)
    assert twin.plan.targets == CapturePlan().targets
    assert twin.modules == ("virtio_net",)
    assert set(twin.files) == {"/usr/bin/hook"}
    assert "file:///var/crash can be reached" in rehearsal.unproved(machine)[0]
    assert rehearsal.twin_memory(512 << 20) == 2 << 30


@pytest.mark.lab
def test_a_rehearsal_passes_and_teaches_the_reservation(kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    machine = prepared(kernel("6.1"))
    directory = tmp_path / "twin"
    directory.mkdir()
    twin = rehearsal.scenario(Config(), machine, "192M", 1 << 30)
    outcome = rehearsal.rehearse(twin, machine, directory, print)
    assert outcome.problem == ""
    assert outcome.rehearsal.passed
    assert 40 << 20 < outcome.rehearsal.peak < 192 << 20
    assert len(outcome.proved) == 5
    rehearsed.record(outcome.rehearsal, tmp_path / "var/lib/kdump")
    assert rehearsed.last(tmp_path / "var/lib/kdump") == outcome.rehearsal
    learned = expected.measured(Config(targets=(f"file://{tmp_path}/none",)), tmp_path)
    assert learned is not None
    assert learned.reason == "measurement"
    assert outcome.rehearsal.peak <= learned.size <= 240 << 20
    assert json.loads((directory / "summary.json").read_text())["manifest"]["status"] == "complete"
