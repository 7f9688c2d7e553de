"""Files that dumps are written to on this machine: incomplete by name until sealed, mode 0600, digested on the way."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path
from typing import Any

from kdump.digest import Pieces
from kdump.dump.workers import Aside
from kdump.errors import KdumpError
from kdump.fileio import INCOMPLETE, PartFile
from kdump.native import loops


class FileOutput(PartFile):
    """A new file; a `kdump_writer.Sink`."""

    _pwrite_all = staticmethod(loops.pwrite_all)

    def __init__(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, limit: int | None = None, bare: bool = False
    ) -> None:
        """Raises `KdumpError` if there is a file of that name (unless `overwrite`), OSError if it cannot be made.

        Writing past `limit` bytes fails with EFBIG. A `bare` file is neither digested nor made durable.
        """
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + INCOMPLETE)
        if not overwrite and self.path.exists():
            raise KdumpError(f"{self.path} exists", remedy="name another file, or use --force to replace it")
        super().__init__(str(self.path), durable=not bare)
        self._limit = limit
        self._pieces = None if bare else Pieces()
        self._aside = Aside()

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write all of `data` at `offset`."""
        if self._limit is not None and offset + memoryview(data).nbytes > self._limit:
            raise OSError(errno.EFBIG, f"larger than {self._limit} bytes", str(self.path))
        size = super().pwrite(data, offset)
        if self._pieces is None:
            return size
        if memoryview(data).readonly:
            self._aside.start(partial(self._pieces.add, offset, data))  # while the next batch is written
        else:  # its owner may change it
            self._aside.wait()
            self._pieces.add(offset, data)
        return size

    def seal(self) -> None:
        """Durable, under the final name, and digested."""
        self._aside.close()
        super().seal()

    def abort(self) -> None:
        """Keep what there is under the incomplete name. Never raises."""
        self._aside.close()
        super().abort()

    def describe(self) -> dict[str, Any]:
        """The file as a manifest lists it, under the name it has now; a bare one by that name alone."""
        name = self.path.name if self.sealed else self.part.name
        return {"name": name, **(self._pieces.describe() if self._pieces else {})}
