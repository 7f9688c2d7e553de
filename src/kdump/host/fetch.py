"""Fetching a crash from a raw partition: a draft of its directory, verified, made durable, named; only then freed.

After any interruption the crash is on the partition or complete in its directory, and the next run goes on from there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from kdump.dump import manifest
from kdump.errors import KdumpError
from kdump.files.directory import Directory, DraftDirectory
from kdump.files.drafts import pwrite_all
from kdump.targets import rawstore
from kdump.targets.rawstore import CONSUMED, EMPTY, SAVED, SEALED, RawFile, RawHeader
from kdump.units import size_text

_STEP: Final = 1 << 20
_OTHER: Final = "name another device, or end what uses it"


@dataclass(frozen=True)
class Fetched:
    """A crash that was fetched from `device` into the directory `path`: `size` in bytes of `files` files.

    `whole`: the capture kernel finished it. `problems`: what does not verify. `freed`: the partition may take another.
    """

    device: str
    path: str
    files: int
    size: int
    whole: bool
    problems: tuple[str, ...]
    freed: bool

    @property
    def good(self) -> bool:
        """Whether it is whole and sound."""
        return self.whole and not self.problems


def fetch(device: str, to: Path, *, keep: bool = False, free: bool = False) -> Fetched | None:
    """Fetch the crash on `device` into a directory of its name below `to`, or None.

    The partition is freed if what is in the directory agrees with the crash's manifest or, where the capture kernel
    did not come to write one, with the partition; whatever it agrees with if `free`, not at all if `keep`.

    Raises KdumpError and OSError; the partition is as it was then, and no directory has the crash's name.
    """
    descriptor = open_device(device, writable=not keep)
    try:
        header = rawstore.read_header(descriptor, device)
        if header.state in (EMPTY, CONSUMED) or not header.files:
            return None
        _refuse_damaged(header, descriptor, device)
        name = Path(header.crash).name
        _make(to)
        with Directory.open(to) as parent:
            found = parent.look(name)
            problems = (_copy if found is None else _look)(descriptor, header, parent, device)
        freed = not keep and (free or not problems or manifest.NAME not in _names(header))
        if freed:
            rawstore.write_header(descriptor, replace(header, state=CONSUMED))
    finally:
        os.close(descriptor)
    whole = header.state == SAVED and all(file.state == SEALED for file in header.files)
    size = sum(file.size for file in header.files)
    return Fetched(device, str(to / name), len(header.files), size, whole, problems, freed)


def open_device(device: str, *, writable: bool) -> int:
    """A descriptor of a block device, or of an image of one, that nobody else uses: no mount, no volume, no program.

    Raises KdumpError and OSError.
    """
    mode = os.stat(device).st_mode  # noqa: PTH116 -- what else is opened may act on it: a tape rewinds
    if not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):
        raise KdumpError(f"{device} is neither a block device nor an image of one")
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        # Without O_CREAT, O_EXCL asks a block device whether it is in use (open(2)).
        descriptor = os.open(device, flags | (os.O_EXCL if stat.S_ISBLK(mode) else 0))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise KdumpError(f"{device} is in use", why="it is mounted, or part of a volume", remedy=_OTHER) from None
    try:
        if stat.S_IFMT(os.fstat(descriptor).st_mode) != stat.S_IFMT(mode):
            raise KdumpError(f"{device} was replaced while it was being opened")
        # The lock that udev respects, too (systemd.io/BLOCK_DEVICE_LOCKING).
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise KdumpError(f"{device} is in use by another program", remedy="wait for it to end and try again") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_damaged(header: RawHeader, descriptor: int, device: str) -> None:
    """Raise KdumpError for a header that names what cannot be."""
    names = [file.name for file in header.files]
    for name in (Path(header.crash).name, *names):
        if "/" in name or "\0" in name or name.startswith(".") or not name:
            raise KdumpError(f"{device} names a file {name!r}", why="its header is damaged")
    if len(set(names)) != len(names):
        raise KdumpError(f"{device} names a file twice", why="its header is damaged")
    end = os.lseek(descriptor, 0, os.SEEK_END)
    for file in header.files:
        if file.offset < rawstore.START or file.offset + file.size > end:
            raise KdumpError(f"{device} ends within {file.name}", why="it is smaller than its header says")


def _make(to: Path) -> None:
    try:
        to.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KdumpError(f"{to} cannot be made", why=error.strerror or str(error)) from None


def _look(descriptor: int, header: RawHeader, parent: Directory, device: str) -> tuple[str, ...]:
    """The problem of the crash of that name, which an earlier run fetched without freeing the partition."""
    name = Path(header.crash).name
    try:
        with parent.enter(name) as crash:
            if not any(_differ(descriptor, header, crash, device)):
                return tuple(_problems(header, crash))
    except NotADirectoryError:
        pass
    raise KdumpError(
        f"{parent.path}/{name} exists already", why="it is not this crash", remedy="--to names another directory"
    )


def _copy(descriptor: int, header: RawHeader, parent: Directory, device: str) -> tuple[str, ...]:
    """Every file, into a draft of the directory, which takes the crash's name when it is verified: what is wrong."""
    draft = DraftDirectory(parent, Path(header.crash).name)  # what a killed run left is gone now
    try:
        size = sum(file.size for file in header.files)
        room = os.statvfs(parent.fd)
        if size > room.f_bavail * room.f_frsize:
            raise KdumpError(
                f"no room for the crash in {parent.path}",
                why=f"it has {size_text(size)}, {size_text(room.f_bavail * room.f_frsize)} are free",
                remedy="kdump prune, or --to names another directory",
            )
        for file in header.files:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            out = os.open(file.name, flags, 0o600, dir_fd=draft.directory.fd)
            try:
                at = 0
                for data in _read(descriptor, file, device):
                    at += pwrite_all(out, data, at)
                os.fsync(out)
                os.posix_fadvise(out, 0, 0, os.POSIX_FADV_DONTNEED)  # what is compared is what is on the disk
            finally:
                os.close(out)
        problems = tuple(_problems(header, draft.directory))
        if problems and any(_differ(descriptor, header, draft.directory, device)):
            raise KdumpError(
                f"the copy in {parent.path} differs from {device}",
                why="one of them returns other data than was written",
                remedy="look for errors of the disks in the kernel log, or name another directory: --to",
            )
        draft.commit()
        return problems
    finally:
        draft.discard()


