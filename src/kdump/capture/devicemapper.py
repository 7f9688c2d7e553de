"""Device-mapper volumes without tools: tables are read on the healthy host and loaded again in the capture kernel.

A table names block devices by number, and numbers change; in the plan they are replaced by the UUID of what is on the
device (an LVM physical volume, say), in angle brackets: "<UUID> 2048".

Source: include/uapi/linux/dm-ioctl.h (struct dm_ioctl, struct dm_target_spec), Documentation/admin-guide/device-mapper.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kdump.errors import KdumpError

CONTROL = "/dev/mapper/control"
VERSION = (4, 0, 0)
_HEADER = struct.Struct("<3IIIIiIIIQ128s129s7x")  # version, data_size, data_start, target_count, open, flags, event, …
_TARGET = struct.Struct("<QQiI16s")  # sector_start, length, status, next, target_type
_MAGIC = 0xFD
_CREATE, _SUSPEND, _LOAD, _TABLE = 3, 6, 9, 12  # DM_DEV_CREATE …; DM_DEV_SUSPEND without the flag resumes
_STATUS_TABLE, _BUFFER_FULL = 1 << 4, 1 << 8
_ROOM = 64 << 10


class DmTarget(NamedTuple):
    """One line of a table: first sector, length in sectors, kind, parameters."""

    start: int
    length: int
    kind: str
    parameters: str


def read_table(device: str) -> list[DmTarget]:
    """The table of the live volume "major:minor". Raises OSError, KdumpError if it does not fit into 64 KiB."""
    major, _, minor = device.partition(":")
    flags, count, data = _ioctl(_TABLE, flags=_STATUS_TABLE, number=os.makedev(int(major), int(minor)), room=_ROOM)
    if flags & _BUFFER_FULL:
        raise KdumpError(f"the table of the volume {device} is too long")
    targets, at = [], 0
    for _ in range(count):
        start, length, _status, following, kind = _TARGET.unpack_from(data, at)
        text = data[at + _TARGET.size : data.index(b"\0", at + _TARGET.size)]
        targets.append(DmTarget(start, length, kind.rstrip(b"\0").decode(), text.decode()))
        at = following  # from the start of the data
    return targets


def create(name: str, uuid: str, table: Iterable[DmTarget]) -> None:
    """Make a volume and start it. Raises OSError."""
    body = b""
    count = 0
    for target in table:
        text = target.parameters.encode() + b"\0"
        text += bytes(-len(text) % 8)
        body += _TARGET.pack(target.start, target.length, 0, _TARGET.size + len(text), target.kind.encode()) + text
        count += 1
    _ioctl(_CREATE, name=name, uuid=uuid)
    _ioctl(_LOAD, name=name, count=count, body=body)
    _ioctl(_SUSPEND, name=name)


def assemble(volume: Mapping[str, Any], find: Callable[[str], str], say: Callable[[str], None]) -> None:
    """Make one of the plan's volumes. `find(uuid)` waits for the device that holds a UUID and returns its path.

    Raises KdumpError or OSError if it cannot be made.
    """

    def number(found: re.Match[str]) -> str:
        status = Path(find(found[1])).stat()
        return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"

    lines = [DmTarget(*line) for line in volume["table"]]
    table = [line._replace(parameters=re.sub(r"<([^>]+)>", number, line.parameters)) for line in lines]
    create(volume["name"], volume["uuid"], table)
    say(f"volume {volume['name']}: {len(table)} segments")


def _ioctl(
    command: int, *, name: str = "", uuid: str = "", flags: int = 0, number: int = 0, count: int = 0,
    body: bytes = b"", room: int = 0,
) -> tuple[int, int, bytes]:  # fmt: skip
    """One call; returns flags, number of targets, and the data behind the header."""
    size = _HEADER.size + max(len(body), room)
    head = _HEADER.pack(*VERSION, size, _HEADER.size, count, 0, flags, 0, 0, number, name.encode(), uuid.encode())
    buffer = bytearray(head + body + bytes(size - len(head) - len(body)))
    descriptor = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        # _IOWR(0xfd, command, struct dm_ioctl)
        fcntl.ioctl(descriptor, 3 << 30 | _HEADER.size << 16 | _MAGIC << 8 | command, buffer)
    finally:
        os.close(descriptor)
    fields = _HEADER.unpack_from(buffer)
    return fields[7], fields[5], bytes(buffer[fields[4] :])
