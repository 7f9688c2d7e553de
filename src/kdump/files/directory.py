"""Directories in which others may write, walked by descriptor: no link is followed, nothing but a regular file is read.

A name given by a person is opened as it stands; from there on every step is O_NOFOLLOW, so that what was looked at is
what is read, written or removed, whoever renames things meanwhile. Imports are few: the capture kernel prunes by it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator

from kdump.files.drafts import INCOMPLETE, replace_file

SMALL = 16 << 20  # bytes of a file that is read whole: manifests and reports
_DEEPEST = 16  # directories within each other
_MOST = 10_000  # files of one crash that are counted
_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Directory:
    """An open directory. A context manager. Methods take plain names of what is in it, and raise OSError."""

    def __init__(self, descriptor: int, path: str) -> None:
        self.fd = descriptor
        self.path = path  # as people know it
        self.state = os.fstat(descriptor)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Directory:
        """A directory that a person or the configuration names; links on the way to it are followed."""
        name = os.fspath(path)
        return cls(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), name)

    def enter(self, name: str) -> Directory:
        """A directory in it."""
        return Directory(os.open(_plain(name), _ENTER, dir_fd=self.fd), f"{self.path}/{name}")

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def beneath(self) -> str:
        """A path to this very directory, wherever it was moved to, for what takes only paths; this process's alone."""
        return f"/proc/self/fd/{self.fd}"

    @property
    def foreign(self) -> str:
        """Why it is not to be trusted: somebody but root and this user may write in it. Empty if nobody may."""
        if self.state.st_uid not in (0, os.geteuid()):
            return f"owned by user {self.state.st_uid}"
        if self.state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):  # an ACL that lets others write shows as the group's bit
            return f"others may write in it (mode {stat.S_IMODE(self.state.st_mode):04o})"
        return ""

    def names(self) -> list[str]:
        """The names in it, sorted."""
        return sorted(os.listdir(self.fd))  # noqa: PTH208 -- no pathlib here

    def look(self, name: str) -> os.stat_result | None:
        """The status of a name, without following a link; None if it does not exist."""
        try:
            return os.stat(_plain(name), dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def has_file(self, name: str) -> bool:
        """Whether it is a regular file."""
        state = self.look(name)
        return state is not None and stat.S_ISREG(state.st_mode)

    def open_file(self, name: str) -> int:
        """A descriptor of a regular file, to read; anything else is EINVAL, and never waits for anybody."""
        return open_regular(_plain(name), dir_fd=self.fd)

    def read(self, name: str, limit: int = SMALL) -> bytes:
        """A file whole; EFBIG if it has more than `limit` bytes."""
        return read_regular(_plain(name), limit, dir_fd=self.fd)

    def read_end(self, name: str, size: int) -> bytes:
        """The last `size` bytes of a file, or all it has."""
        with open(self.open_file(name), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read(size)

    def write(self, name: str, data: bytes) -> None:
        """Put a file in it, mode 0600, all or nothing, durable. PermissionError if others may write here too."""
        if why := self.foreign:
            raise PermissionError(errno.EPERM, f"is {why}: nothing is written into it", self.path)
        replace_file(_plain(name), data, dir_fd=self.fd)

    def files(self, depth: int = 0) -> Iterator[tuple[str, os.stat_result]]:
        """The regular files in it and below, with names relative to it: 10,000 at most, 16 directories deep at most."""
        for count, name in enumerate(self.names()):
            state = self.look(name)
            if state is None or count >= _MOST:
                continue
            if stat.S_ISREG(state.st_mode):
                yield name, state
            elif stat.S_ISDIR(state.st_mode) and depth < _DEEPEST:
                with contextlib.suppress(OSError), self.enter(name) as inner:
                    yield from ((f"{name}/{each}", found) for each, found in inner.files(depth + 1))

    def remove(self, name: str, depth: int = 0) -> None:
        """Delete a directory in it, and all there is in that."""
        if depth > _DEEPEST:
            raise OSError(errno.ELOOP, "directories are nested too deeply", f"{self.path}/{name}")
        with self.enter(name) as inner:
            for each in inner.names():
                state = inner.look(each)
                if state is None:
                    continue
                if stat.S_ISDIR(state.st_mode):
                    inner.remove(each, depth + 1)
                else:
                    os.unlink(each, dir_fd=inner.fd)
        os.rmdir(name, dir_fd=self.fd)


def open_regular(path: str | os.PathLike[str], dir_fd: int | None = None) -> int:
    """A descriptor of a regular file, to read; anything else is EINVAL, a link ELOOP. Never waits. Raises OSError."""
    descriptor = os.open(path, _READ, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", os.fspath(path))
    return descriptor


def read_regular(path: str | os.PathLike[str], limit: int = SMALL, dir_fd: int | None = None) -> bytes:
    """A regular file whole; EFBIG if it has more than `limit` bytes, else as `open_regular`. Raises OSError."""
    with open(open_regular(path, dir_fd), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"has more than {limit} bytes", os.fspath(path))
    return data


class DraftDirectory:
    """A directory in the making, mode 0700, which takes its name when it is whole; beside it, under a random name.

    It is locked while its maker lives; the next one for the same name removes those whose maker was killed.
    """

    def __init__(self, parent: Directory, name: str) -> None:
        """Raises OSError."""
        self._parent = parent
        self.name = _plain(name)
        self._called = ""
        self._sweep()
        while not self._called:
            called = f".{name[:200]}.{os.urandom(6).hex()}{INCOMPLETE}"
            try:
                os.mkdir(called, 0o700, dir_fd=parent.fd)
            except OSError as error:
                error.filename = f"{parent.path}/{self.name}"  # a person knows no draft
                raise
            self.directory = parent.enter(called)
            with contextlib.suppress(OSError):
                fcntl.flock(self.directory.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if parent.look(called):  # not swept before it was locked
                self._called = called
            else:
                self.directory.close()

    def commit(self) -> None:
        """Make the names in it durable, then give it its own. FileExistsError (or ENOTEMPTY) if that is taken."""
        os.fsync(self.directory.fd)
        if self._parent.look(self.name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), f"{self._parent.path}/{self.name}")
        os.rename(self._called, self.name, src_dir_fd=self._parent.fd, dst_dir_fd=self._parent.fd)
        os.fsync(self._parent.fd)
        self._called = ""
        self.directory.close()

    def discard(self) -> None:
        """Remove it, if it is still a draft. Never raises."""
        if self._called:
            with contextlib.suppress(OSError):
                self._parent.remove(self._called)
            self._called = ""
            self.directory.close()

    def _sweep(self) -> None:
        start = f".{self.name[:200]}."
        for each in self._parent.names():
            if not (each.startswith(start) and each.endswith(INCOMPLETE)):
                continue
            with contextlib.suppress(OSError), self._parent.enter(each) as left:
                if not left.foreign:
                    fcntl.flock(left.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._parent.remove(each)


@contextlib.contextmanager
def exclusive(path: str | os.PathLike[str], seconds: float = 0.0) -> Iterator[bool]:
    """Hold a lock on a directory, or on a file that is made if it is missing; False if another process holds it, and
    still does after `seconds`. Raises OSError.
    """
    try:
        descriptor = os.open(path, _ENTER)
    except (NotADirectoryError, FileNotFoundError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield _locked(descriptor, time.monotonic() + seconds)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, end: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.1)
        else:
            return True


def _plain(name: str) -> str:
    if "/" in name or "\0" in name or name in ("", ".", ".."):
        raise OSError(errno.EINVAL, "is not the name of a file", name)
    return name
