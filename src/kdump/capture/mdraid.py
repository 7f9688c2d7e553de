"""MD arrays without tools: the members are found by the array's UUID, the kernel reads everything else from them.

A panic leaves an array dirty, and a mirror may have lost a disk. It runs nevertheless, read-only until the first
write, and with resynchronisation frozen: the dump has the disks for itself, and the healthy machine catches up later.

Sources: Documentation/admin-guide/md.rst (new_array, metadata_version, new_dev, array_state, sync_action);
drivers/md/md.c (new_dev_store reads and compares superblocks, do_md_run leaves out what is not fresh).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdump.errors import KdumpError

PATIENCE = 10.0  # seconds, for all arrays together, in which disks may be late if at least one of an array is there
_POLL = 0.1


def assemble(
    array: Mapping[str, Any],
    members: Callable[[str], Sequence[str]],
    seconds: float,
    patience: float,
    say: Callable[[str], None],
) -> None:
    """Run the plan's array {"array": name, "uuid", "metadata": "1.2", "disks": number}; its device is /dev/NAME.

    `members(uuid)` are the devices that now have the array's UUID. One of them is waited for as long as `seconds`
    allow, all of them until `patience` on the monotonic clock. Raises KdumpError if it cannot be run.
    """
    name, disks = str(array["array"]), int(array["disks"])
    md = Path("/sys/block", name, "md")
    if md.exists() and (md / "array_state").read_text().strip() not in ("clear", "inactive"):
        return  # an earlier attempt was here
    found = _wait(lambda: members(array["uuid"]), disks, seconds, patience)
    if not found:
        raise KdumpError(
            f"no disk of the array {name} was found",
            why=f"no disk has the UUID {array['uuid']}",
            remedy="the driver may be missing from the capture image: kdump build",
        )
    taken = 0
    try:
        _write(Path("/sys/module/md_mod/parameters/new_array"), name)
        _write(md / "metadata_version", array["metadata"])
        for path in found:
            number = Path(path).stat().st_rdev
            try:
                _write(md / "new_dev", f"{os.major(number)}:{os.minor(number)}")
                taken += 1
            except OSError as error:  # a disk that is broken, or was thrown out long ago
                say(f"array {name}: {path} is left out: {error.strerror}")
        _write(md / "array_state", "read-auto")
        action = md / "sync_action"
        if action.exists():  # striped arrays have nothing to synchronise
            _write(action, "frozen")
    except OSError as error:
        raise KdumpError(
            f"the array {name} cannot be run with {taken} of {disks} disks", why=error.strerror or str(error)
        ) from None
    say(f"array {name}: {(md / 'level').read_text().strip()}, {taken} of {disks} disks")


def _wait(look: Callable[[], Sequence[str]], wanted: int, seconds: float, patience: float) -> Sequence[str]:
    end = time.monotonic() + seconds
    while len(found := look()) < wanted and time.monotonic() < (min(end, patience) if found else end):
        time.sleep(_POLL)
    return found


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="ascii")
