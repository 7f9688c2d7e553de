"""nfs:// against the kernel's nfsd in a second virtual machine."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.capture import nfs_server
from tests.targets.servers import free_port

from kdump.capture.plan import ALL, FIRST, CapturePlan, Deadlines
from kdump.image.build import build, module_paths
from kdump.image.kernel_tree import KernelTree
from kdump.lab.causes import find_cause
from kdump.lab.crash import DUMPS, Scenario, crash
from kdump.lab.machine import Machine
from kdump.lab.qemu import Spec as MachineSpec
from kdump.targets.protocol import Spec

MODULES = ("virtio_pci", "virtio_net", "8021q", "nfsd")
TOOLS = ("rpcbind", "exportfs", "rpc.nfsd", "rpc.mountd")
MAC = "52:54:00:77:00:02"
ADDRESSES = ["192.168.77.2/24"]
NETWORK = {"interface": [{"name": "eth0", "mac": MAC, "addresses": ADDRESSES}]}
TAGGED = {
    "interface": [
        {"name": "eth0.7", "vlan": 7, "links": ["eth0"], "addresses": ADDRESSES},
        {"name": "eth0", "mac": MAC},
    ]
}


def wire(role: str, port: int, mac: str) -> tuple[str, ...]:
    """Two machines on one cable: `role` is listen or connect."""
    return ("-netdev", f"socket,id=wire,{role}=127.0.0.1:{port}", "-device", f"virtio-net-pci,netdev=wire,mac={mac}")


@contextlib.contextmanager
def nfs_machine(tree: KernelTree, directory: Path, port: int, cmdline: str = "") -> Iterator[Machine]:
    files: dict[str, bytes | Path] = {f"/usr/sbin/{name}": Path("/usr/sbin", name) for name in TOOLS}
    for name in ("netconfig", "services", "protocols", "rpc"):
        if Path("/etc", name).exists():
            files[f"/etc/{name}"] = Path("/etc", name)
    files |= {
        "/etc/exports": b"/srv *(rw,no_root_squash,insecure,no_subtree_check,fsid=0)\n",
        "/etc/passwd": b"root:x:0:0:root:/:/bin/sh\n_rpc:x:0:0:rpc:/:/bin/sh\n",
        "/etc/group": b"root:x:0:\n",
        "/srv/x": b"",
        "/var/lib/nfs/x": b"",
        nfs_server.MODULES: "\n".join(module_paths(tree, MODULES)).encode(),
    }
    image = directory / "server.img"
    build(tree, entry="tests.capture.nfs_server", modules=MODULES, files=files, output=image)
    spec = MachineSpec(
        kernel=tree.vmlinuz,
        initrd=image,
        cmdline=f"console=ttyS0,115200 panic=-1 {cmdline}",
        memory=512 << 20,
        extra=wire("listen", port, nfs_server.MAC),
    )
    with Machine(spec, console=directory / "server.log") as machine:
        machine.wait_for(r"nfs-server: ready", 120, unless="nfs-server: FAILED|Kernel panic")
        yield machine


def client(tree: KernelTree, port: int, version: str, mode: str) -> Scenario:
    facts = {"version": version, "options": "defaults,sec=sys,_netdev,noatime,nofail,x-systemd.automount"}
    path = "srv/dumps" if version == "3" else "dumps"  # what has fsid=0 is the root that version 4 shows
    targets = (Spec(f"nfs://192.168.77.1/{path}", facts), Spec(f"file:///{DUMPS}"))
    return Scenario(
        tree, find_cause("sysrq"), memory=1 << 30, work=8 << 20, crashkernel="160M",
        plan=CapturePlan(
            targets=targets, mode=mode, network=TAGGED if version == "3" else NETWORK, deadlines=Deadlines(target=60)
        ),
        devices=wire("connect", port, MAC), modules=("virtio_net", "8021q", "nfsv3" if version == "3" else "nfsv4"),
    )  # fmt: skip


@pytest.mark.lab
def test_a_crash_arrives(kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    """Across a VLAN."""
    port = free_port()
    with nfs_machine(kernel("6.1"), tmp_path, port, "vlan") as server:
        saved = crash(client(kernel("6.1"), port, "3", ALL), tmp_path)
        server.wait_for(r"nfs-server: done", 60)
        received = dict(line.split()[-2:] for _, line in server.lines if "nfs-server: saved" in line)
    assert saved.manifest["status"] == "complete"
    assert re.search(r"eth0\.7: link up, [\d.]+ s", saved.console.read_text(errors="replace"))
    for entry in saved.manifest["files"]:
        mine = hashlib.sha256((saved.directory / entry["name"]).read_bytes()).hexdigest()
        assert received[entry["name"]] == mine


@pytest.mark.lab
def test_the_server_goes_away_during_the_dump(kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    port = free_port()
    with nfs_machine(kernel("6.12"), tmp_path, port, "dies") as server:
        saved = crash(client(kernel("6.12"), port, "4.2", FIRST), tmp_path)
        assert any("nfs-server: dies" in line for _, line in server.lines)
    assert saved.manifest["where"].startswith(f"/{DUMPS}")
    assert saved.manifest["status"] == "degraded"
