"""One open file, read at random through a few mmap windows.

Bounded on purpose: mapping /proc/vmcore builds page tables at once (2 MiB for each GiB mapped), so windows are small,
few, and dropped least recently used first. A dropped window lives on for as long as somebody holds a view of it.
Where a file cannot be mapped (/proc/kcore, pipes' spool on odd file systems), pread(2) takes over.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import threading
from collections import OrderedDict
from typing import Protocol

from kdump.errors import FormatError, KdumpError

WINDOW = 64 << 20  # bytes; 128 KiB of page tables each
WINDOWS = 8


class Source(Protocol):
    """The bytes of a dump's container, whatever wraps them: `wrapping` is "" or a prefix such as "flattened+".

    `incomplete` is set if the wrapping says that bytes are missing.
    """

    path: str
    size: int
    incomplete: bool
    wrapping: str

    def view(self, offset: int, size: int) -> memoryview:
        """Read-only bytes [offset, offset+size); raises `FormatError` past the end."""

    def close(self) -> None:
        """Release files and mappings."""


class FileSource:
    """A regular file, block device, /proc/vmcore or /proc/kcore. Thread-safe."""

    incomplete = False
    wrapping = ""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise KdumpError(f"{self.path}: no such file") from None
        except PermissionError:
            raise KdumpError(f"{self.path}: permission denied", remedy="dumps belong to root: try as root") from None
        except OSError as error:
            raise KdumpError(f"{self.path}: cannot be opened", why=error.strerror or str(error)) from None
        status = os.fstat(self._fd)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            os.close(self._fd)
            raise KdumpError(f"{self.path}: not a file", remedy="dumps need random access, so use a file")
        self.size = os.lseek(self._fd, 0, os.SEEK_END) if stat.S_ISBLK(status.st_mode) else status.st_size
        self._mappable = True
        self._pseudo = stat.S_ISREG(status.st_mode) and not status.st_blocks
        self._windows: OrderedDict[int, memoryview | None] = OrderedDict()  # None: this window cannot be mapped
        self._lock = threading.Lock()

    def view(self, offset: int, size: int) -> memoryview:
        """Bytes [offset, offset+size), mapped where possible. Raises `FormatError` past the end of the file."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise FormatError(
                f"{size:#x} bytes are wanted there but the file ends at {self.size:#x}",
                path=self.path,
                offset=offset,
                why="the file is truncated or its headers are damaged",
            )
        if not size:
            return memoryview(b"")
        first = offset // WINDOW
        if (offset + size - 1) // WINDOW == first:
            window, start = self._window(first), offset % WINDOW
        else:  # across a boundary: a mapping of its own, gone with the view
            start = offset % mmap.ALLOCATIONGRANULARITY
            window = self._map(offset - start, start + size)
        return self._pread(offset, size) if window is None else window[start : start + size]

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` on. Cheaper than a view of what is read once and in order: no page faults.

        Not so for /proc/vmcore, whose read(2) maps and unmaps every page by itself: there the windows are copied from.
        """
        if self._pseudo or offset + len(buffer) > self.size:
            buffer[:] = self.view(offset, len(buffer))
        else:
            self._fill(offset, buffer)

    def lend(self, offset: int, size: int) -> memoryview | None:
        """Bytes [offset, offset+size) of a window, where its pages are mapped from the beginning: /proc/vmcore's.

        None where that cannot be had. Of another file each page would have to be mapped first: `readinto` is cheaper.
        """
        if not self._pseudo or offset < 0 or offset + size > self.size or offset % WINDOW + size > WINDOW:
            return None
        window, start = self._window(offset // WINDOW), offset % WINDOW
        return None if window is None else window[start : start + size]

    @property
    def descriptor(self) -> int | None:
        """The file's descriptor, if it is best read with pread(2): see `readinto`."""
        return None if self._pseudo else self._fd

    def close(self) -> None:
        """Close the file. Views handed out keep their mappings until they are dropped."""
        with self._lock:
            self._windows.clear()
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _window(self, number: int) -> memoryview | None:
        with self._lock:
            if number in self._windows:
                self._windows.move_to_end(number)
                return self._windows[number]
            start = number * WINDOW
            window = self._map(start, min(WINDOW, self.size - start))
            self._windows[number] = window
            if len(self._windows) > WINDOWS:
                self._windows.popitem(last=False)
            return window

    def _map(self, start: int, size: int) -> memoryview | None:
        if not self._mappable:
            return None
        try:
            return memoryview(mmap.mmap(self._fd, size, mmap.MAP_SHARED, mmap.PROT_READ, offset=start))
        except OSError as error:  # one window may fail where others do not: memory that must not be touched
            self._mappable = error.errno != errno.ENODEV
            return None

    def _pread(self, offset: int, size: int) -> memoryview:
        data = bytearray(size)
        self._fill(offset, memoryview(data))
        return memoryview(data).toreadonly()

    def _fill(self, offset: int, rest: memoryview) -> None:
        size = len(rest)
        while rest:
            try:
                count = os.preadv(self._fd, [rest], offset)
            except OSError as error:
                raise FormatError(
                    f"{size:#x} bytes cannot be read", path=self.path, offset=offset, why=error.strerror or str(error)
                ) from None
            if not count:
                raise FormatError(f"ends {len(rest):#x} bytes early", path=self.path, offset=offset)
            offset += count
            rest = rest[count:]
