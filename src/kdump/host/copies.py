"""Copies of the disks under the targets. The capture kernel finds what it needs by UUID, and a copy has the same.

What udev found on each device tells (its database; ID_FS_UUID, ID_PART_ENTRY_UUID): no disk is read for this, one
that does not answer harms nothing. Without udev, nothing is known of copies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from kdump.capture import multipath
from kdump.errors import KdumpError
from kdump.host import storage
from kdump.host.storage import Layer
from kdump.targets.protocol import Spec

_DATABASE: Final = Path("/run/udev/data")
_NAMES: Final = "ID_FS_UUID", "ID_PART_ENTRY_UUID"
_RAW: Final = {"disk", "partition", "multipath"}  # what the capture kernel may see without the plan


def refuse_copies(
    specs: Iterable[Spec],
    made: Iterable[Mapping[str, Any]],
    layers: Iterable[Layer],
    *,
    database: Path = _DATABASE,
    walk: Callable[[str], storage.Storage] = storage.walk,
    identity: Callable[[str], str] = lambda name: multipath.wwid(Path("/sys/block", name)),
) -> None:
    """Raise KdumpError if a disk beside those of `layers` holds what the capture kernel will look for.

    `made` is what `kdump.host.volumes` makes of the layers. Other paths to the same disk are no copies.
    """
    wanted = _wanted(specs, made)
    every = list(layers)
    ours = {layer.name for layer in every}
    disks = {layer.name for layer in every if layer.kind == "disk"}
    # Paths of a map, disks of an array: what partitions of theirs show is what the whole holds.
    parts = {name for layer in every if layer.kind != "partition" for name in layer.beneath}
    known = {identity(name) for name in disks} - {""}
    for device, uuid in _found(database):
        if uuid not in wanted:
            continue
        try:
            found = walk(device).layers
        except KdumpError:
            continue  # it went away
        below = {layer.name for layer in found if layer.kind == "disk"}
        if found[0].name in ours or not {layer.kind for layer in found} <= _RAW:
            continue
        mapped = disks if found[0].name.startswith("dm-") else disks & parts
        if below & mapped or known & {identity(each) for each in below - disks}:
            continue  # the same disk once more
        raise KdumpError(
            f"/dev/{found[0].name} is a copy of a disk under {wanted[uuid]}: both have the UUID {uuid}",
            why="after a crash, the dump could go to the copy",
            remedy="detach the copy, or give it another UUID",
        )


def _wanted(specs: Iterable[Spec], made: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The UUIDs by which the capture kernel finds devices, in lower case, and whose they are.

    Members of an array are told apart by the kernel; a volume that a target names is found by its name.
    """
    wanted: dict[str, str] = {}
    for volume in made:
        uuids = re.findall(r"<([^<>:]+)>", " ".join(str(line[3]) for line in volume.get("table", ())))
        for uuid in (*uuids, *volume.get("bcache", ())):
            wanted[uuid.lower()] = f"the volume {volume['name']}"
    for spec in specs:
        uuid = spec.facts.get("partuuid") or ("" if "volume" in spec.facts else spec.facts.get("uuid", ""))
        if uuid:
            wanted[uuid.lower()] = f"the target {spec.url}"
    return wanted


def _found(database: Path) -> Iterator[tuple[str, str]]:
    """("major:minor", UUID in lower case) of what udev found on each block device and in partition tables."""
    for entry in sorted(database.glob("b*:*")):
        try:
            lines = entry.read_text(errors="replace").splitlines()
        except OSError:
            continue  # not ours to read, or gone
        for line in lines:
            name, _, value = line.removeprefix("E:").partition("=")
            if name in _NAMES and value:
                yield entry.name[1:], value.lower()
