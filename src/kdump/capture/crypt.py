"""Encrypted volumes without a passphrase: the key that the dead kernel used is in its memory, which is here to be read.

The plan has the table without the key, the device-mapper UUID, and the UUID of what the volume holds. A key that is
found is tried on a read-only mapping: only if the volume then holds what it should is it mapped for writing. All of it
happens in a child, whose memory goes with it. docs/decisions/0028 says why this weakens nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from kdump.capture import devicemapper
from kdump.capture.child import bytes_from_child
from kdump.capture.devicemapper import DmTarget
from kdump.errors import KdumpError
from kdump.kernel.dmcrypt import Devices, Layout
from kdump.kernel.kernel import Kernel
from kdump.memory.protocol import Dump
from kdump.targets.superblock import identify

_MEMORY = 64 << 20  # bytes that the child may allocate: symbols and types take some 20 MB
_TRIAL = "kdump-trial"
_PARAMETERS = re.compile(r"(\S+) :(\d+):\S+ (\d+) (\S+) (\d+)(?: \d+ (.*))?")


def layout_of(target: DmTarget) -> Layout:
    """The parts of a crypt segment's line. Raises KdumpError if it cannot be read."""
    found = _PARAMETERS.fullmatch(target.parameters)
    if not found:
        raise KdumpError("the table of an encrypted volume cannot be read", why=target.parameters)
    cipher, _, iv_offset, _, start, options = found.groups()
    words = dict(word.partition(":")[::2] for word in (options or "").split())
    sector_size = int(words.get("sector_size", 512))
    return Layout(cipher, int(iv_offset), int(start), sector_size, target.start, target.length)


def device_of(target: DmTarget) -> str:
    """The device below a crypt segment, as its line names it."""
    found = _PARAMETERS.fullmatch(target.parameters)
    return found[4] if found else ""


def without_options(target: DmTarget) -> DmTarget:
    """The line with only those options that say what is on the disk: others tune, and may be unknown elsewhere."""
    kept = [word for word in target.parameters.split()[6:] if word == "iv_large_sectors" or word[:7] == "sector_"]
    words = target.parameters.split()[:5] + ([str(len(kept)), *kept] if kept else [])
    return target._replace(parameters=" ".join(words))


def assemble(volume: Mapping[str, Any], dump: Dump, find: Callable[[str], str], say: Callable[[str], None]) -> None:
    """Map the plan's encrypted volume; `find(uuid)` waits for the device that holds a UUID and returns its path.

    Raises KdumpError or OSError with the reason if it cannot be opened.
    """
    [target] = devicemapper.resolved(volume["table"], find)
    try:
        tried = bytes_from_child(partial(_open, volume, target, dump), _MEMORY).decode()
    except KdumpError as error:
        raise KdumpError("it could not be opened", why=error.why) from None
    say(f"volume {volume['name']}: opened with the dead kernel's key ({tried})")


def _open(volume: Mapping[str, Any], target: DmTarget, dump: Dump) -> bytes:
    keys = Devices(Kernel(dump)).keys(volume["uuid"], layout_of(target))
    try:
        for number, key in enumerate(keys, 1):
            if _proved(target, key, volume["holds"]):
                devicemapper.create_encrypted(volume["name"], volume["uuid"], target, key)
                return f"try {number} of {len(keys)}".encode()
    finally:
        for key in keys:
            devicemapper.wipe(key)
    raise KdumpError(
        "the key in the dead kernel's memory is not the volume's",
        why=f"{len(keys)} tried, and none makes {volume['holds']} appear on it",
    )


def _proved(target: DmTarget, key: bytearray, holds: str) -> bool:
    """Whether the volume, opened with that key for reading only, holds what it should."""
    if devicemapper.is_active(_TRIAL):  # of an attempt that was killed
        devicemapper.remove(_TRIAL)
    device = devicemapper.create_encrypted(_TRIAL, "", target, key, readonly=True)
    try:
        content = identify(device)
        return content is not None and content.uuid == holds
    finally:
        devicemapper.remove(_TRIAL)
