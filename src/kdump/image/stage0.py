"""The first stage of the capture kernel's user space: from the initramfs to the real root, in as little as possible.

The initramfs holds a bare interpreter and the squashfs image that is the real root. This stage mounts that, lends it
the interpreter with its libraries, frees everything else in the initramfs, makes the image the root and goes on as the
entry module: a second interpreter would cost its start and another copy in memory. It imports only what start-up
freezes into the interpreter, and ctypes. Whatever fails is said on the console, and the machine restarts.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time

from kdump.capture import system

__capture_omits__ = ("runpy",)  # it is in the image

IMAGE = "/image.squashfs"
ROOT = "/newroot"
DEADLINE = 120.0  # seconds for all of it; under emulation it takes about one
GRACE = 5.0  # seconds in which a person may read what went wrong

ENVIRONMENT = {"PATH": "/usr/bin", "HOME": "/root", "TERM": "linux"}
_KERNEL_MOUNTS = (("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys"))
_MEMORY_MOUNTS = ("/run", "/tmp")  # noqa: S108 - mount points


def main(modules: list[str], lent: list[str], entry: str) -> None:
    """Load `modules` (paths in load order), enter the image if there is one, and become the module `entry`.

    `lent` are files of the initramfs that the image has only as places to put them.
    """
    # If this hangs, the watchdog thread ends the process, which panics the kernel, which restarts (panic=).
    faulthandler.dump_traceback_later(DEADLINE, exit=True)
    try:
        _enter(modules, lent)
        os.environ.update(ENVIRONMENT)
        system.one_malloc_arena()
        sys.path_importer_cache.clear()  # it knows the directories of the initramfs
        import runpy
    except BaseException as error:  # noqa: BLE001 - the last line of defence: nothing may leave PID 1
        _give_up(error)
    faulthandler.cancel_dump_traceback_later()
    runpy.run_module(entry, run_name="__main__", alter_sys=True)


def _enter(modules: list[str], lent: list[str]) -> None:
    for kind, place in _KERNEL_MOUNTS:
        _mount_unless_mounted(kind, place)
    for path in modules:
        system.load_module(path)
    if os.path.exists(IMAGE):  # noqa: PTH110 - pathlib is not there
        _become_root(system.attach_loop(IMAGE), lent)


def _become_root(device: str, lent: list[str]) -> None:
    system.mount(device, ROOT, "squashfs", system.MS_RDONLY)
    for path in lent:
        system.mount(path, ROOT + path, flags=system.MS_BIND)
    for place in _MEMORY_MOUNTS:
        system.mount("tmpfs", ROOT + place, "tmpfs", system.MS_NOSUID | system.MS_NODEV, "mode=0755")
    for _, place in _KERNEL_MOUNTS:
        system.mount(place, ROOT + place, flags=system.MS_MOVE)
    _empty("/", os.lstat("/").st_dev)
    os.chdir(ROOT)
    system.mount(".", "/", flags=system.MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def _mount_unless_mounted(kind: str, place: str) -> None:
    try:
        system.mount(kind, place, kind)
    except OSError as error:
        if error.errno != 16:  # EBUSY: the kernel has mounted it (CONFIG_DEVTMPFS_MOUNT)
            raise


def _empty(directory: str, device: int) -> None:
    """Delete what is in the initramfs; memory is freed as the last user of each file goes."""
    for item in os.scandir(directory):
        if item.is_dir(follow_symlinks=False):
            if os.lstat(item.path).st_dev == device:
                _empty(item.path, device)
        else:
            os.unlink(item.path)  # noqa: PTH108 - pathlib is not there


def _give_up(error: BaseException) -> None:
    print(f"kdump: the first stage of the capture image failed: {type(error).__name__}: {error}", file=sys.stderr)
    print(f"kdump: nothing was saved; restarting in {GRACE:g} s", file=sys.stderr, flush=True)
    time.sleep(GRACE)
    system.reboot(system.RESTART)
