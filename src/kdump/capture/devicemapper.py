"""Device-mapper volumes without tools: tables are read on the healthy host and loaded again in the capture kernel.

A table names block devices by number, and numbers change; in the plan they are replaced by the UUID of what is on the
device (an LVM physical volume, say), or by the name of another volume, in angle brackets: "<UUID> 2048", or
"<dm:vg-pool> 1". The key of an encrypted volume never leaves `read_table`: "-" stands for it.

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

CRYPT = "crypt"
NO_KEY = "-"
BY_NAME = "dm:"
CONTROL = "/dev/mapper/control"
VERSION = (4, 0, 0)
_HEADER = struct.Struct("<3IIIIiIIIQ128s129s7x")  # version, data_size, data_start, target_count, open, flags, event, …
_TARGET = struct.Struct("<QQiI16s")  # sector_start, length, status, next, target_type
_MAGIC = 0xFD
# DM_DEV_CREATE, …; DM_DEV_SUSPEND without the flag resumes
_CREATE, _REMOVE, _SUSPEND, _STATUS, _LOAD, _TABLE = 3, 4, 6, 7, 9, 12
# DM_…_FLAG
_READONLY, _STATUS_TABLE, _ACTIVE, _BUFFER_FULL, _NOFLUSH, _SECURE = 1 << 0, 1 << 4, 1 << 5, 1 << 8, 1 << 11, 1 << 15
_ROOM = 64 << 10


class DmTarget(NamedTuple):
    """One line of a table: first sector, length in sectors, kind, parameters."""

    start: int
    length: int
    kind: str
    parameters: str


def read_table(device: str) -> list[DmTarget]:
    """The table of the live volume "major:minor". Raises OSError, KdumpError if it does not fit into 64 KiB."""
    return _read(device, _STATUS_TABLE | _SECURE)


def read_status(device: str) -> list[DmTarget]:
    """As `read_table`, with what each segment says of its state in place of its parameters.

    It may be some seconds old: pools and caches are not made to write their metadata, which could take for ever.
    """
    return _read(device, _NOFLUSH | _SECURE)


def _read(device: str, flags: int) -> list[DmTarget]:
    major, _, minor = device.partition(":")
    number = os.makedev(int(major), int(minor))
    answer = _ioctl(_TABLE, flags=flags, number=number, room=_ROOM)
    try:
        if answer.flags & _BUFFER_FULL:
            raise KdumpError(f"the table of the volume {device} is too long")
        targets, at = [], 0
        for _ in range(answer.targets):
            start, length, _status, following, kind = _TARGET.unpack_from(answer.data, at)
            name = kind.rstrip(b"\0").decode()
            text = answer.data[at + _TARGET.size : answer.data.index(b"\0", at + _TARGET.size)]
            secret = name == CRYPT and flags & _STATUS_TABLE
            targets.append(DmTarget(start, length, name, (_without_key(text) if secret else text).decode()))
            wipe(text)
            at = following  # from the start of the data
        return targets
    finally:
        wipe(answer.data)


def _without_key(parameters: bytearray) -> bytearray:
    """A crypt target's parameters without the second word, which is the key or names one of the kernel's keyring."""
    cipher, _, rest = parameters.partition(b" ")
    key, _, rest = rest.partition(b" ")
    if key.startswith(b":"):  # ":SIZE:TYPE:NAME": the size is not secret, and is useful
        return cipher + b" " + b":".join(key.split(b":")[:3]) + b" " + rest
    size = len(key) // 2
    wipe(key)
    return cipher + f" :{size}:{NO_KEY} ".encode() + rest


def wipe(secret: bytearray) -> None:
    """Overwrite a key's bytes."""
    secret[:] = bytes(len(secret))


def create(name: str, uuid: str, table: Iterable[DmTarget]) -> str:
    """Make a volume and start it; returns its device, "/dev/dm-0". Raises OSError."""
    lines = [_encoded(target, target.parameters.encode()) for target in table]
    return _start(name, uuid, len(lines), bytearray().join(lines))


