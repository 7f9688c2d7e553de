"""Dumps on encrypted disks, without a passphrase: cryptsetup and LVM make the disks in one machine, where the healthy
side looks at them; another machine opens them and crashes, and its capture kernel opens them with the key that it finds
in the dead kernel's memory; a third opens them with the passphrase and verifies the dumps.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.capture import luks_guest
from tests.dump.test_scrub import pages, schedules

from kdump.capture.plan import ALL, CapturePlan
from kdump.host.drivers import modules_for
from kdump.host.encryption import modules_of
from kdump.host.volumes import segment_modules
from kdump.image.build import build, module_paths
from kdump.lab import disk
from kdump.lab.causes import find_cause
from kdump.lab.crash import DUMPS, Scenario, crash
from kdump.lab.machine import Machine
from kdump.lab.qemu import Disk
from kdump.lab.qemu import Spec as MachineSpec
from kdump.targets.protocol import Spec

if TYPE_CHECKING:
    from kdump.image.kernel_tree import KernelTree

MIB = 1 << 20
DISKS = ("vdb", "vdc", "vdd", "vde", "vdf", "vdg", "vdh", "vdi", "vdj", "vdk")
CRYPTO = ("dm_crypt", "xts", "ecb", "essiv", "af_alg", "algif_hash", "algif_skcipher")
MODULES = ("virtio_pci", "virtio_blk", "dm_mod", "raid1", "dm_raid", "dm_thin_pool", *CRYPTO, "ext4", "btrfs")
FOREIGN = ("nbd", "brd")  # drivers of what is no hardware; the first stage has loaded loop
TOOLS = (luks_guest.CRYPTSETUP, luks_guest.LVM, luks_guest.MKFS, luks_guest.MKFS_BTRFS)
PASSPHRASE = b"correct horse battery staple"
GUEST_FILES: dict[str, bytes | Path] = {
    **{name: Path(name) for name in (*TOOLS, "/etc/mke2fs.conf")},
    "/etc/passwd": b"root:x:0:0:root:/:/bin/sh\n",
    luks_guest.KEY: PASSPHRASE,
}


def boot(tree: KernelTree, orders: str, disks: dict[str, Path], directory: Path, cpu: str, said: str) -> Any:
    """Run `luks_guest` with its orders; what it says behind `said`, as JSON."""
    modules = (*MODULES, *FOREIGN, *(("aesni_intel",) if cpu == "max" else ()))
    image = build(
        tree,
        entry="tests.capture.luks_guest",
        modules=modules,
        files=GUEST_FILES
        | {luks_guest.ORDERS: orders.encode(), luks_guest.MODULES: "\n".join(module_paths(tree, modules)).encode()},
        output=directory / f"{orders}.img",
    )
    first = disk.create(directory / "vda.img", MIB)
    spec = MachineSpec(
        kernel=tree.vmlinuz,
        initrd=image.path,
        cmdline="console=ttyS0,115200 panic=-1",
        disks=[Disk(first), *map(Disk, disks.values())],
        memory=1 << 30,
        cpu=cpu,
    )
    with Machine(spec, console=directory / f"{orders}.log") as machine:
        found = machine.wait_for(rf"luks-guest: {said} (.*)", 240, unless="luks-guest: FAILED|Kernel panic")
        machine.run_to_exit(60)
    return json.loads(found[1])


def partitioned(path: Path) -> Path:
    """A disk with one partition."""
    disk.create(path, 160 * MIB)
    subprocess.run(["sfdisk", "-q", path], input=b"label: gpt\n,,L\n", check=True)
    return path


@pytest.mark.lab
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("series", "cpu"),
    [
        ("6.1", "max"),
        pytest.param("6.12", "max", marks=pytest.mark.matrix),
        pytest.param("6.1", "max,aes=off", marks=pytest.mark.matrix),
        pytest.param("6.1-generic", "max", marks=pytest.mark.matrix),
        pytest.param("newest-generic", "max", marks=pytest.mark.matrix),
    ],
)
def test_the_dead_kernels_keys_open_encrypted_disks(
    series: str, cpu: str, kernel: Callable[[str], KernelTree], tmp_path: Path
) -> None:
    tree = kernel(series)
    disks = {name: tmp_path / f"{name}.img" for name in DISKS}
    partitioned(disks["vdb"])
    for name in DISKS[1:]:
        disk.create(disks[name], 160 * MIB)
    facts = boot(tree, "make", disks, tmp_path, cpu, "found")
    names = [entry["name"] for entry in facts["storage"]]
    assert [name for name in names if not name.startswith("two-")] == [
        "luks2", "luks1", "vg-lv", "on-lvm", "under-lvm", "inner-lv", "cbc", "suspended",
    ]  # fmt: skip
    assert names.index("two-pool-tpool") < names.index("two-thin")
    assert facts["proved"] == dict.fromkeys(luks_guest.VOLUMES, True)  # on the healthy machine, by the LUKS headers
    assert facts["foreign"] == {
        "nbd0": "nbd0 is a network block device: the capture kernel cannot reach it",
        "ram0": "ram0 is a RAM disk: the capture kernel cannot reach it",
        "loop0": "loop0 is a file on another file system",
    }
    assert not any(len(word) >= 32 for entry in facts["storage"] for word in entry["table"][0][3].split("<")[0].split())

    targets = [
        Spec(f"file:///{name}", {"uuid": uuid, "fstype": "btrfs" if name == "btrfs" else "ext4", "path": "/crash"})
        for name, uuid in facts["uuids"].items()
        if name != luks_guest.SUSPENDED
    ]
    cbc = next(entry for entry in facts["storage"] if entry["name"] == "cbc")
    storage = ({**cbc, "name": "other", "holds": "not on it"}, *facts["storage"])
    plan = CapturePlan(
        targets=(Spec(f"file:///{DUMPS}"), *targets), storage=storage, mode=ALL, scrub=("keys", "keyrings")
    )
    ciphers = [(modules_of(each, tree), ()) for each in facts["storage"] if "holds" in each]
    segments = (segment_modules(facts["storage"]), ())
    devices: list[str] = []
    for name, path in disks.items():
        devices += ["-drive", f"if=none,id={name},format=raw,cache=unsafe,file={path}"]
        devices += ["-device", f"virtio-blk-pci,drive={name}"]
    scenario = Scenario(
        tree, find_cause("sysrq"), memory=768 * MIB, crashkernel="192M", work=8 * MIB, plan=plan, cpu=cpu,
        modules=tuple(modules_for(targets, [(facts["modules"], ()), segments, *ciphers], tree)), devices=devices,
        guest_modules=(*MODULES, *(("aesni_intel",) if cpu == "max" else ())), guest_files=GUEST_FILES,
        guest_commands=[*luks_guest.OPEN, [luks_guest.CRYPTSETUP, "luksSuspend", luks_guest.SUSPENDED]],
    )  # fmt: skip
    directory = tmp_path / "run"
    directory.mkdir()
    saved = crash(scenario, directory)
    console = saved.console.read_text(errors="replace")
    opened = set(re.findall(r"volume (\S+): opened with the dead kernel's key", console))
    assert opened == set(luks_guest.VOLUMES) - {luks_guest.SUSPENDED}
    assert "volume suspended: it could not be opened: the volume has no key" in console
    assert "volume other: it could not be opened: the key in the dead kernel's memory is not the volume's" in console
    assert saved.manifest["status"] == "complete"
    scrubbed = saved.manifest["dump"]["scrub"]
    assert scrubbed["found"]["keys"]["dm-crypt volumes"] == len(luks_guest.VOLUMES)
    assert scrubbed["found"]["keys"]["AES key schedules"] >= 2 * (len(luks_guest.VOLUMES) - 1)
    assert not scrubbed["failed"]
    assert not list(schedules(pages(saved.directory / "vmcore")[1]))  # the keys that opened the disks are not in it

    findings = boot(tree, "open", disks, tmp_path, cpu, "findings")
    whole = ["status complete", f"{len(saved.manifest['files'])} files"]
    assert findings.keys() == opened | {"raid", "thin", "btrfs"}
    assert all(each == whole for each in findings.values()), findings
