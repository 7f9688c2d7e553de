"""One file to several targets at once, with its size and digests; a target that fails drops out, the others go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kdump.capture.stages import DeadlineError, describe
from kdump.digest import Pieces
from kdump.errors import KdumpError
from kdump.targets.protocol import Session, Stream

Bytes = bytes | bytearray | memoryview


class Tee:
    """A `Stream` over the sessions; `lost(session, error)` is told of each that fails.

    Raises `KdumpError` once no target is left. A deadline is everybody's and passes through.
    """

    def __init__(self, name: str, sessions: Sequence[Session], lost: Callable[[Session, str], None]) -> None:
        self.name = name
        self.pieces = Pieces()
        self._lost = lost
        self._streams: list[tuple[Session, Stream]] = []
        self._end = 0
        for session in sessions:
            try:
                self._streams.append((session, session.create(name)))
            except (OSError, KdumpError) as error:
                self._drop(session, None, error)
        self._check("")

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
        for _session, stream in self._streams:
            stream.abort()

    def describe(self) -> dict[str, Any]:
        """The file as the manifest lists it."""
        return {"name": self.name, **self.pieces.describe()}

    def _each(self, method: str, *arguments: Any) -> None:
        failure = ""
        for session, stream in list(self._streams):
            try:
                getattr(stream, method)(*arguments)
            except DeadlineError:
                raise
            except (OSError, KdumpError) as error:
                failure = describe(error)
                self._drop(session, stream, error)
        self._check(failure)

    def _drop(self, session: Session, stream: Stream | None, error: Exception) -> None:
        if stream is not None:
            self._streams.remove((session, stream))
            stream.abort()
        self._lost(session, describe(error))

    def _check(self, failure: str) -> None:
        if not self._streams:
            raise KdumpError(f"{self.name} could not be written to any target", why=failure)
