"""A dump onto a disk of a second machine, and that machine gone during the dump."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.capture.test_lab_nfs import MAC, wire
from tests.matrix import disk_server
from tests.matrix.second import served

from kdump.capture.plan import FIRST, CapturePlan, Deadlines
from kdump.host import remote
from kdump.image.kernel_tree import KernelTree
from kdump.lab import disk
from kdump.lab.causes import find_cause
from kdump.lab.crash import DUMPS, Scenario, crash
from kdump.targets.protocol import Spec

UUID = "0b5e1f5a-5f0c-4c53-9d4e-6b64756d7021"
WIRED = {"interface": [{"name": "eth0", "mac": MAC, "addresses": ["192.168.77.2/24"]}]}
CONNECTIONS: dict[str, dict[str, Any]] = {
    "nvme-tcp": {"port": 4420, "host": "nqn.2026-11.test:me", "host_id": UUID},
    "iscsi": {
        "port": 3260, "initiator": "iqn.2026-11.test:me", "portal_group": "1", "user": disk_server.USER,
        "password": disk_server.PASSWORD,
    },
}  # fmt: skip


def scenario(kind: str, tree: KernelTree, port: int) -> Scenario:
    entry = {"connect": kind, "name": disk_server.NAME, "address": disk_server.ADDRESS, **CONNECTIONS[kind]}
    facts = {"uuid": UUID, "fstype": "ext4", "path": "/"}
    targets = (Spec("file:///var/crash", facts), Spec(f"file:///{DUMPS}"))
    plan = CapturePlan(
        targets=targets, mode=FIRST, network=WIRED, storage=(entry,), deadlines=Deadlines(target=60, stall=60)
    )
    return Scenario(
        tree, find_cause("sysrq"), work=8 << 20, plan=plan, devices=wire("connect", port, MAC),
        modules=("virtio_net", {"iscsi": "iscsi_tcp", "nvme-tcp": "nvme_tcp"}[kind], "sd_mod"),
        files=remote.files([entry]),
    )  # fmt: skip


@pytest.mark.lab
@pytest.mark.matrix
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", CONNECTIONS)
def test_the_server_goes_away_during_the_dump(kind: str, kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    """The whole dump goes to the next target. docs/machines.md has the good case."""
    data = tmp_path / "data.img"
    disk.create_ext4(data, 256 << 20, uuid=UUID)
    with served(kind, data, tmp_path, "dies") as port:
        saved = crash(scenario(kind, kernel("6.12-generic"), port), tmp_path)
    assert "connected to 192.168.77.1" in saved.console.read_text(errors="replace")
    assert saved.manifest["where"].startswith(f"/{DUMPS}")
    assert saved.manifest["status"] == "degraded"
