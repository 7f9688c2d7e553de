"""A rehearsal on a real kernel: passes, learns, and fails when the reservation is too small to boot in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kdump.capture.plan import PLAN_PATH, CapturePlan, Hooks
from kdump.cli import rehearse as cli
from kdump.cli.main import main
from kdump.errors import KdumpError
from kdump.host import config, encryption, expected, plan, rehearsed
from kdump.host.config import Config
from kdump.host.plan import Prepared, plan_of
from kdump.lab import kernels, rehearsal
from kdump.targets.protocol import Spec

if TYPE_CHECKING:
    from kdump.image.kernel_tree import KernelTree


def prepared(tree: KernelTree) -> Prepared:
    """What `kdump.host.plan.prepare` gives on a machine with one file target and a hook."""
    plan = replace(
        plan_of(Config()),
        targets=(Spec("file:///var/crash"),),
        hooks=Hooks(post=("/usr/bin/hook",)),
        storage=({"array": "md0", "uuid": "x", "metadata": "1.2", "disks": 2},),
    )
    files: dict[str, bytes | Path] = {PLAN_PATH: plan.to_json().encode(), "/usr/bin/hook": Path("/bin/true")}
    return Prepared(tree, plan, ("virtio_net",), files, ())


def with_encrypted(machine: Prepared) -> Prepared:
    """The machine with an encrypted volume under its target."""
    line = [0, 2097152, "crypt", "aes-xts-plain64 :64:logon 0 <LUKS> 32768 1 sector_size:4096"]
    volume = {"name": "home", "uuid": "CRYPT-LUKS2-x", "table": [line], "holds": "PV"}
    ciphers = encryption.modules_of(volume, machine.kernel)
    changed = replace(machine.plan, storage=(*machine.plan.storage, volume))
    return replace(machine, plan=changed, modules=(*machine.modules, "dm_mod", *ciphers))


def test_the_twin_is_this_machines_but_for_what_it_stands_in_for(tmp_path: Path) -> None:
    from kdump.image.kernel_tree import KernelTree

    machine = prepared(KernelTree("6.1", tmp_path / "vmlinuz", None))
    twin = rehearsal.scenario(Config(), machine, "192M", 1 << 30)
    assert twin.tree is machine.kernel
    assert (twin.plan.level, twin.plan.codec) == (machine.plan.level, machine.plan.codec)
    assert (twin.plan.targets, twin.plan.storage) == (CapturePlan().targets, ())
    assert twin.modules == ("virtio_net",)
    stages = twin.plan.deadlines  # it may be emulated: its time says nothing of this machine's
    assert (stages.target, stages.report, stages.stall) == (180, 180, machine.plan.deadlines.stall)
    assert stages.total == 900
    assert set(twin.files) == {"/usr/bin/hook"}
    assert "file:///var/crash can be reached" in rehearsal.unproved(machine)[0]
    assert any("arrays and volumes together: md0" in each for each in rehearsal.unproved(machine))
    assert rehearsal.twin_memory(512 << 20) == 2 << 30


def test_firmware_is_found_where_distributions_put_it(tmp_path: Path) -> None:
    assert not rehearsal.started_by_uefi(tmp_path)
    assert rehearsal.uefi_image(tmp_path) is None
    image = tmp_path / "usr/share/qemu/OVMF.fd"
    for path in (image.parent, tmp_path / "sys/firmware/efi"):
        path.mkdir(parents=True)
    image.touch()
    assert rehearsal.started_by_uefi(tmp_path)
    assert rehearsal.uefi_image(tmp_path) == image


def test_a_twin_without_the_machines_firmware_leaves_that_open(tmp_path: Path) -> None:
    from kdump.image.kernel_tree import KernelTree

    machine = prepared(KernelTree("6.1", tmp_path / "absent", None))  # fails at once: what was asked stays open
    twin = rehearsal.scenario(Config(), machine, "192M", 1 << 30)
    for uefi in (True, False):
        outcome = rehearsal.rehearse(twin, machine, tmp_path, lambda _text: None, uefi=uefi)
        assert not outcome.rehearsal.passed
        assert any("UEFI" in each for each in outcome.unproved) == uefi


@pytest.mark.lab
def test_a_rehearsal_passes_and_teaches_the_reservation(
    kernel: Callable[[str], KernelTree],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command on this host, with a lab kernel for its own. Only where it would keep state is elsewhere."""
    state = tmp_path / "var/lib/linux-kdump"
    monkeypatch.setattr(cli, "STATE", state)
    monkeypatch.setattr(cli, "settled", lambda: state)
    # This host as one that was started by UEFI.
    ovmf = kernels.package("ovmf") / "usr/share/ovmf/OVMF.fd"
    monkeypatch.setattr(rehearsal, "started_by_uefi", lambda: True)
    monkeypatch.setattr(rehearsal, "uefi_image", lambda: ovmf)
    (tmp_path / "hook").symlink_to("/bin/true")
    (tmp_path / "dumps").mkdir()
    settings = tmp_path / "kdump.toml"
    settings.write_text(f'targets = ["file://{tmp_path}/dumps"]\n[hooks]\npost = ["{tmp_path}/hook"]\n')
    machine = prepared(kernel("6.1"))
    with contextlib.suppress(KdumpError, OSError):  # in a container, say, where the root's device may not be read
        machine = plan.prepare(config.load(settings), kernel("6.1"))
    monkeypatch.setattr(plan, "prepare", lambda _config, _tree: with_encrypted(machine))
    options = ["--memory", "1G", "--crashkernel", "192M", "--output", str(tmp_path / "out"), "--json"]
    assert main(["rehearse", "--config", str(settings), "--kernel", str(kernel("6.1").vmlinuz), *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["passed"]
    assert result["problem"] == ""
    assert len(result["proved"]) == 7
    assert "the key of home is found in the dead kernel's memory" in result["proved"][-1]
    assert "EFI v" in (Path(result["directory"]) / "console.log").read_text(errors="replace")
    last = rehearsed.last(state)
    assert last is not None
    assert (last.peak, last.passed) == (result["peak"], True)
    assert 40 << 20 < last.peak < 192 << 20
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1048576 kB\n")  # as small as the twin
    learned = expected.measured(Config(targets=(f"file://{tmp_path}/none",)), tmp_path)
    assert learned is not None
    assert learned.reason == "measurement"
    assert last.peak <= learned.size <= 240 << 20
    summary = json.loads((Path(result["directory"]) / "summary.json").read_text())
    assert summary["manifest"]["status"] == "complete"
