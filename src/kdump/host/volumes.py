"""The arrays and volumes under the targets, as the capture kernel is to put them together; and those that it cannot.

A table of device-mapper says all about most kinds of volume. For some, the kernel keeps a list in memory of what lies
where: a cache of all its blocks, a snapshot of those that differ. That memory is bounded here.

Sources: Documentation/admin-guide/device-mapper (cache.rst, snapshot.rst: tables and status lines),
drivers/md/dm-cache-policy-smq.c (struct entry), dm-exception-store.h (struct dm_exception), dm-snap-persistent.c
(struct disk_exception), drivers/md/bcache/bcache.h (struct bucket) and sysfs.c (nbuckets, state).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from kdump.capture import devicemapper, multipath
from kdump.capture.devicemapper import DmTarget
from kdump.errors import KdumpError
from kdump.host import encryption, storage
from kdump.host.crashkernel import MIB
from kdump.host.expected import LISTS
from kdump.targets.superblock import BCACHE, RAID_MEMBER, Content, identify
from kdump.units import size_text

# Segments that a table says all about, or that keep the rest on disks which the table names; and what drives them.
SEGMENTS: Final = {
    "linear": "dm_mod", "striped": "dm_mod", "raid": "dm_raid", "thin": "dm_thin_pool", "thin-pool": "dm_thin_pool",
    "cache": "dm_cache", "snapshot": "dm_snapshot", "snapshot-origin": "dm_snapshot",
}  # fmt: skip
METADATA: Final = ("0.90", "1.0", "1.1", "1.2")  # of arrays
_TRANSIENT: Final = "N"  # what a snapshot's table says if its list is in memory only
REFUSED_SEGMENTS: Final = {"snapshot-merge": "the snapshot is being merged into its origin; wait until that is done"}

_CACHE_BLOCK: Final = 48  # bytes for each block of a cache: an entry, its place in the hash table, three bits
_EXCEPTION: Final = 16, 32  # bytes of a block that differs from a snapshot's origin: on the disk, in memory
_SNAPSHOT: Final = 2 * MIB  # a hash table, its largest (dm-snap.c, calc_max_buckets)
# Status lines of volumes that may be out of order, with a list's size: blocks of a cache, sectors of a snapshot's.
_STATUS: Final = {
    "cache": re.compile(r"\d+ \d+/\d+ \d+ \d+/(\d+) "),
    "snapshot": re.compile(r"\d+/\d+ (\d+)$"),
    "thin": re.compile(r"\d+ "),
    "thin-pool": re.compile(r"\d+ \d+/\d+ \d+/\d+ "),
}
# What they say of their room: units in use and in all.
_ROOM: Final = {"snapshot": re.compile(r"(\d+)/(\d+) "), "thin-pool": re.compile(r"\d+ \d+/\d+ (\d+)/(\d+) ")}
_DISORDER: Final = frozenset(("ro", "out_of_data_space", "needs_check"))  # words in them
_FULL: Final = {"snapshot": ("Invalid", "Overflow")}
_BUCKET: Final = 24  # bytes for each of bcache's: struct bucket, and its share of heaps and lists
_CACHED: Final = ("clean", "dirty")  # states of a disk that has a cache
_BCACHE: Final = 12 * MIB  # btree nodes that it keeps in reserve, journal, buffers


def refuse_unreachable(layers: Iterable[storage.Layer]) -> None:
    """Raise KdumpError for a layer that the capture kernel cannot put together."""
    for layer in layers:
        if layer.kind == "foreign":
            raise KdumpError(
                f"{layer.name} is {layer.detail}: the capture kernel cannot reach it",
                remedy="choose a file system on a disk of this machine, or nfs://, ssh:// or s3://",
            )
        if layer.kind == "loop":
            raise KdumpError(
                f"{layer.name} is a file on another file system", remedy="choose a directory on that file system"
            )
        if layer.kind == "dmraid" or (layer.kind == "md" and layer.metadata not in METADATA):
            metadata = layer.metadata or "of a controller"
            raise KdumpError(
                f"{layer.name} is a {layer.detail or 'RAID'} array with metadata {metadata}: "
                f"the capture kernel assembles only those with metadata {', '.join(METADATA)}",
                remedy="choose a file system beside the array, or the network",
            )


def volumes(
    layers: Iterable[storage.Layer],
    table_of: Callable[[str], list[DmTarget]] = devicemapper.read_table,
    content_of: Callable[[str], Content | None] = identify,
    identify_disk: Callable[[str], str] = lambda name: multipath.wwid(Path("/sys/block", name)),
) -> tuple[dict[str, Any], ...]:
    """The arrays and volumes among `layers` (each above what it stands on), lowest first, for the plan.

    Of an encrypted one, "holds" is the UUID of what is on it, by which its key will be proved. Of the origin of
    snapshots, "needs" are their names: what is written without them damages them.

    A multipath map of disks that do not say who they are is left out: the capture kernel finds what is on it on any
    one path. Raises KdumpError for a volume with other segments than SEGMENTS, or something that stands on a device
    without a UUID.
    """
    every = list(layers)
    names = {layer.device: layer.name for layer in every}

    def uuid(name: str, fstype: str = "") -> str:
        content = content_of(f"/dev/{name}") if name in names.values() else None
        if content is None or not content.uuid or fstype not in ("", content.fstype):
            raise KdumpError(
                f"a volume stands on {name}, and nothing there has a UUID",
                remedy="choose a file system elsewhere, or the network",
            )
        return content.uuid

    ours = {layer.device: layer.detail for layer in every if layer.kind in ("lvm", "dm", "crypt")}

    mapped: dict[str, str] = {}  # multipath maps of the plan, of which partitions may be mapped again

    def identity(found: re.Match[str]) -> str:
        if found[0] in ours:
            return f"<{devicemapper.BY_NAME}{ours[found[0]]}>"
        return f"<{uuid(names.get(found[0], found[0]))}>"

    made: list[dict[str, Any]] = []
    for layer in reversed(every):
        if layer.kind == "md":
            array = uuid(layer.beneath[0], RAID_MEMBER)
            disks = len(layer.beneath)
            made.append({"array": layer.name, "uuid": array, "metadata": layer.metadata, "disks": disks})
        if layer.kind == "bcache":
            made.append({"bcache": [uuid(name, BCACHE) for name in layer.beneath], "name": layer.name})
        if layer.kind == "multipath" and (entry := _multipath(layer, table_of, every, identify_disk)):
            made.append(entry)
            mapped[layer.device] = f"<{devicemapper.BY_NAME}{layer.detail}>"
        if layer.kind == "partition" and layer.uuid and mapped:
            lines = [
                line._replace(parameters=re.sub(r"\b\d+:\d+\b", lambda found: mapped[found[0]], line.parameters))
                for line in table_of(layer.device)
            ]
            made.append({"name": layer.detail, "uuid": layer.uuid, "table": [list(line) for line in lines]})
        if layer.kind not in ("lvm", "dm", "crypt"):
            continue
        table = table_of(layer.device)
        if layer.kind == "crypt":
            table = [encryption.plan_of(layer.detail or layer.name, table)]
        elif kinds := sorted({line.kind for line in table} - SEGMENTS.keys()):
            known = [f"{kind}: {REFUSED_SEGMENTS[kind]}" for kind in kinds if kind in REFUSED_SEGMENTS]
            raise KdumpError(
                f"the volume {layer.detail} is of kind {', '.join(kinds)}: the capture kernel assembles only "
                + ", ".join(SEGMENTS),
                why="; ".join(known),
                remedy="choose another file system, or the network",
            )
        if any(line.kind == "snapshot" and _TRANSIENT in line.parameters.split() for line in table):
            raise KdumpError(
                f"the snapshot {layer.detail} does not outlast a reboot",
                why="its list of what differs from its origin is in memory only",
                remedy="choose another file system, or the network",
            )
        lines = [line._replace(parameters=re.sub(r"\b\d+:\d+\b", identity, line.parameters)) for line in table]
        more: dict[str, Any] = {"holds": uuid(layer.name)} if layer.kind == "crypt" else {}
        if any(line.kind == "snapshot-origin" for line in table):
            more["needs"] = _snapshots(layer, every, table_of)
        made.append({"name": layer.detail, "uuid": layer.uuid, "table": [list(line) for line in lines], **more})
    return tuple(made)


def _snapshots(
    origin: storage.Layer, every: list[storage.Layer], table_of: Callable[[str], list[DmTarget]]
) -> list[str]:
    """The names of an origin's snapshots. Raises KdumpError if nothing says which they are."""
    found = [
        layer.detail
        for layer in every
        if layer.name in origin.beneath and any(line.kind == "snapshot" for line in table_of(layer.device))
    ]
    if not found:
        raise KdumpError(
            f"the snapshots of the volume {origin.detail} are not found",
            why="what is written without them damages them, and only LVM says which they are",
            remedy="choose another file system, or the network",
        )
    return found


