"""One file to several targets at once, with its size and digests; a target that fails drops out, the others go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kdump.capture.outlet import Outlet
from kdump.capture.stages import DeadlineError
from kdump.errors import KdumpError
from kdump.files.digest import Pieces
from kdump.targets.protocol import Stream

Bytes = bytes | bytearray | memoryview
Lost = Callable[[Outlet, Exception, bool], None]


class Tee:
    """A `Stream` over the outlets; `lost(outlet, error, last)` is told of each that fails.

    The failure of the last one is raised as it is, and the stream stays usable: on a full disk the head of an
    incomplete dump can still be written into the gap left for it. A deadline is everybody's and passes through.
    """

    def __init__(self, name: str, outlets: Sequence[Outlet], lost: Lost) -> None:
        self.name = name
        self.pieces = Pieces()
        self._lost = lost
        self._streams: list[tuple[Outlet, Stream]] = []
        self._end = 0
        for number, outlet in enumerate(outlets, 1):
            try:
                self._streams.append((outlet, outlet.session.create(name)))
            except DeadlineError:
                self.abort()
                raise
            except (OSError, KdumpError) as error:
                last = number == len(outlets) and not self._streams
                lost(outlet, error, last)
                if last:
                    raise
        if not self._streams:
            raise KdumpError(f"no target is left for {name}")

    def skip(self, size: int) -> None:
        """Leave a gap at the front; see `Stream.skip`."""
        self._each("skip", size)
        self._end = size

    def write(self, data: Bytes) -> int:
        """Append to all."""
        self._each("write", data)
        self.pieces.add(self._end, data)
        size = memoryview(data).nbytes
        self._end += size
        return size

    def pwrite(self, data: Bytes, offset: int) -> int:
        """Fill the gap of all."""
        self._each("pwrite", data, offset)
        self.pieces.add(offset, data)
        return memoryview(data).nbytes

    def seal(self) -> None:
        """Seal all; raises unless at least one is safe."""
        self._each("seal")

    def abort(self) -> None:
        """Abort all."""
        for _outlet, stream in self._streams:
            stream.abort()

    def describe(self) -> dict[str, Any]:
        """The file as the manifest lists it."""
        return {"name": self.name, **self.pieces.describe()}

    def _each(self, method: str, *arguments: Any) -> None:
        for outlet, stream in list(self._streams):
            try:
                getattr(stream, method)(*arguments)
            except DeadlineError:
                raise
            except (OSError, KdumpError) as error:
                last = len(self._streams) == 1
                self._lost(outlet, error, last)
                if last:
                    raise
                self._streams.remove((outlet, stream))
                stream.abort()