def create_encrypted(name: str, uuid: str, target: DmTarget, key: bytearray, *, readonly: bool = False) -> str:
    """As `create`, of a volume of one crypt segment whose key stands in for the table's second word.

    The kernel wipes its copies of the request, and so does this.
    """
    cipher, _, rest = target.parameters.split(" ", 2)
    text = bytearray(cipher.encode() + b" ")
    for byte in key:
        text += b"%02x" % byte
    text += b" " + rest.encode()
    body = _encoded(target, text)
    wipe(text)
    return _start(name, uuid, 1, body, _SECURE | (_READONLY if readonly else 0))


def remove(name: str) -> None:
    """Take a volume away that nobody uses. Raises OSError."""
    _ioctl(_REMOVE, name=name)


def is_active(name: str) -> bool:
    """Whether there is a volume of that name, at work. One that was only begun is taken away."""
    try:
        flags = _ioctl(_STATUS, name=name).flags
    except OSError:
        return False
    if not flags & _ACTIVE:
        remove(name)
    return bool(flags & _ACTIVE)


def _encoded(target: DmTarget, parameters: bytes | bytearray) -> bytearray:
    size = len(parameters) + 1
    padded = size + -size % 8
    head = _TARGET.pack(target.start, target.length, 0, _TARGET.size + padded, target.kind.encode())
    return bytearray(head) + parameters + bytes(padded - len(parameters))


def _start(name: str, uuid: str, count: int, body: bytearray, flags: int = 0) -> str:
    """Create, load, resume. A volume that cannot be loaded is not left behind."""
    number = _ioctl(_CREATE, name=name, uuid=uuid).number
    try:
        _ioctl(_LOAD, name=name, flags=flags, count=count, body=body)
        _ioctl(_SUSPEND, name=name)
    except OSError:
        remove(name)
        raise
    finally:
        wipe(body)
    return f"/dev/dm-{os.minor(number)}"


def assemble(volume: Mapping[str, Any], find: Callable[[str], str], say: Callable[[str], None]) -> None:
    """Make one of the plan's volumes. `find(uuid)` waits for the device that holds a UUID and returns its path.

    Raises KdumpError or OSError if it cannot be made, or not without the volumes that it "needs" beside it.
    """
    if missing := [name for name in volume.get("needs", ()) if not is_active(name)]:
        raise KdumpError(
            f"the volume {volume['name']} cannot be used without its snapshots {', '.join(missing)}",
            why="what is written without them damages them",
        )
    table = resolved(volume["table"], find)
    create(volume["name"], volume["uuid"], table)
    say(f"volume {volume['name']}: {len(table)} segments")


def resolved(table: Iterable[Iterable[Any]], find: Callable[[str], str]) -> list[DmTarget]:
    """The plan's table with the numbers of this kernel's devices. `find` raises KdumpError, as `assemble` says."""

    def number(found: re.Match[str]) -> str:
        if found[1].startswith(BY_NAME):
            device = _ioctl(_STATUS, name=found[1].removeprefix(BY_NAME)).number
        else:
            device = Path(find(found[1])).stat().st_rdev
        return f"{os.major(device)}:{os.minor(device)}"

    lines = [DmTarget(*line) for line in table]
    return [line._replace(parameters=re.sub(r"<([^>]+)>", number, line.parameters)) for line in lines]


class _Answer(NamedTuple):
    """The kernel's answer: flags, number of targets, the device's number, the data behind the header."""

    flags: int
    targets: int
    number: int
    data: bytearray


def _ioctl(
    command: int, *, name: str = "", uuid: str = "", flags: int = 0, number: int = 0, count: int = 0,
    body: bytes | bytearray = b"", room: int = 0,
) -> _Answer:  # fmt: skip
    """One call. Keys may be in `body` and in the answer's data: no copy of either stays behind."""
    size = _HEADER.size + max(len(body), room, 1024)  # Python copies less to its stack, which nobody wipes
    head = _HEADER.pack(*VERSION, size, _HEADER.size, count, 0, flags, 0, 0, number, name.encode(), uuid.encode())
    buffer = bytearray(size)
    buffer[: len(head)] = head
    buffer[len(head) : len(head) + len(body)] = body
    descriptor = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        # _IOWR(0xfd, command, struct dm_ioctl)
        fcntl.ioctl(descriptor, 3 << 30 | _HEADER.size << 16 | _MAGIC << 8 | command, buffer)
        fields = _HEADER.unpack_from(buffer)
        return _Answer(fields[7], fields[5], fields[10], buffer[fields[4] :])
    finally:
        os.close(descriptor)
        wipe(buffer)