def _read(descriptor: int, file: RawFile, device: str) -> Iterator[bytes]:
    at, rest = file.offset, file.size
    while rest:
        data = os.pread(descriptor, min(rest, _STEP), at)
        if not data:
            raise KdumpError(f"{device} ends within {file.name}", why="it became smaller")
        yield data
        at, rest = at + len(data), rest - len(data)


def _differ(descriptor: int, header: RawHeader, crash: Directory, device: str) -> Iterator[bool]:
    """Whether each file of the directory differs from the partition's."""
    for file in header.files:
        try:
            copy = crash.open_file(file.name)
        except OSError:
            yield True
            continue
        try:
            at = 0
            same = os.fstat(copy).st_size == file.size
            for data in _read(descriptor, file, device) if same else ():
                same = same and os.pread(copy, len(data), at) == data
                at += len(data)
            yield not same
        finally:
            os.close(copy)


def _problems(header: RawHeader, crash: Directory) -> Iterator[str]:
    """The differences from the manifest."""
    if manifest.NAME not in _names(header):
        yield "it cannot be verified: the capture kernel did not come to write the manifest"
        return
    here = Path(crash.beneath)
    try:
        for entry in manifest.read(here / manifest.NAME)["files"]:
            yield from (f"{found.name} {found.what}" for found in manifest.check(here, entry))
    except (OSError, KdumpError) as error:
        what = error.what if isinstance(error, KdumpError) else error.strerror or str(error)
        yield f"it cannot be verified: {what}".replace(f"{here}/", "")


def _names(header: RawHeader) -> set[str]:
    return {file.name for file in header.files}
