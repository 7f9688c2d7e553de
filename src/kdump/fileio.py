"""Writing to files as the kernel allows, and files that bear their name only when they are whole."""

from __future__ import annotations

import contextlib
import os

INCOMPLETE = ".incomplete"  # suffix of a file until it is sealed
PIECE = 256 << 10  # bytes written at a time: more may cost more (docs/decisions/0030-dump-engine.md)
_WINDOW = 8 << 20  # bytes after which written pages are pushed out of the page cache
_AHEAD = 16 << 20  # bytes that are allocated at a time, before a large file's pages are written
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE


def pwrite_all(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> int:
    """Write all of `data` at `offset` (bytes), in as many calls as it takes; its size. Raises OSError."""
    rest = memoryview(data).cast("B")
    size = len(rest)
    while rest:
        done = os.pwrite(descriptor, rest[:PIECE], offset)
        rest, offset = rest[done:], offset + done
    return size


def file_version(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """What changes with a file's content while this process runs: device, inode, size and time. Raises OSError."""
    state = os.stat(path)  # noqa: PTH116 -- no pathlib here
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def replace_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Put `data` into a file, mode 0600, all or nothing. Raises OSError."""
    directory, name = os.path.split(path)
    draft = os.path.join(directory, f".{name}.{os.getpid()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        os.replace(draft, path)  # noqa: PTH105 -- as above
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft)  # noqa: PTH108 -- as above
        raise


def sync_directory(path: str) -> None:
    """Make a directory's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class PartFile:
    """A file that is `NAME.incomplete` until it is sealed, mode 0600 from its first byte; a `kdump_writer.Sink`."""

    _pwrite_all = staticmethod(pwrite_all)

    def __init__(self, path: str, *, keep_blocks: bool = False, durable: bool = True) -> None:
        """With `keep_blocks` an older incomplete file's blocks stay its own, as room on the disk. Without `durable` the
        page cache writes to the disk when it sees fit, as after cp. Raises OSError."""
        self._path = path
        self._durable = durable
        self._end = 0
        self._pushed = 0
        self._allocated = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if keep_blocks else os.O_TRUNC)
        self._fd = os.open(path + INCOMPLETE, flags, 0o600)
        os.fchmod(self._fd, 0o600)  # an older incomplete file may have had another mode

    @property
    def sealed(self) -> bool:
        """Whether the file is whole and bears its name."""
        return self._fd < 0 and os.path.exists(self._path)  # noqa: PTH110 -- pathlib is not in every caller's memory

    def skip(self, size: int) -> None:
        """Leave a gap at the front, its blocks allocated: on a full disk an incomplete dump still gets its head."""
        if size:
            os.posix_fallocate(self._fd, 0, size)
        self._end = size

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append, and push what was written out of the page cache: a second kernel has little memory, and the disk
        has less to do at the end."""
        if self._end > max(_WINDOW, self._allocated - _WINDOW):
            self._allocate()
        size = self.pwrite(data, self._end)
        if self._durable and self._end - self._pushed >= _WINDOW:
            # Starts write-back of dirty pages and drops the clean ones (mm/fadvise.c); the window before this one is
            # clean by now.
            os.posix_fadvise(self._fd, max(0, self._pushed - _WINDOW), 2 * _WINDOW, os.POSIX_FADV_DONTNEED)
            self._pushed = self._end
        return size

    def _allocate(self) -> None:
        """Blocks for what comes next: pages then need not reserve theirs one by one.

        Not where that cannot be had, be it for want of room: what is left is for the pages.
        """
        import ctypes  # slow to import, as small files go

        call = ctypes.CDLL(None).fallocate  # posix_fallocate(3) would write where a file system cannot allocate
        failed = call(self._fd, _KEEP_SIZE, ctypes.c_int64(self._end), ctypes.c_int64(_AHEAD))
        self._allocated = 1 << 63 if failed else self._end + _AHEAD

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write all of it at an offset."""
        size = self._pwrite_all(self._fd, data, offset)
        self._end = max(self._end, offset + size)
        return size

    def seal(self) -> None:
        """fsync, rename to the final name, fsync the directory."""
        os.ftruncate(self._fd, self._end)
        if self._durable:
            os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        os.rename(self._path + INCOMPLETE, self._path)  # noqa: PTH104 -- see above
        if self._durable:
            sync_directory(os.path.dirname(self._path) or ".")  # noqa: PTH120 -- see above

    def abort(self) -> None:
        """Keep what there is under the incomplete name. Never raises."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
                os.fsync(self._fd)
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1
