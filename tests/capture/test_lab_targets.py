"""A real machine crashes once and saves to every kind of target at the same time, across a real network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.targets.servers import sshd, weed

from kdump.capture.plan import ALL, CapturePlan
from kdump.dump.manifest import check
from kdump.image.kernel import KernelTree
from kdump.lab.causes import find_cause
from kdump.lab.crash import DUMPS, Scenario, crash
from kdump.targets import target_for
from kdump.targets.protocol import Spec
from kdump.targets.s3 import read_credentials
from kdump.targets.s3http import Client

HOST = "10.0.2.2"  # this machine, as QEMU's user network shows it to a guest
MAC = "52:54:00:12:34:56"
NETWORK = {
    "interface": [
        {"name": "port0", "mac": MAC},
        {"name": "bond0", "bond": "active-backup", "links": ["port0"]},
        {"name": "br0", "bridge": True, "links": ["bond0"], "dhcp": True, "ra": True},
    ]
}
DEVICES = ("-netdev", "user,id=net0", "-device", f"virtio-net-pci,netdev=net0,mac={MAC}")


@pytest.mark.lab
@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_every_target_at_once(series: str, kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    with sshd(tmp_path / "sshd", HOST) as ssh, weed(tmp_path / "weed") as bucket:
        keys = {"identity": "/etc/kdump/id", "known_hosts": "/etc/kdump/known_hosts"}
        to_ssh = Spec(f"ssh://root@{HOST}:{ssh.port}{tmp_path}/received", keys)
        endpoint = f"http://{HOST}:{bucket.port}"
        to_s3 = Spec("s3://dumps/lab", {"endpoint": endpoint, "credentials": "/etc/kdump/s3.toml"})
        files: dict[str, bytes | Path] = {
            "/etc/kdump/id": (ssh.directory / "id").read_bytes(),
            "/etc/kdump/known_hosts": (ssh.directory / "known_hosts").read_bytes(),
            "/etc/kdump/s3.toml": (bucket.directory / "s3.toml").read_bytes(),
            **target_for(to_ssh).files(),
        }
        plan = CapturePlan(targets=(Spec(f"file:///{DUMPS}"), to_ssh, to_s3), mode=ALL, network=NETWORK)
        scenario = Scenario(
            kernel(series), find_cause("sysrq"), memory=512 << 20, work=16 << 20, crashkernel="160M",
            plan=plan, devices=DEVICES, modules=("virtio_net", "bonding", "bridge"), files=files,
        )  # fmt: skip
        directory = tmp_path / "lab"
        directory.mkdir()
        saved = crash(scenario, directory)
        assert saved.manifest["status"] == "complete"
        name = saved.manifest["crash"]
        names = {path.name for path in saved.directory.iterdir()}
        assert {path.name for path in (tmp_path / "received" / name).iterdir()} == names
        client = Client(bucket.endpoint, "dumps", "us-east-1", read_credentials(bucket.facts["credentials"]))
        for entry in saved.manifest["files"]:
            assert list(check(saved.directory, entry)) == []
            assert list(check(tmp_path / "received" / name, entry)) == []
            stored = client.request("GET", f"lab/{name}/{entry['name']}").body
            assert stored == (saved.directory / entry["name"]).read_bytes()