def refuse_unfit(
    layers: Iterable[storage.Layer],
    status_of: Callable[[str], list[DmTarget]] = devicemapper.read_status,
    sysfs: Path = storage.SYSFS,
) -> None:
    """Raise KdumpError for a volume that the kernel says is out of order, and if the lists take too much memory."""
    lists: dict[str, int] = {}
    beside: set[str] = set()  # snapshots that only their origin needs, which stands above them
    for layer in layers:
        if layer.kind == "bcache":
            buckets = sum(_buckets(name, sysfs) for name in layer.beneath)
            if not buckets and any(_told(name, "state", sysfs) in _CACHED for name in layer.beneath):
                raise KdumpError(
                    f"the bcache device {layer.name} runs without its cache",
                    why="the next kernel starts it with the cache only",
                    remedy="attach or detach the cache, or choose another file system",
                )
            lists[layer.name] = _BCACHE + buckets * _BUCKET
        elif layer.kind in ("lvm", "dm"):
            status = status_of(layer.device)
            if any(line.kind == "snapshot-origin" for line in status):
                beside |= set(layer.beneath)
            used = layer.name not in beside
            lists[layer.detail] = sum(_list_size(line, layer.detail, used=used) for line in status)
    if sum(lists.values()) > LISTS:
        raise KdumpError(
            f"the lists of blocks of {', '.join(filter(lists.get, lists))} do not fit into a capture kernel's memory",
            why=f"they take {size_text(sum(lists.values()))}, and {size_text(LISTS)} are meant for them",
            remedy="choose another file system, or the network",
        )


