"""Disks of other machines, as a fake sysfs shows them: real ones are in docs/machines.md (iscsi, nvme-tcp)."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.host.test_storage import Sysfs

from kdump.capture.plan import NETWORK, REMOTE, CapturePlan
from kdump.capture.remote import iscsi_command, nvme_options
from kdump.errors import KdumpError
from kdump.host import remote, storage
from kdump.host.volumes import refuse_unreachable

SESSION = "devices/platform/host2/session1"
CONTROLLER = "devices/virtual/nvme-fabrics/ctl/nvme0"


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path)


def write(place: Path, **said: str) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, text in said.items():
        (place / name).write_text(f"{text}\n")


def iscsi_disk(sysfs: Sysfs, driver: str = "iscsi_tcp", **said: str) -> tuple[storage.Layer, ...]:
    sysfs.block(f"{SESSION}/target2:0:0/2:0:0:1/block/sda", "8:0")
    write(sysfs.root / "devices/platform/host2/scsi_host/host2", proc_name=driver)
    session = {"targetname": "iqn.2026-11.test:crash", "tpgt": "1", "initiatorname": "iqn.1993-08.org.debian:01:a"}
    unset = {"username": "(null)", "password": "(null)"}
    write(sysfs.root / "class/iscsi_session/session1", **session | unset | said)
    portal = {"persistent_address": "192.0.2.1", "address": "192.0.2.9", "persistent_port": "3260"}
    write(sysfs.root / "class/iscsi_connection/connection1:0", **portal)
    return storage.walk("8:0", sysfs.root).layers


def nvme_disk(sysfs: Sysfs, **said: str) -> tuple[storage.Layer, ...]:
    controller = sysfs.device(CONTROLLER)
    address = "traddr=2001:db8::1,trsvcid=4420,src_addr=2001:db8::2"
    facts = {"transport": "tcp", "address": address, "subsysnqn": "nqn.test", "hostnqn": "nqn.host", "hostid": "1-2"}
    write(controller, **facts | said)
    subsystem = sysfs.device("devices/virtual/nvme-subsystem/nvme-subsys0")
    (subsystem / "nvme0").symlink_to(controller)
    sysfs.block("devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", "259:1")
    return storage.walk("259:1", sysfs.root).layers


def test_an_iscsi_disk_of_the_software_initiator(sysfs: Sysfs) -> None:
    layers = iscsi_disk(sysfs, username="me", password="a b")
    refuse_unreachable(layers)
    assert storage.walk("8:0", sysfs.root).modules == ("iscsi_tcp",)
    (entry,) = remote.connections((*layers, *layers), sysfs.root)
    assert entry["address"] == "192.0.2.1"
    command = iscsi_command(entry)
    assert command[1:9] == [
        "-i", "iqn.1993-08.org.debian:01:a", "-t", "iqn.2026-11.test:crash", "-g", "1", "-a", "192.0.2.1",
    ]  # fmt: skip
    assert command[command.index("-u") + 1] == "me"
    assert command[command.index("-w") + 1] == "a b"
    assert "-U" not in command
    plan = CapturePlan(storage=(entry,))
    assert plan.online_first
    assert set(plan.imports()) >= {REMOTE, NETWORK}
    assert CapturePlan.from_json(plan.to_json()) == plan


def test_a_session_of_an_adapter_is_refused_by_its_name(sysfs: Sysfs) -> None:
    with pytest.raises(KdumpError, match="an iSCSI disk by qla4xxx"):
        refuse_unreachable(iscsi_disk(sysfs, driver="qla4xxx"))


def test_a_session_that_says_nothing_is_refused(sysfs: Sysfs) -> None:
    with pytest.raises(KdumpError, match="does not say what it is connected to"):
        remote.connections(iscsi_disk(sysfs, targetname=""), sysfs.root)


def test_an_nvme_namespace_over_tcp(sysfs: Sysfs) -> None:
    layers = nvme_disk(sysfs)
    refuse_unreachable(layers)
    assert storage.walk("259:1", sysfs.root).modules == ("nvme_tcp",)
    (entry,) = remote.connections(layers, sysfs.root)
    options = nvme_options(entry).split(",")
    assert {"nqn=nqn.test", "traddr=2001:db8::1", "trsvcid=4420", "hostnqn=nqn.host", "hostid=1-2"} <= set(options)
    assert remote.files([entry]) == {}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"dhchap_secret": "DHHC-1:00:abc:"}, "authenticated"),
        ({"tls_key": "12345678"}, "encrypted"),
        ({"address": "traddr=nowhere,trsvcid=4420"}, "does not say"),
    ],
)
def test_nvme_connections_that_cannot_be_made_again_are_refused(sysfs: Sysfs, said: dict[str, str], why: str) -> None:
    with pytest.raises(KdumpError, match=why):
        remote.connections(nvme_disk(sysfs, **said), sysfs.root)


def test_the_tool_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "ISCSISTART", ("/nonexistent/iscsistart",))
    with pytest.raises(KdumpError, match="iscsistart is not installed") as caught:
        remote.files([{"connect": "iscsi"}])
    assert "open-iscsi" in caught.value.remedy
