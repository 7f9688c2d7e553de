"""The arrays and volumes of the plan."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from kdump.capture.devicemapper import DmTarget
from kdump.errors import KdumpError
from kdump.host import encryption, volumes
from kdump.host.storage import Layer
from kdump.targets.superblock import Content


def test_devices_that_the_capture_kernel_cannot_open_are_refused() -> None:
    for metadata in ("1.2", "0.90"):
        volumes.refuse_unreachable([Layer("md0", "9:0", "md", "raid1", metadata=metadata)])
    for layer in (
        Layer("md0", "9:0", "md", "raid1", metadata="external:imsm"),
        Layer("dm-1", "253:1", "dmraid", "isw_x"),
    ):
        with pytest.raises(KdumpError, match=r"only those with metadata 0\.90, 1\.0"):
            volumes.refuse_unreachable([layer])
    with pytest.raises(KdumpError, match="a file on another file system"):
        volumes.refuse_unreachable([Layer("loop0", "7:0", "loop")])


def test_volumes_are_carried_with_uuids_for_numbers() -> None:
    layers = [Layer("dm-0", "253:0", "lvm", "vg-crash", "LVM-x"), Layer("vda2", "254:2", "partition")]
    table = [DmTarget(0, 2048, "linear", "254:2 384"), DmTarget(2048, 4096, "striped", "2 128 254:2 0 254:2 8192")]
    content = {"/dev/vda2": Content("LVM2_member", "PV-1")}
    assert volumes.volumes(layers, lambda _device: table, content.get) == (
        {
            "name": "vg-crash",
            "uuid": "LVM-x",
            "table": [[0, 2048, "linear", "<PV-1> 384"], [2048, 4096, "striped", "2 128 <PV-1> 0 <PV-1> 8192"]],
        },
    )
    with pytest.raises(KdumpError, match="of kind snapshot-merge") as caught:
        volumes.volumes(layers, lambda _device: [DmTarget(0, 1, "snapshot-merge", "254:2 254:2 P 8")], content.get)
    assert "merged into its origin" in caught.value.why
    with pytest.raises(KdumpError, match="stands on vda2"):
        volumes.volumes(layers, lambda _device: table, lambda _path: None)
    assert volumes.volumes([Layer("dm-1", "253:1", "multipath", "m", "mpath-1")]) == ()


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
    made = volumes.volumes(
        layers, tables.__getitem__, lambda _path: None, {"sda": "naa.3600", "sdb": "naa.3600"}.__getitem__
    )
    assert made == (
        {
            "multipath": "naa.3600", "name": "m", "uuid": "mpath-3600", "paths": 2, "size": 8192,
            "handler": "1 alua", "selector": "service-time",
        },
        {"name": "m-part1", "uuid": "part1-mpath-3600", "table": [[0, 4096, "linear", "<dm:m> 2048"]]},
    )  # fmt: skip
    assert set(volumes.segment_modules(made)) == {"dm_multipath", "dm_service_time", "dm_mod"}
    # Disks that do not say who they are: what is on them is found on any one path.
    assert volumes.volumes(layers, tables.__getitem__, lambda _path: None, lambda _name: "") == ()


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
    assert volumes.volumes(layers, tables.__getitem__, content.get) == (
        {
            "name": "home",
            "uuid": "CRYPT-LUKS2-x",
            "table": [[0, 8192, "crypt", "aes-xts-plain64 :64:logon 0 <L-1> 32768"]],
            "holds": "PV-1",
        },
        {"name": "vg-crash", "uuid": "LVM-x", "table": [[0, 2048, "linear", "<dm:home> 384"]]},
    )
    with pytest.raises(KdumpError, match="stands on dm-0, and nothing there has a UUID"):
        volumes.volumes(layers[1:], tables.__getitem__, {"/dev/vda2": content["/dev/vda2"]}.get)
    tables["253:0"] = [DmTarget(0, 8192, "crypt", "serpent-xts-plain64 :64:logon 0 254:2 32768")]
    with pytest.raises(KdumpError, match="the encrypted volume home cannot be opened after a crash"):
        volumes.volumes(layers, tables.__getitem__, content.get)


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
    made = volumes.volumes(layers, tables.__getitem__, {"/dev/vda": Content("LVM2_member", "PV-1")}.get)
    assert [entry["table"][0][3] for entry in made] == [
        "<PV-1> 2048",
        "<PV-1> 10240",
        "<dm:vg-pool_tmeta> <dm:vg-pool_tdata> 128 0 1 skip_block_zeroing",
        "<dm:vg-pool-tpool> 1",
    ]
    assert volumes.segment_modules(made) == ["dm_mod", "dm_thin_pool"]


def test_arrays_come_before_the_volumes_on_them() -> None:
    layers = [
        Layer("dm-0", "253:0", "lvm", "vg-crash", "LVM-x", ("md127",)),
        Layer("md127", "9:127", "md", "raid1", beneath=("vda", "vdb"), metadata="1.2"),
        Layer("vda", "254:0", "disk"),
        Layer("vdb", "254:16", "disk"),
    ]
    content = {"/dev/md127": Content("LVM2_member", "PV-1"), "/dev/vda": Content("linux_raid_member", "A-1")}
    made = volumes.volumes(layers, lambda _device: [DmTarget(0, 2048, "linear", "9:127 384")], content.get)
    assert made == (
        {"array": "md127", "uuid": "A-1", "metadata": "1.2", "disks": 2},
        {"name": "vg-crash", "uuid": "LVM-x", "table": [[0, 2048, "linear", "<PV-1> 384"]]},
    )
    with pytest.raises(KdumpError, match="stands on vda"):
        volumes.volumes(layers[1:], content_of=lambda _path: Content("ext4", "mirrored"))


def test_an_origin_needs_its_snapshots() -> None:
    layers = [
        Layer("dm-1", "253:1", "lvm", "vg-crash", "LVM-x", ("dm-0", "dm-3")),
        Layer("dm-3", "253:3", "lvm", "vg-before", "LVM-b", ("dm-0", "dm-2")),
        Layer("dm-2", "253:2", "lvm", "vg-before-cow", "LVM-b-cow", ("vda",)),
        Layer("dm-0", "253:0", "lvm", "vg-crash-real", "LVM-x-real", ("vda",)),
        Layer("vda", "254:0", "disk"),
    ]
    tables = {
        "253:0": [DmTarget(0, 2048, "linear", "254:0 384")],
        "253:1": [DmTarget(0, 2048, "snapshot-origin", "253:0")],
        "253:2": [DmTarget(0, 512, "linear", "254:0 4096")],
        "253:3": [DmTarget(0, 2048, "snapshot", "253:0 253:2 P 8")],
    }
    content = {"/dev/vda": Content("LVM2_member", "PV-1")}
    made = volumes.volumes(layers, tables.__getitem__, content.get)
    assert [each["name"] for each in made] == ["vg-crash-real", "vg-before-cow", "vg-before", "vg-crash"]
    assert made[2]["table"] == [[0, 2048, "snapshot", "<dm:vg-crash-real> <dm:vg-before-cow> P 8"]]
    assert made[3]["table"] == [[0, 2048, "snapshot-origin", "<dm:vg-crash-real>"]]
    assert made[3]["needs"] == ["vg-before"]
    assert not any("needs" in each for each in made[:3])
    assert volumes.segment_modules(made) == ["dm_mod", "dm_snapshot"]
    # Made by dmsetup, an origin does not tell.
    with pytest.raises(KdumpError, match="the snapshots of the volume vg-crash are not found"):
        volumes.volumes([replace(layers[0], beneath=("dm-0",)), *layers[3:]], tables.__getitem__, content.get)


@pytest.mark.parametrize(
    ("features", "policy"), [("2 metadata2 writethrough", "smq"), ("0", "cleaner"), ("1 writeback", "default")]
)
def test_a_cached_volume_brings_its_policy(features: str, policy: str) -> None:
    line = [0, 2048, "cache", f"<dm:a> <dm:b> <dm:c> 128 {features} {policy} 0"]
    assert volumes.segment_modules([{"name": "x", "table": [line]}]) == ["dm_cache", f"dm-cache-{policy}"]


def test_a_bcache_device_is_carried_by_the_uuids_of_its_disks() -> None:
    layers = [Layer("bcache0", "252:0", "bcache", beneath=("vda", "vdb")), Layer("vda", "254:0", "disk")]
    layers.append(Layer("vdb", "254:16", "disk"))
    content = {"/dev/vda": Content("bcache", "one"), "/dev/vdb": Content("bcache", "two")}
    assert volumes.volumes(layers, content_of=content.get) == ({"bcache": ["one", "two"], "name": "bcache0"},)
    with pytest.raises(KdumpError, match="stands on vdb"):
        volumes.volumes(layers, content_of={**content, "/dev/vdb": Content("ext4", "two")}.get)


CACHE = "8 72/2048 128 10/{} 83 46 12 0 0 0 5 1 writeback 2 migration_threshold 2048 smq 0 {} {}"
POOL = "1 25/1024 600/11200 - {} discard_passdown queue_if_no_space {} 256"


@pytest.mark.parametrize(
    ("kind", "status", "problem"),
    [
        ("cache", CACHE.format(1600, "rw", "-"), ""),
        ("cache", CACHE.format(1_000_000, "rw", "-"), "the lists of blocks of vg-crash do not fit"),
        ("cache", CACHE.format(1600, "ro", "-"), "the volume vg-crash is out of order"),
        ("cache", CACHE.format(1600, "rw", "needs_check"), "the volume vg-crash is out of order"),
        ("cache", "8 72/2048", "the volume vg-crash is out of order"),
        ("cache", "Fail", "the volume vg-crash is out of order"),
        ("snapshot", "16/204800 16", ""),
        ("snapshot", "1600000/2048000 32000", "the lists of blocks of vg-crash do not fit"),
        ("snapshot", "Invalid", "the volume vg-crash is out of order"),
        ("snapshot", "Overflow", "the volume vg-crash is out of order"),
        ("snapshot", "Merge failed", "the volume vg-crash is out of order"),
        ("thin", "2048 2047", ""),
        ("thin", "0 -", ""),
        ("thin-pool", "Error", "the volume vg-crash is out of order"),
        ("thin-pool", POOL.format("rw", "-"), ""),
        ("thin-pool", POOL.format("out_of_data_space", "-"), "the volume vg-crash is out of order"),
        ("thin", "Fail", "the volume vg-crash is out of order"),
        ("linear", "", ""),
        ("striped", "2 254:0 254:16 1 AA", ""),
        ("raid", "raid1 2 AA 1024/1024 idle 0 0 -", ""),
    ],
)
def test_what_the_kernel_says_of_a_volume(kind: str, status: str, problem: str) -> None:
    layers = [Layer("dm-0", "253:0", "lvm", "vg-crash"), Layer("vda", "254:0", "disk")]
    look = partial(volumes.refuse_unfit, layers, {"253:0": [DmTarget(0, 2048, kind, status)]}.__getitem__)
    if problem:
        with pytest.raises(KdumpError, match=problem):
            look()
    else:
        look()


def test_a_full_snapshot_is_no_hindrance_to_its_origin() -> None:
    """Nothing is kept for it any more; what stands on it fails."""
    status = {"253:0": [DmTarget(0, 8, "snapshot-origin", "")], "253:1": [DmTarget(0, 8, "snapshot", "Invalid")]}
    origin = Layer("dm-0", "253:0", "lvm", "vg-crash", beneath=("dm-2", "dm-1"))
    snapshot = Layer("dm-1", "253:1", "lvm", "vg-before", beneath=("dm-2", "dm-3"))
    volumes.refuse_unfit([origin, snapshot], status.__getitem__)
    with pytest.raises(KdumpError, match="the volume vg-before is out of order"):
        volumes.refuse_unfit([snapshot], status.__getitem__)


def test_a_snapshot_that_a_reboot_ends_is_refused() -> None:
    layers = [Layer("dm-0", "253:0", "dm", "live-rw"), Layer("vda", "254:0", "disk")]
    content = {"/dev/vda": Content("LVM2_member", "PV-1")}
    for words, kept in (("254:0 254:0 PO 8", True), ("254:0 254:0 N 8", False)):
        table = {"253:0": [DmTarget(0, 8, "snapshot", words)]}
        with nullcontext() if kept else pytest.raises(KdumpError, match="live-rw does not outlast a reboot"):
            volumes.volumes(layers, table.__getitem__, content.get)


def test_the_room_that_a_file_system_does_not_know_of() -> None:
    layers = [Layer(f"dm-{n}", f"253:{n}", "lvm", f"vg-{n}") for n in range(4)]
    status = {
        "253:0": [DmTarget(0, 204800, "thin", "2048 4095")],
        "253:1": [DmTarget(0, 81920, "thin-pool", "1 11/1024 600/640 - rw discard_passdown queue_if_no_space - 1024")],
        "253:2": [DmTarget(0, 8192, "snapshot", "48/2048 16")],
        "253:3": [DmTarget(0, 8192, "snapshot", "Invalid"), DmTarget(8192, 8, "linear", "")],
    }
    left = [("the thin-pool vg-1", 40 * 128 * 512), ("the snapshot vg-2", 2000 * 512)]
    assert volumes.rooms(layers, status.__getitem__) == left


def test_the_buckets_of_bcache_are_counted(tmp_path: Path) -> None:
    layers = [Layer("bcache0", "252:0", "bcache", beneath=("vda", "vdb"))]
    (tmp_path / "class/block/vda/bcache").mkdir(parents=True)
    (tmp_path / "class/block/vdb/bcache").mkdir(parents=True)
    buckets = tmp_path / "class/block/vdb/bcache/nbuckets"
    for number, fits in ((100_000, True), (2_000_000, False)):
        buckets.write_text(f"{number}\n")
        with nullcontext() if fits else pytest.raises(KdumpError, match="the lists of blocks of bcache0"):
            volumes.refuse_unfit(layers, sysfs=tmp_path)


def test_a_bcache_device_that_lost_its_cache_is_refused(tmp_path: Path) -> None:
    layers = [Layer("bcache0", "252:0", "bcache", beneath=("vda",))]
    (tmp_path / "class/block/vda/bcache").mkdir(parents=True)
    for state, starts in (("no cache", True), ("inconsistent", True), ("clean", False), ("dirty", False)):
        (tmp_path / "class/block/vda/bcache/state").write_text(f"{state}\n")
        with nullcontext() if starts else pytest.raises(KdumpError, match="bcache0 runs without its cache"):
            volumes.refuse_unfit(layers, sysfs=tmp_path)
