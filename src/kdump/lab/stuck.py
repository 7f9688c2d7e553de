"""A machine on which tasks wait for one thing of each kind, to see that reports find out what: files on a dead disk.

Runs in the guest. The disk is /dev/nvme0n1 with an ext4 file system. The host throttles it to a byte a second when it
is asked to, so the first request after that is still answered and no other one.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import time
from collections.abc import Callable
from pathlib import Path

from kdump.capture import system
from kdump.errors import KdumpError

DEVICE = "/dev/nvme0n1"
SLOW = Path("/run/slow")
_FIFREEZE = 0xC0045877  # include/uapi/linux/fs.h: _IOWR('X', 119, int)
_QUIET = "noinit_itable,no_prefetch_block_bitmaps"  # or a thread of the file system's own gets stuck first
_FAR = 64 << 20  # where on the disk direct reads begin: nobody else reads there
_FILES = ("cold", "data", "inode", "grown")
_SILENT = 3  # seconds without an answer, after which the disk is taken for dead


def prepare() -> dict[str, int]:
    """Mount the disk with nothing of it in memory but what the mount reads; open files by name."""
    SLOW.mkdir()
    system.mount(DEVICE, str(SLOW), "ext4")
    (SLOW / "directory").mkdir()
    for name in _FILES:
        (SLOW / name).write_bytes(bytes(1 << 20))
    os.sync()
    system.unmount(str(SLOW))
    system.mount(DEVICE, str(SLOW), "ext4", options=_QUIET)
    return {name: os.open(SLOW / name, os.O_RDWR) for name in _FILES}


def strand(files: dict[str, int], disk: Path) -> None:
    """Processes that wait: for the dead disk in each way in which one can, and for the file system `disk`, frozen."""
    _until_dead()
    _child("stuck_write", lambda: _write_and_sync(files["data"]))
    _child("stuck_page", lambda: os.pread(files["cold"], mmap.PAGESIZE, 512 << 10))
    time.sleep(1)  # a commit of the journal is to come later than what is written
    _child("stuck_journal", lambda: _change_and_sync(files["inode"]))
    _child("stuck_buffer", lambda: list((SLOW / "directory").iterdir()))
    time.sleep(1)
    _child("stuck_flush", lambda: _grow_and_sync(files["grown"]))
    time.sleep(1)
    _child("stuck_freeze", lambda: _freeze(SLOW))
    time.sleep(1)
    _child("stuck_syncfs", lambda: ctypes.CDLL(None).syncfs(files["cold"]))
    _freeze(disk)
    _child("stuck_frozen", lambda: (disk / "frozen").write_text("this write waits for ever"))


def _write_and_sync(file: int) -> None:
    os.pwrite(file, bytes(mmap.PAGESIZE), 0)
    os.fsync(file)


def _change_and_sync(file: int) -> None:
    os.fchmod(file, 0o600)
    os.fsync(file)


def _grow_and_sync(file: int) -> None:
    """Blocks for the new page are looked for when it is written back: the kernel thread that does so gets stuck."""
    os.pwrite(file, bytes(mmap.PAGESIZE), 2 << 20)
    ctypes.CDLL(None).syncfs(file)


def _freeze(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.ioctl(directory, _FIFREEZE, 0)


def _until_dead() -> None:
    """Read from the disk, past every cache, until it answers no more; whoever reads then is left waiting."""
    answers, told = os.pipe()
    _child("stuck_read", lambda: _read_on(told))
    os.close(told)
    for _ in range(1000):
        if not select.select([answers], [], [], _SILENT)[0]:
            return
        if not os.read(answers, 1):
            raise KdumpError(f"{DEVICE} cannot be read")
    raise KdumpError(f"{DEVICE} answers although the host was to stop it")


def _read_on(told: int) -> None:
    disk = os.open(DEVICE, os.O_RDONLY | os.O_DIRECT)
    page = mmap.mmap(-1, mmap.PAGESIZE)
    for number in range(1000):
        os.preadv(disk, [page], _FAR + number * mmap.PAGESIZE)
        os.write(told, b".")
        time.sleep(0.05)


def _child(name: str, wait: Callable[[], object]) -> None:
    """A process of that name that does what never ends."""
    if os.fork():
        return
    try:
        Path("/proc/self/comm").write_text(name)
        wait()
        print(f"kdump guest: {name} did not have to wait", flush=True)
    except OSError as error:
        print(f"kdump guest: {name}: {error}", flush=True)
    finally:
        os._exit(1)
