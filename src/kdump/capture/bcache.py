"""bcache devices without tools: the disks are found by their UUIDs, the kernel reads everything else from them.

What is in the cache and not yet on the disk behind it stays there: the dump has the disks for itself, and the healthy
machine writes it back later.

Source: Documentation/admin-guide/bcache.rst (register, writeback_running).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdump.errors import KdumpError
from kdump.targets.devices import entry_of

_POLL = 0.1


def assemble(
    volume: Mapping[str, Any], find: Callable[[str], str], seconds: float, say: Callable[[str], None],
    sysfs: str = "/sys",
) -> None:  # fmt: skip
    """Start the plan's device {"bcache": UUIDs of its disks, "name": what the healthy machine called it}.

    `find(uuid)` waits for a disk and returns its path. Raises KdumpError or OSError if it does not start.
    """
    end = time.monotonic() + seconds
    disks = [find(uuid) for uuid in volume["bcache"]]
    places = [entry_of(disk, sysfs) for disk in disks]
    for disk, place in zip(disks, places, strict=True):
        if not (place / "bcache").exists():  # an earlier attempt was here
            Path(sysfs, "fs/bcache/register").write_text(disk, encoding="ascii")
    while not (started := [entry for place in places for entry in place.glob("holders/bcache*")]):
        if time.monotonic() >= end:
            raise KdumpError(
                f"the bcache device {volume['name']} does not start",
                why=f"its disks {', '.join(disks)} are here",
                remedy="its cache may be damaged: dmesg says more",
            )
        time.sleep(_POLL)
    with contextlib.suppress(OSError):  # it only competes for the disks
        (started[0].resolve() / "bcache/writeback_running").write_text("0", encoding="ascii")
    say(f"bcache {started[0].name}: {len(disks)} disks")
