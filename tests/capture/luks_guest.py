"""PID 1 of a virtual machine with encrypted disks, which cryptsetup and LVM's own tools make or open.

Its orders are one word. "make": make them, and say what kdump's healthy side finds out ("luks-guest: found" and JSON:
what the capture plan has under `storage`, the modules, the UUIDs of the file systems, what `prove` says of each).
"open": open them with the passphrase, and say which findings there are about the crashes on them.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdump.capture import system
from kdump.capture.worker import run_bounded
from kdump.dump import manifest
from kdump.errors import KdumpError
from kdump.host import encryption, storage, volumes
from kdump.lab.guest import WITHOUT_UDEV
from kdump.targets import btrfs
from kdump.targets.superblock import identify

ORDERS, MODULES, KEY = "/etc/orders", "/etc/modules.txt", "/etc/passphrase"
CRYPTSETUP, LVM, MKFS = "/usr/sbin/cryptsetup", "/usr/sbin/lvm", "/usr/sbin/mkfs.ext4"
MKFS_BTRFS = "/usr/sbin/mkfs.btrfs"
FORMAT = ("luksFormat", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", KEY)
# name of the volume -> device, options of luksFormat; in this order, as some stand on others
VOLUMES = {
    "luks2": ("/dev/vdb1", ["--type", "luks2"]),
    "luks1": ("/dev/vdc", ["--type", "luks1", "--cipher", "aes-xts-plain64", "--key-size", "256"]),
    "on-lvm": ("/dev/mapper/vg-lv", ["--type", "luks2", "--key-size", "256"]),
    "under-lvm": ("/dev/vde", ["--type", "luks2", "--sector-size", "4096"]),
    "cbc": ("/dev/vdf", ["--type", "luks2", "--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"]),
    "suspended": ("/dev/vdg", ["--type", "luks2"]),
}
FOREIGN = ("nbd0", "ram0", "loop0")
SUSPENDED = "suspended"  # one more, whose key is wiped before the crash
LAST_DISK = "/dev/vdk"
# where the file systems are
PLACES = {name: f"/dev/mapper/{name}" for name in VOLUMES} | {"under-lvm": "/dev/mapper/inner-lv"}
PLACES |= {"raid": "/dev/mapper/two-raid", "thin": "/dev/mapper/two-thin"}
BTRFS = ("/dev/vdj", "/dev/vdk")
WITHOUT_TOOLS = ("--config", 'global { thin_check_executable = "" } activation { monitoring = 0 }')
OPEN = [
    [LVM, "vgchange", "-ay", "--sysinit", "vg"],
    *([CRYPTSETUP, "open", "--key-file", KEY, device, name] for name, (device, _) in VOLUMES.items()),
    [LVM, "vgchange", "-ay", "--sysinit", "inner"],
    [LVM, "vgchange", "-ay", "--sysinit", *WITHOUT_TOOLS, "two"],
]


def main() -> None:
    """Carry the orders out, say so, power off."""
    try:
        for module in Path(MODULES).read_text().split():
            system.load_module(module)
        while not Path(LAST_DISK).exists():
            time.sleep(0.05)
        if Path(ORDERS).read_text() == "make":
            make()
            print("luks-guest: found", json.dumps(look()), flush=True)
        else:
            for command in OPEN:
                run(*command)
            print("luks-guest: findings", json.dumps(inspect_all()), flush=True)
    except Exception as error:
        print(f"luks-guest: FAILED {type(error).__name__}: {error}", flush=True)
    time.sleep(0.3)
    os.sync()
    system.reboot(system.POWER_OFF)


def pbkdf2(_name: str, key: bytes, salt: bytes, iterations: int, length: int) -> bytes:
    """PBKDF2 with HMAC-SHA256 (RFC 8018), one block: the image's hashlib has what a capture needs, this guest plays the
    healthy machine as well, and that has all of it."""
    sha256: Callable[[bytes], Any] = hashlib.sha256
    padded = (bytes(key) if len(key) <= 64 else sha256(key).digest()).ljust(64, b"\0")
    inner, outer = sha256(bytes(byte ^ 0x36 for byte in padded)), sha256(bytes(byte ^ 0x5C for byte in padded))

    def mac(data: bytes) -> bytes:
        first, second = inner.copy(), outer.copy()
        first.update(data)
        second.update(first.digest())
        return bytes(second.digest())

    block = mac(bytes(salt) + (1).to_bytes(4, "big"))
    total = int.from_bytes(block, "big")
    for _ in range(iterations - 1):
        block = mac(block)
        total ^= int.from_bytes(block, "big")
    return total.to_bytes(32, "big")[:length]


def whole_hashlib() -> None:
    """Add to the image's hashlib what the healthy machine's has."""
    if not hasattr(hashlib, "pbkdf2_hmac"):
        vars(hashlib).update(algorithms_available={"sha256"}, pbkdf2_hmac=pbkdf2)


def make() -> None:
    """Encrypt the disks, put file systems on them."""
    run(LVM, "pvcreate", "-q", "/dev/vdd")
    run(LVM, "vgcreate", "-q", "vg", "/dev/vdd")
    run(LVM, "lvcreate", "-q", "-y", "-Zn", "-l", "100%FREE", "-n", "lv", "vg")
    for name, (device, options) in VOLUMES.items():
        run(CRYPTSETUP, *FORMAT, *options, device)
        run(CRYPTSETUP, "open", "--key-file", KEY, device, name)
    run(LVM, "pvcreate", "-q", "/dev/mapper/under-lvm")
    run(LVM, "vgcreate", "-q", "inner", "/dev/mapper/under-lvm")
    run(LVM, "lvcreate", "-q", "-y", "-Zn", "-l", "100%FREE", "-n", "lv", "inner")
    run(LVM, "pvcreate", "-q", "/dev/vdh", "/dev/vdi")
    run(LVM, "vgcreate", "-q", "two", "/dev/vdh", "/dev/vdi")
    create = (LVM, "lvcreate", *WITHOUT_TOOLS, "-q", "-y", "-Zn")
    run(*create, "--type", "raid1", "-m1", "-L", "64M", "-n", "raid", "two")
    run(*create, "--type", "thin-pool", "-L", "64M", "--poolmetadatasize", "4M", "-n", "pool", "two")
    run(LVM, "lvcreate", *WITHOUT_TOOLS, "-q", "-y", "-V", "100M", "--thin", "-n", "thin", "two/pool")
    for place in PLACES.values():
        run(MKFS, "-q", "-F", "-E", "lazy_itable_init=1", place)
    run(MKFS_BTRFS, "-q", "-d", "raid0", "-m", "raid1", *BTRFS)


def look() -> dict[str, object]:
    """What `kdump build` would put into the plan for a target on each."""
    whole_hashlib()
    found = {name: storage.walk(storage.device_of(place)) for name, place in PLACES.items()}
    content = {name: identify(place) for name, place in (*PLACES.items(), ("btrfs", BTRFS[0]))}
    listed = {entry["name"]: entry for each in found.values() for entry in volumes.volumes(each.layers)}
    proved = {name: encryption.prove(entry) for name, entry in listed.items() if "holds" in entry}
    return {
        "storage": list(listed.values()),
        "modules": list(dict.fromkeys(name for each in found.values() for name in each.modules)),
        "uuids": {name: each.uuid for name, each in content.items() if each},
        "proved": proved,
        "foreign": refusals(),
    }


def refusals() -> dict[str, str]:
    """What `kdump build` would say to a target on devices that are no hardware."""
    said = {}
    for name in FOREIGN:
        try:
            volumes.refuse_unreachable(storage.walk(Path(f"/sys/block/{name}/dev").read_text().strip()).layers)
        except KdumpError as error:
            said[name] = error.what
    return said


def inspect_all() -> dict[str, list[str]]:
    """What is wrong with the crashes, by volume."""
    content = identify(BTRFS[0])
    assert content is not None
    btrfs.register(BTRFS[0], content.uuid, 10)
    places = {name: (place, "ext4") for name, place in PLACES.items() if name != SUSPENDED}
    places["btrfs"] = BTRFS[1], "btrfs"
    return {name: inspect(name, *place) for name, place in places.items()}


def inspect(name: str, device: str, fstype: str) -> list[str]:
    """What is wrong with the crash on a volume."""
    place = f"/run/{name}"
    Path(place).mkdir()
    system.mount(device, place, fstype, system.MS_RDONLY)
    crashes = list(Path(place, "crash").iterdir())
    content = manifest.read(crashes[0] / manifest.NAME)
    findings = [f"{each.name}: {each.what}" for entry in content["files"] for each in manifest.check(crashes[0], entry)]
    return [f"status {content['status']}", f"{len(content['files'])} files", *findings]


def run(*command: str) -> None:
    """Run a program; its failure is ours."""
    run_bounded(command, {**os.environ, **WITHOUT_UDEV})


if __name__ == "__main__":
    main()
