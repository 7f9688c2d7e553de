"""Multipath maps without multipathd: the paths to a disk are all those with its identity.

Each path is a group of its own: the kernel leaves one that fails during the dump for the next. Nothing brings a failed
path back without the daemon, so nothing waits for that: when all have failed, writing fails.

Sources: Documentation/admin-guide/device-mapper/dm-mpath.rst, drivers/md/dm-mpath.c (parse_path_selector);
Documentation/ABI/testing/sysfs-bus-scsi and stable/sysfs-block (wwid).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdump.capture import devicemapper
from kdump.capture.devicemapper import DmTarget
from kdump.errors import KdumpError

PATIENCE = 10.0  # seconds in which further paths may be late when one is there
_POLL = 0.1


def wwid(disk: Path) -> str:
    """The identity of a disk from its directory in sysfs, the same on each path; empty if it has none."""
    for name in ("device/wwid", "wwid"):
        try:
            return (disk / name).read_text().strip()
        except OSError:
            continue
    return ""


def paths(identity: str, sysfs: str = "/sys") -> list[str]:
    """ "major:minor" of each disk with this identity."""
    found = []
    for disk in sorted(Path(sysfs, "block").iterdir()):
        with contextlib.suppress(OSError):  # it went away meanwhile
            if wwid(disk) == identity:
                found.append((disk / "dev").read_text().strip())
    return found


def table(size: int, handler: str, selector: str, found: Sequence[str]) -> DmTarget:
    """The one segment of a map of `size` sectors; `handler` is "0" or, say, "1 alua"."""
    groups = " ".join(f"{selector} 0 1 0 {path}" for path in found)
    return DmTarget(0, size, "multipath", f"0 {handler} {len(found)} 1 {groups}")


def assemble(volume: Mapping[str, Any], seconds: float, say: Callable[[str], None], sysfs: str = "/sys") -> None:
    """Make the plan's map {"multipath": identity, "name", "uuid", "paths": number, "size", "handler", "selector"}.

    One path is waited for as long as `seconds` allow, all of them for PATIENCE. Raises KdumpError or OSError.
    """
    name, wanted = str(volume["name"]), int(volume["paths"])
    if devicemapper.is_active(name):
        return
    end = time.monotonic() + seconds
    late = min(end, time.monotonic() + PATIENCE)
    while len(found := paths(str(volume["multipath"]), sysfs)) < wanted:
        now = time.monotonic()
        if now >= end or (found and now >= late):
            break
        time.sleep(_POLL)
    if not found:
        raise KdumpError(
            f"no path to {name} is here",
            why=f"no disk has the identity {volume['multipath']}",
            remedy="the driver may be missing from the capture image: kdump build",
        )
    target = table(int(volume["size"]), str(volume["handler"]), str(volume["selector"]), found)
    devicemapper.create(name, str(volume["uuid"]), [target])
    say(f"multipath {name}: {len(found)} of {wanted} paths")
