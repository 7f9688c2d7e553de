"""block:///dev/disk/by-partuuid/UUID: a partition without a file system, laid out by `kdump.targets.rawstore`.

Nothing but the driver has to work, so this is the target for machines whose file systems may be part of the trouble.
`kdump collect` fetches the crash after the reboot. Facts: `partuuid`; without it the path is taken as it stands.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kdump.errors import KdumpError
from kdump.files.drafts import INCOMPLETE, pwrite_all
from kdump.targets import rawstore
from kdump.targets.devices import LOOKING, find_partition, partition_uuid, wait_for
from kdump.targets.protocol import Ground, Session, Spec, Stream
from kdump.targets.rawstore import ABORTED, OPEN, SAVED, SEALED, WRITING, RawFile, RawHeader

_BY_PARTUUID = "/dev/disk/by-partuuid/"
_WINDOW = 8 << 20  # bytes after which written pages are pushed out of the page cache


class BlockTarget:
    """A raw partition."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.path = spec.parts.path
        if spec.parts.netloc or not self.path.startswith("/dev/"):
            raise KdumpError(f"{spec.url!r} is not a block target", remedy="write block:///dev/disk/by-partuuid/…")

    def describe(self) -> str:
        """The device."""
        return f"{self.path}, raw"

    def files(self) -> Mapping[str, Path | bytes]:
        """Nothing."""
        return {}

    def check(self) -> Spec:
        """The partition exists, is a dump area, and holds nothing that has to be fetched first."""
        device = os.path.realpath(self.path)
        descriptor = _open(device)
        try:
            header = rawstore.read_header(descriptor, self.path)
        finally:
            os.close(descriptor)
        _refuse_occupied(header, self.path)
        found = self._partuuid() or partition_uuid(device.rpartition("/")[2])
        if not found:
            raise KdumpError(
                f"{self.path} cannot be found again in the capture kernel",
                why="it is not a partition, and names of disks change",
                remedy="make a partition on it and name it as /dev/disk/by-partuuid/…",
            )
        return replace(self.spec, facts={**self.spec.facts, "partuuid": found})

    def open(self, crash: str, ground: Ground) -> Session:
        """Find the partition and begin the crash on it."""
        uuid = self.spec.facts.get("partuuid", "") or self._partuuid()
        device = self.path
        if uuid:
            around = ground.sysfs, ground.dev
            wait = LOOKING * ground.remaining()  # the rest is for saying what is there instead
            device = wait_for(lambda: find_partition(uuid, *around), f"the partition {uuid}", wait, *around)
        descriptor = _open(device)
        try:
            header = rawstore.read_header(descriptor, device)
            if header.crash != crash:  # a second attempt goes on where the first was killed
                _refuse_occupied(header, device)
                header = RawHeader(WRITING, crash, sequence=header.sequence)
            return BlockSession(descriptor, rawstore.write_header(descriptor, header), device)
        except BaseException:
            os.close(descriptor)
            raise

    def _partuuid(self) -> str:
        return self.path.removeprefix(_BY_PARTUUID) if self.path.startswith(_BY_PARTUUID) else ""


class BlockSession:
    """A crash on a raw device; one file is written at a time."""

    def __init__(self, descriptor: int, header: RawHeader, device: str) -> None:
        self.descriptor = descriptor
        self.header = header
        self.size = os.lseek(descriptor, 0, os.SEEK_END)
        self.where = f"{device} ({header.crash})"

    def free(self) -> int | None:
        """Bytes to the end of the device."""
        return self.size - self.header.end

    def create(self, name: str) -> Stream:
        """Begin a file; what was left open or was aborted under that name is forgotten."""
        # What lies behind a forgotten file stays where it is: only the last file's place is used again.
        kept = [file for file in self.header.files if file.name not in (name, name + INCOMPLETE)]
        begun = RawFile(name + INCOMPLETE, replace(self.header, files=tuple(kept)).end, 0, OPEN)
        self.update(replace(self.header, files=(*kept, begun)))
        return BlockStream(self, name, begun.offset)

    def update(self, header: RawHeader) -> None:
        """Write the header."""
        self.header = rawstore.write_header(self.descriptor, header)

    def finish(self, name: str, size: int, state: int) -> None:
        """The last file is sealed or aborted."""
        last = replace(self.header.files[-1], name=name, size=size, state=state)
        self.update(replace(self.header, files=(*self.header.files[:-1], last)))

    def prune(self, keep: int, min_free: int) -> list[str]:
        """There is one crash."""
        return []

    def close(self) -> None:
        """Mark the crash as saved: from now on it is not overwritten before it is collected."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            try:
                rawstore.write_header(descriptor, replace(self.header, state=SAVED))
            finally:
                os.close(descriptor)


class BlockStream:
    """One file on the device."""

    def __init__(self, session: BlockSession, name: str, offset: int) -> None:
        self.name = name
        self._session = session
        self._offset = offset
        self._end = 0
        self._pushed = 0
        self._done = False

    def skip(self, size: int) -> None:
        """Leave a gap at the front."""
        self._end = size

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append."""
        size = self.pwrite(data, self._end)
        self._end += size
        if self._end - self._pushed >= _WINDOW:
            start = self._offset + max(0, self._pushed - _WINDOW)
            os.posix_fadvise(self._session.descriptor, start, 2 * _WINDOW, os.POSIX_FADV_DONTNEED)
            self._pushed = self._end
        return size

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write all of it at an offset of the file."""
        at = self._offset + offset
        if at + memoryview(data).nbytes > self._session.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._session.where)
        return pwrite_all(self._session.descriptor, data, at)

    def seal(self) -> None:
        """The data first, then the header that speaks of it."""
        os.fsync(self._session.descriptor)
        self._session.finish(self.name, self._end, SEALED)
        self._done = True

    def abort(self) -> None:
        """List what there is as incomplete."""
        if not self._done:
            self._done = True
            with contextlib.suppress(OSError):
                self._session.finish(self.name + INCOMPLETE, self._end, ABORTED)


def _open(device: str) -> int:
    if not Path(device).exists():
        raise KdumpError(f"{device} does not exist", remedy="blkid lists the partitions and their PARTUUIDs")
    return os.open(device, os.O_RDWR | os.O_CLOEXEC)


def _refuse_occupied(header: RawHeader, device: str) -> None:
    if header.state == SAVED and header.files:
        raise KdumpError(
            f"{device} still holds the crash {header.crash}",
            why="it has not been collected, and a dump is never written over another",
            remedy="kdump collect",
        )
