"""From configuration and machine to the plan: what follows from the configuration, what is refused, what is carried."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from pathlib import Path

import pytest

from kdump.capture.devicemapper import DmTarget
from kdump.capture.plan import PLAN_PATH, CapturePlan
from kdump.errors import KdumpError
from kdump.host import built, config, encryption, plan
from kdump.host.config import Config, Retention
from kdump.host.storage import Layer
from kdump.image import closure
from kdump.image.kernel_tree import KernelTree
from kdump.targets.protocol import Spec
from kdump.targets.superblock import Content


def test_the_plan_says_what_the_configuration_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    wanted = config.parse(
        """
        save_to = "all"
        name = "db1"
        [dump]
        level = 17
        codec = "zstd"
        codec_level = 3
        report = false
        [action]
        success = "poweroff"
        failure = "halt"
        [hooks]
        pre = ["/bin/a"]
        timeout = "5s"
        [deadlines]
        total = "1h"
        stall = "1min"
        [retention]
        keep = 2
        min_free = "2G"
        [capture]
        cpus = 4
        """
    )
    made = plan.plan_of(wanted)
    assert (made.mode, made.hostname, made.level, made.codec, made.codec_level) == ("all", "db1", 17, "zstd", 3)
    assert (made.on_success, made.on_failure, made.report, made.cpus) == ("poweroff", "halt", False, 4)
    assert (made.hooks.pre, made.hooks.seconds) == (("/bin/a",), 5)
    assert (made.deadlines.total, made.deadlines.stall) == (3600, 60)
    assert (made.keep, made.min_free) == (0, 2 << 30)
    assert CapturePlan.from_json(made.to_json()) == made


def test_specifications_carry_what_their_table_says() -> None:
    wanted = config.parse('[s3]\nendpoint = "https://s3.example.net"\n[nfs]\noptions = "nfsvers=3"\n')
    assert plan.specification("ssh://a@b/c", wanted).facts == {
        "identity": "/etc/kdump/id_ed25519",
        "known_hosts": "/etc/kdump/known_hosts",
    }
    assert plan.specification("nfs://s/e", wanted).facts == {"options": "nfsvers=3"}
    assert plan.server(Spec("s3://bucket/x"), wanted) == "s3.example.net"
    assert plan.server(Spec("s3://bucket/x"), Config()) == "s3.us-east-1.amazonaws.com"
    assert plan.server(Spec("ssh://a@b:22/c"), Config()) == "b"


def test_devices_that_the_capture_kernel_cannot_open_are_refused() -> None:
    for metadata in ("1.2", "0.90"):
        plan.refuse_unreachable([Layer("md0", "9:0", "md", "raid1", metadata=metadata)])
    for layer in (
        Layer("md0", "9:0", "md", "raid1", metadata="external:imsm"),
        Layer("dm-1", "253:1", "dmraid", "isw_x"),
    ):
        with pytest.raises(KdumpError, match=r"only those with metadata 0\.90, 1\.0"):
            plan.refuse_unreachable([layer])
    with pytest.raises(KdumpError, match="a file on another file system"):
        plan.refuse_unreachable([Layer("loop0", "7:0", "loop")])


def test_volumes_are_carried_with_uuids_for_numbers() -> None:
    layers = [Layer("dm-0", "253:0", "lvm", "vg-crash", "LVM-x"), Layer("vda2", "254:2", "partition")]
    table = [DmTarget(0, 2048, "linear", "254:2 384"), DmTarget(2048, 4096, "striped", "2 128 254:2 0 254:2 8192")]
    content = {"/dev/vda2": Content("LVM2_member", "PV-1")}
    assert plan.volumes(layers, lambda _device: table, content.get) == (
        {
            "name": "vg-crash",
            "uuid": "LVM-x",
            "table": [[0, 2048, "linear", "<PV-1> 384"], [2048, 4096, "striped", "2 128 <PV-1> 0 <PV-1> 8192"]],
        },
    )
    with pytest.raises(KdumpError, match="of kind snapshot-origin") as caught:
        plan.volumes(layers, lambda _device: [DmTarget(0, 1, "snapshot-origin", "253:3")], content.get)
    assert "damages them" in caught.value.why
    with pytest.raises(KdumpError, match="stands on vda2"):
        plan.volumes(layers, lambda _device: table, lambda _path: None)
    assert plan.volumes([Layer("dm-1", "253:1", "multipath", "m", "mpath-1")]) == ()


def test_multipath_maps_are_carried_by_the_identity_of_their_disks() -> None:
    layers = [
        Layer("dm-1", "253:1", "partition", "m-part1", "part1-mpath-3600", ("dm-0",)),
        Layer("dm-0", "253:0", "multipath", "m", "mpath-3600", ("sda", "sdb")),
        Layer("sda", "8:0", "disk"),
        Layer("sdb", "8:16", "disk"),
    ]
    groups = "2 1 service-time 0 1 2 8:0 1 1 service-time 0 1 2 8:16 1 1"
    tables = {
        "253:0": [DmTarget(0, 8192, "multipath", f"2 queue_if_no_path retain_attached_hw_handler 1 alua {groups}")],
        "253:1": [DmTarget(0, 4096, "linear", "253:0 2048")],
    }
    made = plan.volumes(
        layers, tables.__getitem__, lambda _path: None, {"sda": "naa.3600", "sdb": "naa.3600"}.__getitem__
    )
    assert made == (
        {
            "multipath": "naa.3600", "name": "m", "uuid": "mpath-3600", "paths": 2, "size": 8192,
            "handler": "1 alua", "selector": "service-time",
        },
        {"name": "m-part1", "uuid": "part1-mpath-3600", "table": [[0, 4096, "linear", "<dm:m> 2048"]]},
    )  # fmt: skip
    assert set(plan.segment_modules(made)) == {"dm_multipath", "dm_service_time", "dm_mod"}
    # Disks that do not say who they are: what is on them is found on any one path.
    assert plan.volumes(layers, tables.__getitem__, lambda _path: None, lambda _name: "") == ()


def test_encrypted_volumes_are_carried_without_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "_unreadable", lambda _root: "")
    layers = [
        Layer("dm-1", "253:1", "lvm", "vg-crash", "LVM-x", ("dm-0",)),
        Layer("dm-0", "253:0", "crypt", "home", "CRYPT-LUKS2-x", ("vda2",)),
        Layer("vda2", "254:2", "partition"),
    ]
    tables = {
        "253:0": [DmTarget(0, 8192, "crypt", "aes-xts-plain64 :64:logon 0 254:2 32768 1 allow_discards")],
        "253:1": [DmTarget(0, 2048, "linear", "253:0 384")],
    }
    content = {"/dev/vda2": Content("crypto_LUKS", "L-1"), "/dev/dm-0": Content("LVM2_member", "PV-1")}
    assert plan.volumes(layers, tables.__getitem__, content.get) == (
        {
            "name": "home",
            "uuid": "CRYPT-LUKS2-x",
            "table": [[0, 8192, "crypt", "aes-xts-plain64 :64:logon 0 <L-1> 32768"]],
            "holds": "PV-1",
        },
        {"name": "vg-crash", "uuid": "LVM-x", "table": [[0, 2048, "linear", "<dm:home> 384"]]},
    )
    with pytest.raises(KdumpError, match="stands on dm-0, and nothing there has a UUID"):
        plan.volumes(layers[1:], tables.__getitem__, {"/dev/vda2": content["/dev/vda2"]}.get)
    tables["253:0"] = [DmTarget(0, 8192, "crypt", "serpent-xts-plain64 :64:logon 0 254:2 32768")]
    with pytest.raises(KdumpError, match="the encrypted volume home cannot be opened after a crash"):
        plan.volumes(layers, tables.__getitem__, content.get)


def test_thin_volumes_name_what_they_stand_on() -> None:
    layers = [
        Layer("dm-3", "253:3", "lvm", "vg-thin", "LVM-t", ("dm-2",)),
        Layer("dm-2", "253:2", "lvm", "vg-pool-tpool", "LVM-p", ("dm-0", "dm-1")),
        Layer("dm-1", "253:1", "lvm", "vg-pool_tdata", "LVM-d", ("vda",)),
        Layer("dm-0", "253:0", "lvm", "vg-pool_tmeta", "LVM-m", ("vda",)),
        Layer("vda", "254:0", "disk"),
    ]
    tables = {
        "253:0": [DmTarget(0, 8192, "linear", "254:0 2048")],
        "253:1": [DmTarget(0, 81920, "linear", "254:0 10240")],
        "253:2": [DmTarget(0, 81920, "thin-pool", "253:0 253:1 128 0 1 skip_block_zeroing")],
        "253:3": [DmTarget(0, 204800, "thin", "253:2 1")],
    }
    made = plan.volumes(layers, tables.__getitem__, {"/dev/vda": Content("LVM2_member", "PV-1")}.get)
    assert [entry["table"][0][3] for entry in made] == [
        "<PV-1> 2048",
        "<PV-1> 10240",
        "<dm:vg-pool_tmeta> <dm:vg-pool_tdata> 128 0 1 skip_block_zeroing",
        "<dm:vg-pool-tpool> 1",
    ]
    assert plan.segment_modules(made) == ["dm_mod", "dm_thin_pool"]


def test_arrays_come_before_the_volumes_on_them() -> None:
    layers = [
        Layer("dm-0", "253:0", "lvm", "vg-crash", "LVM-x", ("md127",)),
        Layer("md127", "9:127", "md", "raid1", beneath=("vda", "vdb"), metadata="1.2"),
        Layer("vda", "254:0", "disk"),
        Layer("vdb", "254:16", "disk"),
    ]
    content = {"/dev/md127": Content("LVM2_member", "PV-1"), "/dev/vda": Content("linux_raid_member", "A-1")}
    made = plan.volumes(layers, lambda _device: [DmTarget(0, 2048, "linear", "9:127 384")], content.get)
    assert made == (
        {"array": "md127", "uuid": "A-1", "metadata": "1.2", "disks": 2},
        {"name": "vg-crash", "uuid": "LVM-x", "table": [[0, 2048, "linear", "<PV-1> 384"]]},
    )
    with pytest.raises(KdumpError, match="stands on vda"):
        plan.volumes(layers[1:], content_of=lambda _path: Content("ext4", "mirrored"))


def test_what_the_image_carries(tmp_path: Path) -> None:
    (tmp_path / "tools/sub").mkdir(parents=True)
    (tmp_path / "tools/a").touch()
    (tmp_path / "tools/sub/b").touch()
    (tmp_path / "key").touch()
    wanted = replace(
        Config(targets=("ssh://a@b/c",)),
        capture=config.Capture(files=(f"{tmp_path}/tools",)),
        ssh=config.Ssh(identity=f"{tmp_path}/key", known_hosts=f"{tmp_path}/key"),
    )
    names = [f"{tmp_path}/tools/a", f"{tmp_path}/tools/sub/b", f"{tmp_path}/key"]
    assert plan.carried(wanted) == {name: Path(name) for name in names}
    with pytest.raises(KdumpError, match="does not exist"):
        plan.carried(config.parse('[hooks]\npost = ["/nonexistent/hook"]'))


def prepared(tmp_path: Path, *, level: int = 31, extra: bytes = b"x") -> plan.Prepared:
    vmlinuz = tmp_path / "vmlinuz"
    if not vmlinuz.exists():
        vmlinuz.write_bytes(b"kernel")
    made = CapturePlan(level=level, targets=(Spec("file:///var/crash"),))
    files: dict[str, bytes | Path] = {PLAN_PATH: made.to_json().encode(), "/etc/extra": extra}
    return plan.Prepared(KernelTree("6.1", vmlinuz, None), made, (), files, ())


def test_an_image_is_stale_when_what_goes_in_changes_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdump.image.closure.find", functools.cache(closure.find))  # a second each time
    first = prepared(tmp_path)
    record = built.Record("i", "6.1", str(tmp_path / "vmlinuz"), 1, 0.0, built.fingerprint(first))
    assert built.stale(record, built.fingerprint(first)) == []
    (tmp_path / "vmlinuz").touch()
    assert built.stale(record, built.fingerprint(first)) == []  # a time stamp is nothing
    assert built.stale(None, {}) == ["no image is built"]
    assert built.stale(record, built.fingerprint(prepared(tmp_path, level=1))) == [
        "the configuration or the machine it was resolved on changed"
    ]
    assert built.stale(record, built.fingerprint(prepared(tmp_path, extra=b"y"))) == [
        "files that the configuration adds changed"
    ]
    (tmp_path / "vmlinuz").write_bytes(b"other")
    assert built.stale(record, built.fingerprint(first)) == ["the kernel changed"]


def test_records_are_private_and_broken_ones_do_not_count(tmp_path: Path) -> None:
    record = built.Record(str(tmp_path / "img"), "6.1", "/boot/vmlinuz", 1, 2.0, {"plan": "x"})
    record.write(tmp_path / "6.1/image.json")
    assert (tmp_path / "6.1/image.json").stat().st_mode & 0o777 == 0o600
    assert built.recorded("6.1", tmp_path) is None  # there is no image
    (tmp_path / "img").touch()
    assert built.recorded("6.1", tmp_path) == record
    (tmp_path / "6.1/image.json").write_text("{")
    assert built.recorded("6.1", tmp_path) is None


def test_the_command_line_is_the_running_ones_with_the_configurations_changes(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text("console=ttyS0 foo.bar=1 quiet\n")
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\ninitial apicid\t: 4\n")
    wanted = config.parse('[capture]\ncmdline_remove = ["foo.bar"]\ncmdline_add = ["panic=20"]\ncpus = 2\n')
    words = built.command_line(wanted, tmp_path).text.split()
    assert "foo.bar=1" not in words
    assert {"console=ttyS0", "nr_cpus=2", "disable_cpu_apicid=4", "panic=20"} <= set(words)
    assert "panic=10" not in words


def test_the_count_of_crashes_is_left_to_the_machine_where_it_can_see_them() -> None:
    """The oldest crash may be the only one of its kind, which the capture kernel cannot know."""
    rules = Retention(keep=3, min_free=1 << 30)
    assert (plan.plan_of(Config(retention=rules)).keep, plan.plan_of(Config(retention=rules)).min_free) == (0, 1 << 30)
    assert plan.plan_of(Config(targets=("file:///var/crash", "ssh://h/crash"), retention=rules)).keep == 3