def rooms(
    layers: Iterable[storage.Layer], status_of: Callable[[str], list[DmTarget]] = devicemapper.read_status
) -> list[tuple[str, int]]:
    """Pools and snapshots that writing to the targets fills, and the bytes that each has left.

    A file system has no notion of that room. It may need less: what it wrote once has its place.
    """
    found = []
    for layer in layers:
        for line in status_of(layer.device) if layer.kind in ("lvm", "dm") else ():
            form = _ROOM.get(line.kind)
            told = form.match(line.parameters) if form else None
            if told and (whole := int(told[2])):
                unit = 1 if line.kind == "snapshot" else line.length // whole  # sectors
                found.append((f"the {line.kind} {layer.detail}", max(0, whole - int(told[1])) * unit * 512))
    return found


def _buckets(disk: str, sysfs: Path) -> int:
    """The buckets of a disk that is bcache's cache; 0 of one that is cached."""
    told = _told(disk, "nbuckets", sysfs)
    return int(told) if told.isdecimal() else 0


def _told(disk: str, name: str, sysfs: Path) -> str:
    """What bcache says of one of its disks; empty if nothing."""
    try:
        return (sysfs / "class/block" / disk / "bcache" / name).read_text().strip()
    except OSError:
        return ""


def _list_size(line: DmTarget, name: str, *, used: bool) -> int:
    """Bytes of a segment's list, by its status line; 0 if it has none. `used`: the dump goes through it."""
    if not used and line.kind in _FULL and line.parameters in _FULL[line.kind]:
        return _SNAPSHOT  # nothing is kept for it any more
    form = _STATUS.get(line.kind)
    found = form.match(line.parameters) if form else None
    if form and (not found or _DISORDER.intersection(line.parameters.split())):
        raise KdumpError(
            f"the volume {name} is out of order",
            why=f"the kernel says of it: {line.kind} {line.parameters}",
            remedy="`lvs` and dmesg say more; choose another file system, or the network",
        )
    if found and line.kind == "cache":
        return int(found[1]) * _CACHE_BLOCK
    if found and line.kind == "snapshot":
        on_disk, in_memory = _EXCEPTION
        return _SNAPSHOT + int(found[1]) * 512 // on_disk * in_memory
    return 0


def _multipath(
    layer: storage.Layer,
    table_of: Callable[[str], list[DmTarget]],
    every: list[storage.Layer],
    identify_disk: Callable[[str], str],
) -> dict[str, Any]:
    """A multipath map for the plan; an empty one if its disks do not tell that they are one.

    Its parameters: number and features, number and words of the hardware handler, number of groups, first group, then
    the first group's path selector (Documentation/admin-guide/device-mapper/dm-mpath.rst).
    """
    disks = [each.name for each in every if each.name in layer.beneath]
    identities = {identify_disk(name) for name in disks}
    if len(identities) != 1 or not (wwid := identities.pop()):
        return {}
    [target] = table_of(layer.device)
    words = target.parameters.split()
    rest = words[int(words[0]) + 1 :]
    handler, rest = rest[: int(rest[0]) + 1], rest[int(rest[0]) + 1 :]
    return {
        "multipath": wwid, "name": layer.detail, "uuid": layer.uuid, "paths": len(disks), "size": target.length,
        "handler": " ".join(handler), "selector": rest[2] if len(rest) > 2 else "service-time",
    }  # fmt: skip


def segment_modules(storage: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names or aliases of the kernel modules that the plan's volumes need for their segments."""
    found: dict[str, None] = {}
    for volume in storage:
        if "multipath" in volume:
            found |= dict.fromkeys(("dm_multipath", f"dm_{volume['selector'].replace('-', '_')}"))
    for _start, _length, kind, parameters in (line for volume in storage for line in volume.get("table", ())):
        if kind in SEGMENTS:
            found[SEGMENTS[kind]] = None
        if kind == "cache":
            words = parameters.split()  # metadata, cache, origin, block size, number of features, features, policy
            found[f"dm-cache-{words[5 + int(words[4])]}"] = None
        if kind == "raid" and (level := re.match(r"raid\d+", parameters)):  # "raid5_ls …"
            found[f"md-{level[0]}"] = None
    return list(found)
