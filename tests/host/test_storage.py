"""From a block device down to its bus, on trees laid out as sysfs lays them out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdump.errors import KdumpError
from kdump.host import drivers, storage
from kdump.host.volumes import refuse_unreachable

PCI = "devices/pci0000:00/0000:00:05.0"


class Sysfs:
    """A small sysfs: devices, their drivers, and the links that the kernel makes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "dev/block").mkdir(parents=True)

    def device(self, path: str, *, modalias: str = "", driver: str = "", module: str = "") -> Path:
        place = self.root / path
        place.mkdir(parents=True, exist_ok=True)
        if modalias:
            (place / "modalias").write_text(modalias + "\n")
        if driver:
            home = self.root / "bus/any/drivers" / driver
            home.mkdir(parents=True, exist_ok=True)
            (place / "driver").symlink_to(home)
            if module and not (home / "module").exists():
                (self.root / "module" / module).mkdir(parents=True)
                (home / "module").symlink_to(self.root / "module" / module)
        return place

    def block(self, path: str, number: str, *slaves: Path, **files: str) -> Path:
        place = self.device(path)
        (place / "dev").write_text(number + "\n")
        (place / "slaves").mkdir()
        for name, text in files.items():
            file = place / name.replace("__", "/")
            file.parent.mkdir(exist_ok=True)
            file.write_text(text + "\n")
        for slave in slaves:
            (place / "slaves" / slave.name).symlink_to(slave)
        (self.root / "dev/block" / number).symlink_to(place)
        return place


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path)


def virtio_disk(sysfs: Sysfs) -> Path:
    sysfs.device(PCI, modalias="pci:v00001AF4d00001042", driver="virtio-pci", module="virtio_pci")
    sysfs.device(f"{PCI}/virtio1", modalias="virtio:d00000002v00001AF4", driver="virtio_blk", module="virtio_blk")
    return sysfs.block(f"{PCI}/virtio1/block/vda", "254:0")


def test_a_partition_of_a_virtio_disk(sysfs: Sysfs) -> None:
    virtio_disk(sysfs)
    sysfs.block(f"{PCI}/virtio1/block/vda/vda1", "254:1", partition="1")
    found = storage.walk("254:1", sysfs.root)
    assert [(layer.name, layer.kind, layer.beneath) for layer in found.layers] == [
        ("vda1", "partition", ("vda",)),
        ("vda", "disk", ()),
    ]
    assert found.modules == ("virtio_pci", "virtio_blk")
    assert found.modaliases == ("pci:v00001AF4d00001042", "virtio:d00000002v00001AF4")


def test_an_sd_cards_driver_is_found_by_its_modalias(sysfs: Sysfs) -> None:
    """Its bus links no driver to its module, and only its uevent has the modalias."""
    sysfs.device(PCI, modalias="pci:sdhci", driver="sdhci-pci", module="sdhci_pci")
    card = sysfs.device(f"{PCI}/mmc_host/mmc0/mmc0:4567", driver="mmcblk")
    (card / "uevent").write_text("DRIVER=mmcblk\nMMC_TYPE=SD\nMODALIAS=mmc:block\n")
    sysfs.block(f"{PCI}/mmc_host/mmc0/mmc0:4567/block/mmcblk0", "179:0")
    assert storage.walk("179:0", sysfs.root).modules == ("sdhci_pci", "mmc:block")


@pytest.mark.parametrize(("release", "modules"), [("6.1", ["mmc_block"]), ("other", ["mmc_block", "mmc_test"])])
def test_of_modules_that_fit_a_device_the_running_kernel_needs_those_that_are_loaded(
    release: str, modules: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tree:
        class module_index:
            builtin = frozenset[str]()

            @staticmethod
            def matching(alias: str) -> list[str]:
                return {"mmc:block": ["mmc_block", "mmc_test"]}[alias]

            @staticmethod
            def get(name: str) -> str:
                return name

    tree: Any = Tree()
    tree.release = release
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(release="6.1"))
    monkeypatch.setattr(drivers, "loaded_modules", lambda: ["ext4", "mmc_block"])
    assert list(drivers.modules_for([], [(["mmc:block"], [])], tree)) == modules


def test_a_builtin_driver_is_no_module_but_its_device_keeps_its_modalias(sysfs: Sysfs) -> None:
    sysfs.device(PCI, modalias="pci:nvme", driver="nvme")
    sysfs.block(f"{PCI}/nvme/nvme0/nvme0n1", "259:0")
    found = storage.walk("259:0", sysfs.root)
    assert found.modules == ()
    assert found.modaliases == ("pci:nvme",)


