"""A dump on a logical volume: the capture kernel makes the volume from its table, without LVM's tools."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kdump.capture.plan import CapturePlan
from kdump.errors import KdumpError
from kdump.lab import disk
from kdump.lab.causes import find_cause
from kdump.lab.crash import Scenario, crash
from kdump.targets.protocol import Spec
from kdump.targets.superblock import identify

pytestmark = pytest.mark.apart

if TYPE_CHECKING:
    from kdump.image.kernel import KernelTree

MIB = 1 << 20
SIZE = 512 * MIB
GAP = MIB  # before the first extent of the volume
PV = "AAAAAA-BBBB-CCCC-DDDD-EEEE-FFFF-GGGGGG"
UUID = "5d3a4b0c-9a51-4e5d-8f68-6b64756d7002"


def physical_volume(path: Path, scratch: Path) -> Path:
    """A disk with LVM's label (sector 1: LABELONE, its sector, CRC, offset of the header, type; then the UUID) and, in
    two pieces in the wrong order, an ext4 file system.
    """
    content = scratch / "empty"
    (content / "crash").mkdir(parents=True)
    filesystem = disk.create_ext4(scratch / "fs.img", SIZE, uuid=UUID, content=content)
    with path.open("wb") as out, filesystem.open("rb") as inner:
        out.truncate(GAP + SIZE)
        out.seek(512)
        out.write(struct.pack("<8sQII8s", b"LABELONE", 1, 0, 32, b"LVM2 001") + PV.replace("-", "").encode())
        for place in (GAP + SIZE // 2, GAP):
            out.seek(place)
            for _ in range(SIZE // 2 // MIB):
                block = inner.read(MIB)
                if block.strip(b"\0"):
                    out.write(block)
                else:
                    out.seek(MIB, 1)
    return path


def file_system(path: Path, volume: Path) -> Path:
    """The file system of a physical volume, put together again."""
    with volume.open("rb") as source, path.open("wb") as out:
        for place in (GAP + SIZE // 2, GAP):
            source.seek(place)
            for _ in range(SIZE // 2 // MIB):
                out.write(source.read(MIB))
    return path


@pytest.mark.lab
def test_a_volume_in_two_segments_takes_the_dump(kernel: Callable[[str], KernelTree], tmp_path: Path) -> None:
    volume = physical_volume(tmp_path / "pv.img", tmp_path)
    found = identify(str(volume))
    assert found is not None
    assert (found.fstype, found.uuid) == ("LVM2_member", PV)
    half = SIZE // 2 // 512
    table = [
        [0, half, "linear", f"<{PV}> {(GAP + SIZE // 2) // 512}"],
        [half, half, "linear", f"<{PV}> {GAP // 512}"],
    ]
    plan = CapturePlan(
        targets=(Spec("file:///crash", {"uuid": UUID, "fstype": "ext4", "path": "/crash"}),),
        storage=({"name": "vg-crash", "uuid": "LVM-kdump-test", "table": table},),
    )
    drive = ["-drive", f"if=none,id=pv,format=raw,cache=unsafe,file={volume}", "-device", "virtio-blk-pci,drive=pv"]
    scenario = Scenario(
        kernel("6.1"), find_cause("sysrq"), memory=512 * MIB, crashkernel="192M", work=8 * MIB, plan=plan,
        modules=("dm_mod",), devices=drive,
    )  # fmt: skip
    directory = tmp_path / "run"
    directory.mkdir()
    with pytest.raises(KdumpError, match="left nothing on the disk"):
        crash(scenario, directory)  # the machine's own disk was no target
    filesystem = file_system(tmp_path / "out.img", volume)
    disk.check(filesystem)
    (name,) = disk.listing(filesystem, "/crash")
    saved = disk.listing(filesystem, f"/crash/{name}")
    assert {"vmcore", "vmcore-dmesg.txt", "manifest.json"} <= set(saved)
    assert saved["vmcore"] > MIB
    shutil.rmtree(directory)
