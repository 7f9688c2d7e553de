"""Encrypted volumes of a virtual machine, as small stand-ins for those of a real one: same cipher, a key of their own.

The disk has a LUKS header with nothing but its UUID, by which it is found; no passphrase would open it. What the
volume holds is the label of an LVM physical volume, which has a UUID as well.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kdump.capture import devicemapper
from kdump.capture.crypt import device_of
from kdump.capture.devicemapper import DmTarget
from kdump.targets.devices import find_uuid, wait_for
from kdump.targets.superblock import lvm_uuid

MIB: Final = 1 << 20
_SIZE: Final = 4 * MIB
_START: Final = MIB // 512
_LUKS1: Final = b"LUKS\xba\xbe\0\1"
_UUID_PLACE: Final = 168
# LVM's label in sector 1: LABELONE, its sector, CRC, offset of the header, type; then the UUID.
_LABEL: Final = b"LABELONE" + bytes([1]).ljust(12, b"\0") + (32).to_bytes(4, "little") + b"LVM2 001"
_BLOCK: Final = 4096
_WAIT: Final = 20.0  # seconds for the disk to appear


def stand_in(volume: Mapping[str, Any]) -> dict[str, Any]:
    """The capture plan's entry for a small volume like `volume`, an entry of a real machine's plan."""
    words = DmTarget(*volume["table"][0]).parameters.split()
    parameters = " ".join([*words[:2], "0", f"<{uuid.uuid4()}>", str(_START), *words[5:]])
    table = [[0, (_SIZE - MIB) // 512, devicemapper.CRYPT, parameters]]
    return {**volume, "table": table, "holds": lvm_uuid(uuid.uuid4().hex)}


def make_disk(volume: Mapping[str, Any], path: Path) -> Path:
    """The disk that a stand-in's table names."""
    with path.open("wb") as file:
        file.write(_LUKS1)
        file.seek(_UUID_PLACE)
        file.write(_device(volume).encode())
        file.truncate(_SIZE)
    return path


def open_and_fill(volume: Mapping[str, Any]) -> None:
    """In the guest: map the stand-in with a random key, and write its label. Raises KdumpError or OSError."""
    [target] = devicemapper.resolved(volume["table"], _find)
    size = int(target.parameters.split()[1].split(":")[1])
    key = bytearray(os.urandom(size))
    device = devicemapper.create_encrypted(volume["name"], volume["uuid"], target, key)
    devicemapper.wipe(key)
    content = bytearray(_BLOCK)
    content[512 : 512 + len(_LABEL)] = _LABEL
    content[544:576] = volume["holds"].replace("-", "").encode()
    descriptor = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _find(identity: str) -> str:
    return wait_for(lambda: find_uuid(identity), f"the disk {identity}", _WAIT)


def _device(volume: Mapping[str, Any]) -> str:
    return device_of(DmTarget(*volume["table"][0])).strip("<>")