def test_lvm_on_raid1_on_two_scsi_disks(sysfs: Sysfs) -> None:
    ata = "devices/pci0000:00/0000:00:1f.2"
    sysfs.device(ata, modalias="pci:ahci", driver="ahci", module="ahci")
    halves = []
    for number, host in enumerate("ab"):
        unit = f"{ata}/ata{number}/host{number}/target{number}:0:0/{number}:0:0:0"
        sysfs.device(unit, modalias="scsi:t-0x00", driver="sd", module="sd_mod")
        sysfs.block(f"{unit}/block/sd{host}", f"8:{16 * number}")
        halves.append(sysfs.block(f"{unit}/block/sd{host}/sd{host}1", f"8:{16 * number + 1}", partition="1"))
    facts = {"md__level": "raid1", "md__metadata_version": "1.2"}
    array = sysfs.block("devices/virtual/block/md0", "9:0", *halves, **facts)
    sysfs.block("devices/virtual/block/dm-0", "253:0", array, dm__name="vg-crash", dm__uuid="LVM-abc")
    found = storage.walk("253:0", sysfs.root)
    assert [(layer.name, layer.kind, layer.detail) for layer in found.layers] == [
        ("dm-0", "lvm", "vg-crash"),
        ("md0", "md", "raid1"),
        ("sda1", "partition", ""),
        ("sda", "disk", ""),
        ("sdb1", "partition", ""),
        ("sdb", "disk", ""),
    ]
    assert found.modules == ("ahci", "sd_mod", "md_mod", "md-raid1", "dm_mod")
    assert [layer.metadata for layer in found.of_kind("md")] == ["1.2"]
    assert [layer.uuid for layer in found.of_kind("lvm")] == ["LVM-abc"]


def test_what_two_volumes_share_comes_below_both(sysfs: Sysfs) -> None:
    disk = virtio_disk(sysfs)
    shared = sysfs.block("devices/virtual/block/md0", "9:0", disk, md__level="raid1")
    upper = [sysfs.block(f"devices/virtual/block/dm-{n}", f"253:{n}", shared, dm__uuid="LVM-x") for n in (0, 1)]
    sysfs.block("devices/virtual/block/dm-2", "253:2", shared, *upper, dm__uuid="LVM-y")
    names = [layer.name for layer in storage.walk("253:2", sysfs.root).layers]
    assert names == ["dm-2", "dm-0", "dm-1", "md0", "vda"]


def test_encryption_and_multipath_are_recognised(sysfs: Sysfs) -> None:
    disk = virtio_disk(sysfs)
    path = sysfs.block("devices/virtual/block/dm-0", "253:0", disk, dm__name="m", dm__uuid="mpath-3600")
    sysfs.block("devices/virtual/block/dm-1", "253:1", path, dm__name="c", dm__uuid="CRYPT-LUKS2-x")
    assert [layer.kind for layer in storage.walk("253:1", sysfs.root).layers] == ["crypt", "multipath", "disk"]


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("devices/virtual/block/nbd0", "a network block device"),
        ("devices/virtual/block/drbd1", "a DRBD device"),
        ("devices/virtual/block/ublkb0", "a ublk device"),
        ("devices/virtual/block/zd16", "a ZFS volume"),
        ("devices/virtual/block/nullb0", "a null block device"),
        ("devices/virtual/block/zram0", "a compressed RAM disk"),
        ("devices/virtual/block/ram0", "a RAM disk"),
        ("devices/virtual/block/newfangled0", "a virtual block device that kdump does not know"),
        ("devices/rbd/0/block/rbd0", "a Ceph RBD image"),
        ("devices/platform/host2/session1/target2:0:0/2:0:0:1/block/sda", "an iSCSI disk by an unknown driver"),
        ("devices/virtual/net/eth0/ctlr_0/host5/rport-5:0-1/target5:0:0/5:0:0:0/block/sdb", "a disk reached by FCoE"),
        (f"{PCI}/block/sdq", "a disk without a driver"),
    ],
)
def test_disks_that_are_not_of_this_machine_are_named(sysfs: Sysfs, path: str, what: str) -> None:
    sysfs.block(path, "43:0")
    (layer,) = storage.walk("43:0", sysfs.root).layers
    assert layer.kind == "foreign"
    assert layer.detail.startswith(what)
    with pytest.raises(KdumpError, match="the capture kernel cannot reach it"):
        refuse_unreachable([layer])


def test_nvme_over_a_network_is_named(sysfs: Sysfs) -> None:
    controller = sysfs.device("devices/virtual/nvme-fabrics/ctl/nvme0")
    (controller / "transport").write_text("rdma\n")
    sysfs.block("devices/virtual/nvme-fabrics/ctl/nvme0/nvme0n1", "259:0")
    (layer,) = storage.walk("259:0", sysfs.root).layers
    assert layer.detail == "an NVMe namespace reached over rdma"
    subsystem = sysfs.device("devices/virtual/nvme-subsystem/nvme-subsys1")
    (subsystem / "nvme0").symlink_to(controller)
    sysfs.block("devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1", "259:1")
    (layer,) = storage.walk("259:1", sysfs.root).layers
    assert layer.detail == "an NVMe namespace reached over rdma"


