"""PID 1 of a machine of the matrix until its real root file system, a Debian, is there: what an initramfs does."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from kdump.capture import system
from kdump.targets.devices import find_uuid, wait_for

MODULES = "/etc/modules.txt"
ROOT = "0b5e1f5a-5f0c-4c53-9d4e-6b64756d7011"
_MOVED = ("dev", "proc", "sys", "run", "tmp")


def main() -> None:
    """Load drivers, mount the root, enter it, become its script."""
    for path in Path(MODULES).read_text().split():
        try:
            system.load_module(path)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
    system.mount(wait_for(lambda: find_uuid(ROOT), "the root", 60), "/mnt", "ext4")
    for place in _MOVED:
        system.mount(f"/{place}", f"/mnt/{place}", flags=system.MS_MOVE)
    os.chdir("/mnt")
    system.mount(".", "/", flags=system.MS_MOVE)
    os.chroot(".")
    os.chdir("/")
    os.execv("/bin/bash", ["bash", "/root/row"])


if __name__ == "__main__":
    main()
