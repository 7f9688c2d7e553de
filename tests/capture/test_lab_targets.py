"""A real machine crashes once and saves to every kind of target at the same time, across a real network."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest
from tests import foreign
from tests.targets.servers import client_of, sshd, take_large_answers, weed

from kdump.capture.fence import MESSAGE
from kdump.capture.plan import ALL, CapturePlan, Fence
from kdump.cli.main import main
from kdump.dump.manifest import check
from kdump.image.kernel_tree import KernelTree
from kdump.lab import disk
from kdump.lab.causes import find_cause
from kdump.lab.crash import DUMPS, Scenario, crash
from kdump.memory import open_dump
from kdump.targets import target_for
from kdump.targets.protocol import Spec

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


XFS = "11111111-2222-4333-8444-555555555501"
BTRFS = "11111111-2222-4333-8444-555555555502"
PARTITION = "11111111-2222-4333-8444-555555555503"
FIRST_SECTOR = 2048


def local_disks(directory: Path) -> tuple[tuple[Spec, ...], tuple[str, ...], Path]:
    """xfs, btrfs with a subvolume, and a raw partition: specifications, QEMU's arguments, the raw partition's disk."""
    images = {name: disk.create(directory / f"{name}.img", 512 << 20) for name in ("xfs", "btrfs", "raw")}
    (directory / "tree/@crash").mkdir(parents=True)
    subprocess.run(["mkfs.xfs", "-q", "-m", f"uuid={XFS}", images["xfs"]], check=True)
    subprocess.run(["mkfs.btrfs", "-q", "-U", BTRFS, "-r", directory / "tree", images["btrfs"]], check=True)
    layout = f"label: gpt\nstart={FIRST_SECTOR}, size=800000, uuid={PARTITION}\n"
    subprocess.run(["sfdisk", "-q", images["raw"]], input=layout, text=True, check=True)
    with images["raw"].open("r+b") as file:
        file.seek(FIRST_SECTOR * 512)
        file.write(empty_area(directory))
    specs = (
        Spec("file:///xfs", {"uuid": XFS, "fstype": "xfs", "path": "/crash"}),
        Spec("file:///btrfs", {"uuid": BTRFS, "fstype": "btrfs", "options": "subvolid=5", "path": "/@crash"}),
        Spec(f"block:///dev/disk/by-partuuid/{PARTITION}", {"partuuid": PARTITION}),
    )
    devices = [f"if=none,id={name},format=raw,file={path}" for name, path in images.items()]
    arguments = [("-drive", drive, "-device", f"virtio-blk-pci,drive={drive[11:].split(',')[0]}") for drive in devices]
    return specs, tuple(word for four in arguments for word in four), images["raw"]


def empty_area(directory: Path) -> bytes:
    """The first bytes of a raw partition that is ready to take a dump."""
    path = disk.create(directory / "area", 1 << 20)
    assert main(["collect", "--format", str(path)]) == 0
    return path.read_bytes()[: 64 << 10]


def collect(raw: Path, directory: Path) -> Path:
    """Fetch the crash from the partition on the raw disk."""
    area = directory / "partition"
    with raw.open("rb") as file:
        file.seek(FIRST_SECTOR * 512)
        area.write_bytes(file.read(800000 * 512))
    assert main(["collect", str(area), "--to", str(directory / "collected")]) == 0
    (crash,) = (directory / "collected").iterdir()
    return crash


@pytest.mark.lab
@pytest.mark.parametrize(("series", "crashkernel"), [("6.1", "160M"), ("6.12", "256M")])
def test_every_target_at_once(
    series: str,
    crashkernel: str,
    kernel: Callable[[str], KernelTree],
    debug_vmlinux: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_large_answers(monkeypatch)
    secure = series == "6.1"  # S3 by TLS, in the smaller reservation
    with (
        sshd(tmp_path / "sshd", HOST) as ssh,
        weed(tmp_path / "weed", tls_for=HOST if secure else "") as bucket,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as node,
    ):
        node.bind(("127.0.0.1", 0))  # QEMU's user network leads there
        node.setblocking(False)
        keys = {"identity": "/etc/kdump/id", "known_hosts": "/etc/kdump/known_hosts"}
        to_ssh = Spec(f"ssh://root@{HOST}:{ssh.port}{tmp_path}/received", keys)
        endpoint = bucket.endpoint.replace(bucket.address, HOST)
        facts = {"endpoint": endpoint, "credentials": "/etc/kdump/s3.toml"}
        to_s3 = Spec("s3://dumps/lab", facts | ({"ca_file": "/etc/kdump/ca.pem"} if secure else {}))
        files: dict[str, bytes | Path] = {
            "/etc/kdump/id": (ssh.directory / "id").read_bytes(),
            "/etc/kdump/known_hosts": (ssh.directory / "known_hosts").read_bytes(),
            "/etc/kdump/s3.toml": (bucket.directory / "s3.toml").read_bytes(),
            **target_for(to_ssh).files(),
            **({"/etc/kdump/ca.pem": Path(bucket.certificate)} if secure else {}),
        }
        more, devices, raw = local_disks(tmp_path) if series == "6.12" else ((), (), tmp_path)
        cpus = 2 if more else 1
        targets = (Spec(f"file:///{DUMPS}"), to_ssh, to_s3, *more)
        fence = Fence((HOST,), node.getsockname()[1], interval=1)
        plan = CapturePlan(targets=targets, mode=ALL, network=NETWORK, cpus=cpus, fence=fence)
        modules = ("virtio_net", "bonding", "bridge", *(["xfs", "btrfs"] if more else []))
        scenario = Scenario(
            kernel(series), find_cause("sysrq"), memory=1 << 30, work=16 << 20, crashkernel=crashkernel,
            plan=plan, devices=(*DEVICES, *devices), modules=modules, files=files,
            cpus=cpus, append=f"nr_cpus={cpus}",
        )  # fmt: skip
        directory = tmp_path / "lab"
        directory.mkdir()
        saved = crash(scenario, directory)
        assert saved.manifest["status"] == "complete"
        assert saved.manifest["capture"]["cpus"] == cpus
        assert [node.recv(64) for _ in range(2)] == [MESSAGE] * 2
        name = saved.manifest["crash"]
        names = {path.name for path in saved.directory.iterdir()}
        assert {path.name for path in (tmp_path / "received" / name).iterdir()} == names
        client = client_of(bucket)
        for entry in saved.manifest["files"]:
            assert list(check(saved.directory, entry)) == []
            assert list(check(tmp_path / "received" / name, entry)) == []
            stored = client.request("GET", f"lab/{name}/{entry['name']}").body
            assert stored == (saved.directory / entry["name"]).read_bytes()
    # Every target has the same bytes as this one, here and below.
    vmcore = saved.directory / "vmcore"
    assert "sysrq" in foreign.ask_crash(debug_vmlinux(series), vmcore, series).panic
    assert foreign.release_by_drgn(vmcore) == kernel(series).release
    if more:
        collected = collect(raw, tmp_path)
        assert {path.name for path in collected.iterdir()} == names
        for entry in saved.manifest["files"]:
            assert list(check(collected, entry)) == []
        on_btrfs = tmp_path / "restored"
        on_btrfs.mkdir()
        subprocess.run(["btrfs", "restore", tmp_path / "btrfs.img", on_btrfs], check=True, capture_output=True)
        for entry in saved.manifest["files"]:
            assert list(check(on_btrfs / "@crash" / name, entry)) == []


@pytest.mark.lab
def test_an_encrypted_crash_in_little_memory(kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    plan = CapturePlan(recipients=(str(identity.to_public()),))
    scenario = Scenario(
        kernel("6.1"), find_cause("sysrq"), memory=1 << 30, work=16 << 20, crashkernel="128M", plan=plan
    )  # fmt: skip
    saved = crash(scenario, tmp_path)
    assert saved.manifest["status"] == "complete"
    assert [finding for entry in saved.manifest["files"] for finding in check(saved.directory, entry)] == []
    plain = {path.stem: pyrage.decrypt(path.read_bytes(), [identity]) for path in saved.directory.glob("*.age")}
    assert set(plain) >= {"vmcore", "vmcore-dmesg.txt", "manifest.json", "capture.log"}
    assert b"Kernel panic" in plain["vmcore-dmesg.txt"]
    (tmp_path / "vmcore").write_bytes(plain["vmcore"])
    with open_dump(tmp_path / "vmcore") as dump:
        assert not dump.incomplete
        assert dump.vmcoreinfo
