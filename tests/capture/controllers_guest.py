"""PID 1 of a machine with a disk on each kind of controller; says what kdump's healthy side finds out about them.

Its last line of output but one is "controllers-guest: found" and JSON: for each file system's UUID, the modules that
drive its disk.
"""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path

from kdump.capture import system
from kdump.host import storage, volumes
from kdump.targets.devices import find_uuid, wait_for

MODULES, UUIDS = "/etc/modules.txt", "/etc/uuids.json"


def main() -> None:
    """Load all drivers, look at each disk, power off."""
    try:
        for module in Path(MODULES).read_text().split():
            try:
                system.load_module(module)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
        found = {uuid: look(uuid) for uuid in json.loads(Path(UUIDS).read_text())}
        print("controllers-guest: found", json.dumps(found), flush=True)
    except Exception as error:
        print(f"controllers-guest: FAILED {type(error).__name__}: {error}", flush=True)
    time.sleep(0.3)
    system.reboot(system.POWER_OFF)


def look(uuid: str) -> list[str]:
    """The modules that drive the disk with this file system."""
    found = storage.walk(storage.device_of(wait_for(lambda: find_uuid(uuid), uuid, 60)))
    volumes.refuse_unreachable(found.layers)
    return list(found.modules)


if __name__ == "__main__":
    main()
