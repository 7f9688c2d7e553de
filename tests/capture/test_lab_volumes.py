"""Dumps on MD arrays and a logical volume: mdadm makes the arrays in one machine, where the healthy side looks at them;
another machine crashes, and its capture kernel puts them together without mdadm and LVM's tools, disks missing.
"""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.capture import md_guest
from tests.capture.md_guest import ARRAYS, CHUNK, GAP, HALF

from kdump.capture.plan import ALL, CapturePlan
from kdump.dump.manifest import check
from kdump.host.drivers import modules_for
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
MODULES = ("virtio_pci", "virtio_blk", "raid0", "raid1", "raid456", "dm_mod", "ext4")
TOOLS = ("/usr/sbin/mdadm", "/usr/sbin/mkfs.ext4")
GONE = ("vdd", "vdi", "vdk")  # mirrors and the array with parity lose a disk each
SIZES = {"vda": 140 * MIB, "vdb": 140 * MIB}


def make_arrays(tree: KernelTree, directory: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """The disks by the names that they had, and what the healthy side found out."""
    files: dict[str, bytes | Path] = {name: Path(name) for name in (*TOOLS, "/etc/mke2fs.conf")}
    files |= {
        "/etc/passwd": b"root:x:0:0:root:/:/bin/sh\n",
        md_guest.MODULES: "\n".join(module_paths(tree, MODULES)).encode(),
    }
    image = directory / "mdadm.img"
    build(tree, entry="tests.capture.md_guest", modules=MODULES, files=files, output=image)
    names = [name for _, _, *disks in ARRAYS.values() for name in disks]
    disks = {name: disk.create(directory / f"{name}.img", SIZES.get(name, 64 * MIB)) for name in names}
    spec = MachineSpec(
        kernel=tree.vmlinuz,
        initrd=image,
        cmdline="console=ttyS0,115200 panic=-1",
        disks=[Disk(path) for path in disks.values()],
    )
    with Machine(spec, console=directory / "mdadm.log") as machine:
        found = machine.wait_for(r"md-guest: found (.*)", 120, unless="md-guest: FAILED|Kernel panic")
        machine.run_to_exit(60)
    return disks, json.loads(found[1])


def data(member: Path, metadata: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What a member holds of its array. struct mdp_superblock_1: data_offset and data_size, in sectors, at 128."""
    raw = np.fromfile(member, dtype=np.uint8)
    if metadata == "0.90":
        return raw[: (len(raw) // (64 << 10) - 1) * (64 << 10)]
    place = {"1.0": (len(raw) // 512 - 16 & ~7) * 512, "1.1": 0, "1.2": 4096}[metadata]
    offset, size = raw[place + 128 : place + 144].view("<u8") * 512
    return raw[int(offset) : int(offset + size)]


def striped(parts: list[np.ndarray[Any, Any] | None], *, parity: bool) -> bytes:
    """Chunks in their order; with parity (RAID 5, left-symmetric) one part may be missing: it is all others' XOR."""
    there = [part for part in parts if part is not None]
    rows = min(map(len, there)) // CHUNK
    lost = functools.reduce(operator.xor, (part[: rows * CHUNK] for part in there))
    columns = [(lost if part is None else part)[: rows * CHUNK].reshape(rows, CHUNK) for part in parts]
    number = len(columns)
    chunks = []
    for row in range(rows):
        first = number - row % number if parity else 0  # the disk after the one with the parity
        chunks += [columns[(first + at) % number][row] for at in range(number - parity)]
    return b"".join(chunk.tobytes() for chunk in chunks)


@pytest.mark.lab
@pytest.mark.timeout(900)
@pytest.mark.parametrize("series", ["6.1", pytest.param("6.12", marks=pytest.mark.system)])
def test_arrays_and_a_volume_take_the_dump(series: str, kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    tree = kernel(series)
    disks, facts = make_arrays(tree, tmp_path)
    assert [entry.get("array", entry.get("name")) for entry in facts["storage"]] == [
        "md0", "vg-crash", "md1", "md2", "md3", "md4",
    ]  # fmt: skip
    targets = [
        Spec(f"file:///{device}", {"uuid": uuid, "fstype": "ext4", "path": "/crash"})
        for device, uuid in facts["uuids"].items()
    ]
    plan = CapturePlan(targets=(Spec(f"file:///{DUMPS}"), *targets), storage=tuple(facts["storage"]), mode=ALL)
    devices: list[str] = []
    for name, path in disks.items():
        if name not in GONE:
            devices += ["-drive", f"if=none,id={name},format=raw,cache=unsafe,file={path}"]
            devices += ["-device", f"virtio-blk-pci,drive={name}"]
    scenario = Scenario(
        tree, find_cause("sysrq"), memory=512 * MIB, crashkernel="192M", work=8 * MIB, plan=plan,
        modules=tuple(modules_for(targets, [(facts["modules"], ())], tree)), devices=devices,
    )  # fmt: skip
    directory = tmp_path / "run"
    directory.mkdir()
    saved = crash(scenario, directory)
    assert saved.manifest["status"] == "complete"
    console = saved.console.read_text(errors="replace")
    assert "array md0: raid1, 2 of 2 disks" in console
    assert "array md1: raid1, 1 of 2 disks" in console
    assert "array md2: raid0, 2 of 2 disks" in console
    assert "array md3: raid5, 2 of 3 disks" in console
    assert "array md4: raid1, 1 of 2 disks" in console
    assert "resync of RAID array" not in console  # the healthy machine will do it

    parts = {name: data(disks[member], meta) for name, (_, meta, *disk_) in ARRAYS.items() for member in disk_[:1]}
    for name in ("md1", "md4"):
        (tmp_path / f"{name}.fs").write_bytes(parts[name].tobytes())
    mirror = parts["md0"].tobytes()
    halves = (mirror[place * 512 : (place + HALF) * 512] for place in (GAP + HALF, GAP))
    (tmp_path / "dm-0.fs").write_bytes(b"".join(halves))
    for name in ("md2", "md3"):
        members = [None if each in GONE else data(disks[each], ARRAYS[name][1]) for each in ARRAYS[name][2:]]
        (tmp_path / f"{name}.fs").write_bytes(striped(members, parity=name == "md3"))
    for device in facts["uuids"]:
        filesystem = tmp_path / f"{device}.fs"
        disk.check(filesystem)
        copy = disk.fetch(filesystem, f"/crash/{saved.manifest['crash']}", tmp_path / device)
        assert [finding for entry in saved.manifest["files"] for finding in check(copy, entry)] == []
