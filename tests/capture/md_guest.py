"""PID 1 of a virtual machine that makes arrays with mdadm and says what kdump's healthy side finds out about them.

The first mirror carries a logical volume in two segments in the wrong order; it is left before it has been
synchronised. Its last line of output but one is "md-guest: found" and JSON: what the capture plan has under `storage`,
the modules, and the UUIDs of the file systems.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from kdump.capture import devicemapper, system
from kdump.host import storage, volumes
from kdump.targets.superblock import identify

MODULES = "/etc/modules.txt"
PV = "AAAAAA-BBBB-CCCC-DDDD-EEEE-FFFF-GGGGGG"
# LVM's label in sector 1: LABELONE, its sector, CRC, offset of the header, type; then the UUID.
LABEL = b"LABELONE" + bytes([1]).ljust(12, b"\0") + (32).to_bytes(4, "little") + b"LVM2 001"
GAP, HALF = 2048, 64 << 11  # sectors: before the volume's first extent, and of each half
ARRAYS = {
    "md0": ("1", "1.2", "vda", "vdb"),
    "md1": ("1", "1.0", "vdc", "vdd"),
    "md2": ("0", "1.1", "vde", "vdf"),
    "md3": ("5", "1.2", "vdg", "vdh", "vdi"),
    "md4": ("1", "0.90", "vdj", "vdk"),
}
CHUNK = 64 << 10


def main() -> None:
    """Make the arrays, say what was found, power off."""
    try:
        for module in Path(MODULES).read_text().split():
            system.load_module(module)
        while not Path("/dev/vdk").exists():
            time.sleep(0.05)
        make()
        print("md-guest: found", json.dumps(look()), flush=True)
    except Exception as error:
        print(f"md-guest: FAILED {type(error).__name__}: {error}", flush=True)
    time.sleep(0.3)
    system.reboot(system.POWER_OFF)


def make() -> None:
    """Five arrays, a volume on the first, a file system on each."""
    for name, (level, metadata, *disks) in ARRAYS.items():
        options = [f"--level={level}", f"--metadata={metadata}", f"--raid-devices={len(disks)}"]
        options += ["--bitmap=none"] if level == "1" else [f"--chunk={CHUNK >> 10}"]
        options += ["--assume-clean"] if name in ("md1", "md3", "md4") else []
        disks = [f"/dev/{disk}" for disk in disks]
        run("/usr/sbin/mdadm", "--create", f"/dev/{name}", "--run", "--force", *options, *disks)
    Path("/sys/block/md0/md/sync_action").write_text("frozen")  # the machine goes down before it is done
    with open("/dev/md0", "r+b") as file:
        file.seek(512)
        file.write(LABEL + PV.replace("-", "").encode())
        os.fsync(file.fileno())
    halves = [(0, GAP + HALF), (HALF, GAP)]
    table = [devicemapper.DmTarget(start, HALF, "linear", f"9:0 {place}") for start, place in halves]
    devicemapper.create("vg-crash", "LVM-kdump-test", table)
    for device in ("dm-0", "md1", "md2", "md3", "md4"):
        run("/usr/sbin/mkfs.ext4", "-q", "-F", f"/dev/{device}")


def look() -> dict[str, object]:
    """What `kdump build` would put into the plan for a target on each."""
    found = {
        name: storage.walk((Path("/sys/block") / name / "dev").read_text().strip())
        for name in ("dm-0", "md1", "md2", "md3", "md4")
    }
    content = {name: identify(f"/dev/{name}") for name in found}
    return {
        "storage": [entry for each in found.values() for entry in volumes.volumes(each.layers)],
        "modules": list(dict.fromkeys(name for each in found.values() for name in each.modules)),
        "uuids": {name: each.uuid for name, each in content.items() if each},
    }


def run(*command: str) -> None:
    """Run a program; its failure is ours."""
    child = os.posix_spawn(command[0], list(command), {**os.environ, "MDADM_NO_UDEV": "1"})
    _, status = os.waitpid(child, 0)
    if status:
        raise OSError(0, f"{command[0]} ended with {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
