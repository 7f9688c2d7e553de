"""A dump on a disk of every kind of controller at once, with the drivers that the healthy side found for each."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.matrix.rows import CONTROLLERS

from kdump.capture.plan import ALL, CapturePlan
from kdump.dump.manifest import check
from kdump.host.drivers import modules_for
from kdump.image.build import build, module_paths
from kdump.lab import disk
from kdump.lab.causes import find_cause
from kdump.lab.crash import DUMPS, Scenario, crash
from kdump.lab.machine import Machine
from kdump.lab.qemu import Spec as MachineSpec
from kdump.targets.protocol import Spec

if TYPE_CHECKING:
    from kdump.image.kernel_tree import KernelTree

MIB = 1 << 20
# "ide" is another machine's. What else a disk needs than its controller's driver is for the walk to find.
NAMES = tuple(name for name in CONTROLLERS if name != "ide")
AROUND = ("virtio_pci", "sd_mod", "mmc_block", "xhci_pci", "usb_storage", "ext4")


def devices(images: dict[str, Path]) -> list[str]:
    """QEMU's arguments for all disks; buses, drives and serial numbers are called like the controller."""
    arguments: list[str] = []
    for name, image in images.items():
        arguments += ["-drive", f"if=none,id={name},format=raw,file={image},cache=unsafe"]
        for device in CONTROLLERS[name][1]:
            own = device.replace("drive=data", f"drive={name}").replace("serial=data", f"serial={name}")
            own = own.replace("id=bus", f"id=bus-{name}").replace("bus=bus.0", f"bus=bus-{name}.0")
            usb = own.split(",")[0] in ("usb-storage", "usb-uas")
            arguments += ["-device", f"qemu-xhci,id=xhci-{name}"] if own == "qemu-xhci" else ["-device", own]
            arguments[-1] += f",bus=xhci-{name}.0" if usb else ""
    return arguments


@pytest.mark.lab
@pytest.mark.matrix
@pytest.mark.timeout(900)
@pytest.mark.parametrize("series", ["6.12-generic", "newest-generic"])
def test_every_controller_takes_the_dump(series: str, kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    tree = kernel(series)
    uuids = {name: str(uuid.uuid4()) for name in NAMES}
    images = {name: disk.create_ext4(tmp_path / f"{name}.img", 64 * MIB, uuid=uuids[name]) for name in NAMES}
    drivers = (*AROUND, *(CONTROLLERS[name][0] for name in NAMES))
    files = {
        "/etc/modules.txt": "\n".join(module_paths(tree, drivers)).encode(),
        "/etc/uuids.json": json.dumps(list(uuids.values())).encode(),
    }
    build(tree, entry="tests.capture.controllers_guest", modules=drivers, files=files, output=tmp_path / "healthy.img")
    healthy = MachineSpec(
        kernel=tree.vmlinuz, initrd=tmp_path / "healthy.img", cmdline="console=ttyS0,115200 panic=-1",
        extra=devices(images),
    )  # fmt: skip
    with Machine(healthy, console=tmp_path / "healthy.log") as machine:
        said = machine.wait_for(r"controllers-guest: found (.*)", 120, unless="controllers-guest: FAILED|Kernel panic")
        machine.run_to_exit(60)
    found: dict[str, list[str]] = json.loads(said[1])
    for name in NAMES:
        assert CONTROLLERS[name][0] in found[uuids[name]], (name, found[uuids[name]])

    targets = [Spec(f"file:///{name}", {"uuid": uuids[name], "fstype": "ext4", "path": "/crash"}) for name in NAMES]
    assert "mmc:block" in found[uuids["sd-card"]]
    modules = modules_for(targets, [(names, ()) for names in found.values()], tree)
    plan = CapturePlan(targets=(Spec(f"file:///{DUMPS}"), *targets), mode=ALL, report=False)
    scenario = Scenario(
        tree, find_cause("sysrq"), memory=768 * MIB, work=8 * MIB, plan=plan, modules=tuple(modules),
        devices=devices(images),
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    saved = crash(scenario, tmp_path / "run")
    assert saved.manifest["status"] == "complete"
    for name in NAMES:
        disk.check(images[name])
        copy = disk.fetch(images[name], f"/crash/{saved.manifest['crash']}", tmp_path / name)
        assert [finding for entry in saved.manifest["files"] for finding in check(copy, entry)] == []
