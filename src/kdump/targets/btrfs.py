"""btrfs on several devices: the kernel mounts it only when it has been told of all of them.

Sources: include/uapi/linux/btrfs.h (BTRFS_IOC_SCAN_DEV), include/uapi/linux/btrfs_tree.h (struct btrfs_super_block:
num_devices, dev_item), Documentation/ABI of /sys/fs/btrfs/UUID/devices.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from kdump.errors import KdumpError
from kdump.targets.devices import contents, has_holders

_SCAN_DEV = 1 << 30 | 4096 << 16 | 0x94 << 8 | 4  # _IOW(0x94, 4, struct btrfs_ioctl_vol_args)
_ARGUMENTS = struct.Struct("<q4088s")
_NUM_DEVICES = 0x10000 + 0x88
_DEVICE_ID = 0x10000 + 0xC9  # dev_item.devid
_MOST = 4096
_POLL = 0.1


def device_count(device: str) -> int:
    """How many devices the file system on this one has. Raises OSError, KdumpError if that cannot be."""
    count = _number(device, _NUM_DEVICES)
    if not 0 < count <= _MOST:
        raise KdumpError(f"the superblock of {device} is damaged", why=f"it names {count} devices")
    return count


def _number(device: str, offset: int) -> int:
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int.from_bytes(os.pread(descriptor, 8, offset), "little")
    finally:
        os.close(descriptor)


def devices(uuid: str, sysfs: Path = Path("/sys")) -> list[str]:
    """ "major:minor" of each device of the mounted file system with this UUID."""
    return sorted((each / "dev").read_text().strip() for each in (sysfs / "fs/btrfs" / uuid / "devices").glob("*"))


def require_all(there: Sequence[str], device: str, what: str) -> None:
    """Raise KdumpError if fewer devices are `there` than the superblock of one of them says."""
    if (wanted := device_count(device)) > len(there):
        raise KdumpError(
            f"{what} cannot take dumps",
            why=f"{len(there)} of the {wanted} devices of its btrfs file system are here",
            remedy="replace or remove those that are missing: btrfs filesystem show",
        )


def refuse_copies(there: Sequence[str], what: str) -> None:
    """Raise KdumpError if two devices claim the same place in a file system: the kernel would take either."""
    places = [_number(device, _DEVICE_ID) for device in there]
    if copies := [device for device, at in zip(there, places, strict=True) if places.count(at) > 1]:
        raise KdumpError(
            f"{what} cannot take dumps",
            why=f"{' and '.join(copies)} are copies of one device of its btrfs file system",
            remedy="detach the copy, deactivate the snapshot, or give it another UUID: btrfstune -u",
        )


def present(uuid: str, sysfs: str = "/sys", dev: str = "/dev") -> list[str]:
    """The devices that hold parts of the file system with this UUID, mounted or not.

    What others stand on (the disk below a cache, a snapshot's origin) is left out: the kernel would take the last one
    that it is told of for the file system's.
    """
    found = [path for path, content in contents(sysfs, dev) if content == ("btrfs", uuid, content.label)]
    return [path for path in found if not has_holders(path, sysfs)]


def register(device: str, uuid: str, seconds: float, sysfs: str = "/sys", dev: str = "/dev") -> None:
    """Tell the kernel of all devices of a file system; they may be late by `seconds`. Raises KdumpError or OSError."""
    wanted, end = device_count(device), time.monotonic() + seconds
    if wanted == 1:
        return
    while len(found := present(uuid, sysfs, dev)) < wanted:
        if time.monotonic() >= end:
            raise KdumpError(
                f"the file system {uuid} cannot be mounted",
                why=f"{len(found)} of its {wanted} devices are here: {', '.join(found)}",
                remedy="a driver may be missing from the capture image: kdump build",
            )
        time.sleep(_POLL)
    refuse_copies(found, f"the file system {uuid}")
    control = os.open(f"{dev}/btrfs-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for path in found:
            fcntl.ioctl(control, _SCAN_DEV, bytearray(_ARGUMENTS.pack(0, path.encode())))
    finally:
        os.close(control)
