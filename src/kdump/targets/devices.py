"""Finds block devices without udev: by what they hold (file system UUID) or by their partition's UUID.

Device names change between the first and the second kernel; what is written on the disk does not.
Sources: sysfs ABI (/sys/class/block/*/{dev,size,start,partition}); UEFI specification 2.10, chapter 5 (GPT).
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kdump.errors import KdumpError
from kdump.targets.superblock import RAID_MEMBER, Content, identify

_SECTOR = 512
LOOKING = 0.8  # the share of a target's time in which its device may appear
_POLL = 0.1  # seconds between two looks for a device that has not appeared


def block_devices(sysfs: str = "/sys", dev: str = "/dev") -> Iterator[tuple[str, str]]:
    """Every block device that has a size: (kernel name, device path), disks before their partitions."""
    for entry in sorted(Path(sysfs, "class/block").iterdir()):
        try:
            if int((entry / "size").read_text()) == 0:
                continue
        except (OSError, ValueError):
            continue  # it went away, or is not one
        yield entry.name, f"{dev}/{entry.name.replace('!', '/')}"


def contents(sysfs: str = "/sys", dev: str = "/dev") -> Iterator[tuple[str, Content]]:
    """(device path, content) of every device on which a signature is found.

    Unreadable devices are passed over, and paths of a multipath map (and their partitions): it stands for them.
    """
    for name, path in block_devices(sysfs, dev):
        if name.startswith(("loop", "ram", "zram")) or _is_path(Path(sysfs, "class/block", name)):
            continue
        try:
            content = identify(path)
        except OSError:
            continue
        if content:
            yield path, content


def _is_path(entry: Path) -> bool:
    """Whether a disk or partition is one of the paths of a multipath map that is there."""
    disk = entry.resolve().parent if (entry / "partition").exists() else entry
    try:
        return any(path.read_text().startswith("mpath-") for path in disk.glob("holders/*/dm/uuid"))
    except OSError:  # the map or the disk went away meanwhile
        return False


def find_uuid(uuid: str, sysfs: str = "/sys", dev: str = "/dev", volume: str = "") -> str | None:
    """The device that holds the file system with this UUID, or None.

    Where `volume` is given, it is the device-mapper volume of that name or none: what it is made of has the same
    content (the halves of a mirror, the disk below a cache, a snapshot's origin), and is not to be written to.
    """
    found = [path for path, content in contents(sysfs, dev) if content.uuid.lower() == uuid.lower()]
    if volume:
        found = [path for path in found if volume_name(path, sysfs) == volume]
    return min(found, key=lambda path: place_of(path, sysfs), default=None)


def place_of(path: str, sysfs: str = "/sys") -> tuple[bool, bool]:
    """A key by which devices with the same content are sorted: the whole before what it is made of."""
    return has_holders(path, sysfs), not path.rpartition("/")[2].startswith(("dm-", "md"))


def has_holders(path: str, sysfs: str = "/sys") -> bool:
    """Whether other devices stand on this one."""
    return any((entry_of(path, sysfs) / "holders").glob("*"))


def volume_name(path: str, sysfs: str = "/sys") -> str:
    """The name of a device-mapper volume by its device; empty for other devices."""
    try:
        return (entry_of(path, sysfs) / "dm/name").read_text().strip()
    except OSError:
        return ""


def entry_of(path: str, sysfs: str = "/sys") -> Path:
    """The directory of a device, "/dev/sda1", in sysfs."""
    return Path(sysfs, "class/block", path.rpartition("/")[2])


def members(uuid: str, sysfs: str = "/sys", dev: str = "/dev") -> list[str]:
    """The devices that belong to the MD array with this UUID.

    Metadata 0.90 does not say where its member begins: a disk ends like its last partition, which is the member then.
    """
    found = [path for path, content in contents(sysfs, dev) if content == (RAID_MEMBER, uuid, content.label)]
    entries = {path: Path(sysfs, "class/block", path.rpartition("/")[2]) for path in found}
    disks = {entry.resolve().parent.name for entry in entries.values() if (entry / "partition").exists()}
    return [path for path, entry in entries.items() if entry.name not in disks]


def partition_uuid(name: str, sysfs: str = "/sys", dev: str = "/dev") -> str | None:
    """PARTUUID of a partition by its kernel name, from the disk's GPT or MBR; None for a whole disk."""
    entry = Path(sysfs, "class/block", name)
    try:
        number = int((entry / "partition").read_text())
        disk = entry.resolve().parent.name
        block = int(Path(sysfs, "class/block", disk, "queue/logical_block_size").read_text())
        descriptor = os.open(f"{dev}/{disk.replace('!', '/')}", os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        header = os.pread(descriptor, 92, block)
        if header[:8] == b"EFI PART":
            first, count, size = struct.unpack_from("<QII", header, 72)
            if number > count:
                return None
            raw = os.pread(descriptor, size, first * block + (number - 1) * size)
            return guid_text(raw[16:32])
        mbr = os.pread(descriptor, _SECTOR, 0)
        if mbr[510:512] == b"\x55\xaa":
            return f"{struct.unpack_from('<I', mbr, 0x1B8)[0]:08x}-{number:02x}"
        return None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def find_partition(uuid: str, sysfs: str = "/sys", dev: str = "/dev") -> str | None:
    """The partition with this PARTUUID, or None."""
    for name, path in block_devices(sysfs, dev):
        if (partition_uuid(name, sysfs, dev) or "").lower() == uuid.lower():
            return path
    return None


def guid_text(raw: bytes) -> str:
    """A GUID of 16 bytes in the mixed-endian order of UEFI, as text."""
    first, second, third = struct.unpack_from("<IHH", raw)
    return f"{first:08x}-{second:04x}-{third:04x}-{raw[8:10].hex()}-{raw[10:16].hex()}"


def wait_for(look: Callable[[], str | None], what: str, seconds: float, sysfs: str = "/sys", dev: str = "/dev") -> str:
    """Look for a device until it is there or `seconds` are over. Raises `KdumpError` that lists what is there."""
    end = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        if time.monotonic() >= end:
            there = ", ".join(f"{path} {content.fstype} {content.uuid}" for path, content in contents(sysfs, dev))
            raise KdumpError(
                f"{what} did not appear within {seconds:.0f} s",
                why=f"block devices here: {there or 'none'}",
                remedy="the driver may be missing from the capture image: kdump build",
            )
        time.sleep(_POLL)
