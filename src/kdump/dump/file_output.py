"""Files that dumps are written to on this machine: drafts until sealed, mode 0600, digested on the way."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from kdump.dump.workers import Aside
from kdump.errors import KdumpError
from kdump.files import outputs
from kdump.files.digest import Pieces
from kdump.files.drafts import INCOMPLETE, PartFile
from kdump.native.engine import engine


class FileOutput(PartFile):
    """A new file; a `kdump_writer.Sink`."""

    _pwrite_all = staticmethod(engine.pwrite_all)

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        inputs: Iterable[str | os.PathLike[str] | int] = (),
        overwrite: bool = False,
        limit: int | None = None,
        bare: bool = False,
    ) -> None:
        """Raises `KdumpError` if there is a file of that name (unless `overwrite`), if it is one of `inputs` (paths or
        descriptors that are read) or no regular file; OSError if it cannot be made.

        Writing past `limit` bytes fails with EFBIG. A `bare` file is neither digested nor made durable.
        """
        self.path = Path(path)
        inputs = list(inputs)
        outputs.check(path, inputs, replace=overwrite)
        super().__init__(str(self.path), replace=overwrite, durable=not bare)
        self._replace_incomplete = overwrite and not outputs.is_input(f"{path}{INCOMPLETE}", inputs)
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
        """Durable, under the final name, and digested. Raises KdumpError if that name was taken meanwhile."""
        self._aside.close()
        try:
            super().seal()
        except FileExistsError as error:
            raise KdumpError(
                f"{self.path} was created by another program in the meantime",
                why=error.strerror or "",
                remedy=f"the dump is {self.now}: rename it",
            ) from None

    def abort(self) -> None:
        """Keep what there is under the incomplete name. Never raises."""
        self._aside.close()
        super().abort()

    def discard(self) -> None:
        """Remove it: another attempt begins anew. Never raises."""
        self._aside.close()
        super().discard()

    @property
    def now(self) -> Path:
        """Its path as it is now."""
        return self.path.with_name(self.called)

    def describe(self) -> dict[str, Any]:
        """The file as a manifest lists it, under the name it has now; a bare one by that name alone."""
        return {"name": self.called, **(self._pieces.describe() if self._pieces else {})}


class NullOutput:
    """/dev/null, which takes a dump as makedumpfile's users know it; a `kdump_writer.Sink`."""

    def __init__(self, path: str) -> None:
        self.now = Path(path)

    def skip(self, size: int) -> None:
        """Nothing: there is no place."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Its size in bytes."""
        return memoryview(data).nbytes

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Its size in bytes."""
        return memoryview(data).nbytes

    def seal(self) -> None:
        """Nothing."""

    def abort(self) -> None:
        """Nothing."""

    def discard(self) -> None:
        """Nothing."""

    def describe(self) -> dict[str, Any]:
        """Its name alone."""
        return {"name": self.now.name}
