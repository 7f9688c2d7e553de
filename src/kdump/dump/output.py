"""Files that dumps are written to on this machine: incomplete by name until sealed, mode 0600, digested on the way."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Any

from kdump.digest import Pieces
from kdump.errors import KdumpError
from kdump.fileio import pwrite_all

INCOMPLETE = ".incomplete"  # suffix of a file until it is sealed


class FileOutput:
    """A new file; a `kdump_writer.Stream`."""

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False, limit: int | None = None) -> None:
        """Raises `KdumpError` if there is a file of that name (unless `overwrite`), OSError if it cannot be made.

        Writing past `limit` bytes fails with EFBIG.
        """
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + INCOMPLETE)
        if not overwrite and self.path.exists():
            raise KdumpError(f"{self.path} exists", remedy="name another file, or use --force to replace it")
        self._fd = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.fchmod(self._fd, 0o600)  # an older incomplete file may have had another mode
        self._limit = limit
        self._end = 0
        self._pieces = Pieces()

    def skip(self, size: int) -> None:
        """Leave a gap at the front, with room for it on the disk: a full disk shall not keep the header out."""
        if size:
            os.posix_fallocate(self._fd, 0, size)
        self._end = size

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append all of `data`."""
        size = self.pwrite(data, self._end)
        self._end += size
        return size

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write all of `data` at `offset`."""
        if self._limit is not None and offset + memoryview(data).nbytes > self._limit:
            raise OSError(errno.EFBIG, f"larger than {self._limit} bytes", str(self.path))
        size = pwrite_all(self._fd, data, offset)
        self._pieces.add(offset, data)
        return size

    def describe(self) -> dict[str, Any]:
        """The file as a manifest lists it, under the name it has now."""
        name = self.path.name if self._fd < 0 and self.path.exists() else self.part.name
        return {"name": name, **self._pieces.describe()}

    def seal(self) -> None:
        """Make the file durable under its final name."""
        os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        self.part.rename(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def abort(self) -> None:
        """Keep what there is under the incomplete name, cut where the last whole write ended. Never raises."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
                os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1