def test_an_armed_watchdog_brings_its_driver(sysfs: Sysfs) -> None:
    for number, (name, state) in enumerate((("i6300esb", "active"), ("iTCO_wdt", "inactive"))):
        device = sysfs.device(f"{PCI}/{name}", modalias=f"pci:{name}", driver=name, module=name)
        entry = sysfs.device(f"{PCI}/{name}/watchdog/watchdog{number}")
        (entry / "state").write_text(f"{state}\n")
        (entry / "device").symlink_to(device)
        (sysfs.root / "class/watchdog").mkdir(parents=True, exist_ok=True)
        (sysfs.root / f"class/watchdog/watchdog{number}").symlink_to(entry)
    (sysfs.device("devices/virtual/watchdog/watchdog2") / "state").write_text("active\n")  # softdog: no hardware
    (sysfs.root / "class/watchdog/watchdog2").symlink_to(sysfs.root / "devices/virtual/watchdog/watchdog2")
    assert storage.watchdogs(sysfs.root) == (["i6300esb"], ["pci:i6300esb"])


def test_nvme_with_native_multipathing(sysfs: Sysfs) -> None:
    sysfs.device(PCI, modalias="pci:nvme", driver="nvme", module="nvme")
    controller = sysfs.device(f"{PCI}/nvme/nvme0")
    sysfs.block("devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", "259:0")
    (sysfs.root / "devices/virtual/nvme-subsystem/nvme-subsys0/nvme0").symlink_to(controller)
    assert storage.walk("259:0", sysfs.root).modules == ("nvme",)


def test_what_is_not_there_is_said(sysfs: Sysfs, tmp_path: Path) -> None:
    with pytest.raises(KdumpError, match="no block device 8:99"):
        storage.walk("8:99", sysfs.root)
    with pytest.raises(KdumpError, match="no such device"):
        storage.device_of(str(tmp_path / "nothing"))
    with pytest.raises(KdumpError, match="not a block device"):
        storage.device_of("/dev/null")


def test_this_machines_own_devices_can_be_walked() -> None:
    for entry in storage.SYSFS.glob("dev/block/*"):
        assert storage.walk(entry.name).layers[0].device == entry.name


def test_a_bcache_device_stands_on_what_is_cached_and_on_the_cache(sysfs: Sysfs) -> None:
    disk = virtio_disk(sysfs)
    cache = sysfs.block(f"{PCI}/virtio1/block/vdb", "254:16", bcache__nbuckets="1024")
    place = sysfs.block("devices/virtual/block/bcache0", "252:0", disk, cache)
    (place / "bcache").mkdir()
    found = storage.walk("252:0", sysfs.root)
    assert [(layer.name, layer.kind, layer.beneath) for layer in found.layers] == [
        ("bcache0", "bcache", ("vda", "vdb")),
        ("vda", "disk", ()),
        ("vdb", "disk", ()),
    ]
    assert found.modules[-1] == "bcache"


def test_an_origin_of_snapshots_stands_on_them_too_and_a_snapshot_does_not_stand_on_its_origin(sysfs: Sysfs) -> None:
    def volume(number: int, name: str, uuid: str, *below: Path) -> Path:
        place = sysfs.block(
            f"devices/virtual/block/dm-{number}", f"253:{number}", *below, dm__name=name, dm__uuid=f"LVM-{uuid}"
        )
        for each in below:
            (each / "holders").mkdir(exist_ok=True)
            (each / "holders" / place.name).symlink_to(place)
        return place

    disk = virtio_disk(sysfs)
    real = volume(0, "vg-crash-real", "x-real", disk)
    volume(1, "vg-crash", "x", real)
    for number, name in ((2, "before"), (4, "later")):
        volume(number + 1, f"vg-{name}", name, real, volume(number, f"vg-{name}-cow", f"{name}-cow", disk))
    volume(6, "vg-other", "y", disk)

    def names(number: str) -> list[str]:
        return [layer.detail or layer.name for layer in storage.walk(number, sysfs.root).layers]

    assert storage.walk("253:1", sysfs.root).layers[0].beneath == ("dm-0", "dm-3", "dm-5")
    origin = names("253:1")
    assert origin[0] == "vg-crash"
    assert set(origin) == {
        "vg-crash", "vg-crash-real", "vg-before", "vg-before-cow", "vg-later", "vg-later-cow", "vda"
    }  # fmt: skip
    assert origin.index("vg-before") < origin.index("vg-before-cow") < origin.index("vda")
    assert names("253:3") == ["vg-before", "vg-crash-real", "vg-before-cow", "vda"]
    assert names("253:6") == ["vg-other", "vda"]
