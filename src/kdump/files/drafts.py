"""Writing to files as the kernel allows, and files that get their name only when they are complete."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat

INCOMPLETE = ".incomplete"  # suffix of a file until it is sealed
PIECE = 256 << 10  # bytes written at a time: more may cost more (docs/decisions/0030-dump-engine.md)
_WINDOW = 8 << 20  # bytes after which written pages are pushed out of the page cache
_AHEAD = 16 << 20  # bytes that are allocated at a time, before a large file's pages are written
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_RANDOM = 6  # bytes in a draft's name
_HEX = re.compile(r"[0-9a-f]{12}")
_STEM = 200  # bytes of a file's name in its draft's: names have 255 at most
_DRAFT = re.compile(rf"\.(?P<name>.+)\.[0-9a-f]{{{2 * _RANDOM}}}{re.escape(INCOMPLETE)}")


def pwrite_all(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> int:
    """Write all of `data` at `offset` (bytes), in as many calls as it takes; its size. Raises OSError."""
    rest = memoryview(data).cast("B")
    size = len(rest)
    try:
        while rest:
            done = os.pwrite(descriptor, rest[:PIECE], offset)
            rest, offset = rest[done:], offset + done
    except OSError as error:
        name_file(error, descriptor)
        raise
    return size


def name_file(error: OSError, descriptor: int) -> None:
    """Give an error of a call that takes no name that of the file; of a draft, that of the file that it becomes."""
    if error.filename is None:
        with contextlib.suppress(OSError):
            place, name = os.path.split(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115 -- no pathlib here
            found = _DRAFT.fullmatch(name)
            error.filename = os.path.join(place, found["name"] if found else name)


def file_version(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """A version that changes with a file's content while this process runs: device, inode, size and time. Raises
    OSError."""
    state = os.stat(path)  # noqa: PTH116 -- no pathlib here
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def replace_file(
    path: str | os.PathLike[str], data: bytes, *, mode: int = 0o600, durable: bool = True, dir_fd: int | None = None
) -> None:
    """Put `data` into a file, all or nothing; `path` is relative to the directory `dir_fd` if that is given.

    Without `durable` a power cut may leave an empty file: for what can be made again. Raises OSError.
    """
    draft = Draft(path, mode=mode, dir_fd=dir_fd)
    try:
        pwrite_all(draft.fd, data, 0)
        draft.commit(durable=durable)
    except BaseException:
        draft.discard()
        raise


def sync_directory(path: str) -> None:
    """Make a directory's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Draft:
    """A file in the making, open for reading and writing as `fd`, in the directory of the file that it becomes.

    It is new: nothing that exists is opened or written to, whatever its name. It is locked while its maker lives; the
    next draft for the same file removes those whose maker was killed.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, mode: int = 0o600, resume: bool = False, dir_fd: int | None = None
    ) -> None:
        """With `resume` the draft has the incomplete name itself, and a file of ours of that name keeps its blocks, as
        room on the disk: for directories in which nobody else writes. Raises OSError.
        """
        directory, self.name = os.path.split(os.fspath(path))
        self._mode = mode
        self.called = ""  # the name it has now
        self._directory = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            self.fd = self._resume() if resume else self._create()
        except BaseException as error:
            os.close(self._directory)
            if isinstance(error, OSError) and error.filename == self.called:
                error.filename = os.fspath(path)  # a person knows no draft
            raise

    def commit(self, *, replace: bool = True, durable: bool = True) -> None:
        """Give it its name; the draft is closed then. With `durable` the content is on the disk before the name is.

        Raises FileExistsError if the name is taken: by any file unless `replace`, always by other than a regular file.
        """
        if durable:
            try:
                os.fsync(self.fd)
            except OSError as error:  # some file systems have no room only now
                name_file(error, self.fd)
                raise
        self._rename(self.name, replace=replace)
        if durable:
            os.fsync(self._directory)
        self._close()

    def keep(self, *, replace: bool = False) -> None:
        """Keep what there is under the incomplete name or, if another file has that, under one with a number."""
        try:
            self._rename(self.name + INCOMPLETE, replace=replace)
        except FileExistsError:
            self._rename(f"{self.name}.{os.urandom(3).hex()}{INCOMPLETE}", replace=False)
        self._close()

    def discard(self) -> None:
        """Remove it, if it is still a draft. Never raises."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self.called, dir_fd=self._directory)
            self._close()

    def _close(self) -> None:
        for descriptor in (self.fd, self._directory):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.fd = -1

    def _rename(self, name: str, *, replace: bool) -> None:
        if self.called == name:
            return
        here = self._directory
        if replace:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISREG(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
                    raise FileExistsError(errno.EEXIST, "is not a regular file, and is not replaced", name)
            os.rename(self.called, name, src_dir_fd=here, dst_dir_fd=here)
        else:
            try:
                os.link(self.called, name, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=False)
                os.unlink(self.called, dir_fd=here)
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links
                if _exists(name, here):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None
                os.rename(self.called, name, src_dir_fd=here, dst_dir_fd=here)
        self.called = name

    def _create(self) -> int:
        stem = _stem(self.name)
        _sweep(self._directory, stem)
        while True:
            self.called = f"{stem}{os.urandom(_RANDOM).hex()}{INCOMPLETE}"
            descriptor = os.open(self.called, _NEW, self._mode, dir_fd=self._directory)
            os.fchmod(descriptor, self._mode)  # whatever the umask is
            with contextlib.suppress(OSError):  # a file system without locks: nobody can sweep there
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)  # swept before it was locked

    def _resume(self) -> int:
        self.called = self.name + INCOMPLETE
        with contextlib.suppress(FileNotFoundError):
            state = os.stat(self.called, dir_fd=self._directory, follow_symlinks=False)
            if stat.S_ISREG(state.st_mode) and state.st_nlink == 1:
                descriptor = os.open(self.called, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._directory)
                os.fchmod(descriptor, self._mode)
                return descriptor
            os.unlink(self.called, dir_fd=self._directory)
        return os.open(self.called, _NEW, self._mode, dir_fd=self._directory)


def sweep(path: str | os.PathLike[str]) -> None:
    """Remove drafts for a file whose makers were killed. Never raises."""
    directory, name = os.path.split(os.fspath(path))
    with contextlib.suppress(OSError):
        descriptor = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _sweep(descriptor, _stem(name))
        finally:
            os.close(descriptor)


def _stem(name: str) -> str:
    return os.fsdecode(b"." + os.fsencode(name)[:_STEM] + b".")


def _sweep(directory: int, stem: str) -> None:
    for name in os.listdir(directory):
        middle = name[len(stem) : -len(INCOMPLETE)]
        if not (name.startswith(stem) and name.endswith(INCOMPLETE) and _HEX.fullmatch(middle)):
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(name, _LOOK, dir_fd=directory)
            try:
                state = os.fstat(descriptor)
                if stat.S_ISREG(state.st_mode) and state.st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=directory)
            finally:
                os.close(descriptor)


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


class PartFile:
    """A file that has its name only when it is sealed, mode 0600 from its first byte; a `kdump_writer.Sink`."""

    _pwrite_all = staticmethod(pwrite_all)

    def __init__(self, path: str, *, resume: bool = False, replace: bool = True, durable: bool = True) -> None:
        """`resume` as for `Draft`. Without `durable` the page cache writes to the disk when it sees fit, as after cp.

        Raises OSError.
        """
        self._draft = Draft(path, resume=resume)
        self._fd = self._draft.fd
        self._replace = replace
        self._replace_incomplete = False  # an older incomplete file
        self._resumed = resume
        self._durable = durable
        self._end = 0
        self._pushed = 0
        self._allocated = 0
        self.sealed = False  # whether the file is complete and has its name

    @property
    def called(self) -> str:
        """The name it has now, without the directory."""
        return self._draft.called

    def skip(self, size: int) -> None:
        """Leave a gap at the front, its blocks allocated: on a full disk an incomplete dump still gets its head."""
        if size:
            try:
                os.posix_fallocate(self._fd, 0, size)
            except OSError as error:
                name_file(error, self._fd)
                raise
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

        Does nothing where that fails, also for lack of room: the room that is left is for the pages.
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
        """fsync, rename to the final name, fsync the directory.

        Raises FileExistsError if the name is taken and may not be replaced; the file stays then, named incomplete.
        """
        os.ftruncate(self._fd, self._end)
        try:
            self._draft.commit(replace=self._replace, durable=self._durable)
        except FileExistsError:
            self.abort()
            raise
        self._fd = -1
        self.sealed = True

    def abort(self) -> None:
        """Keep what there is under the incomplete name, if there is anything. Never raises."""
        if self._fd < 0:
            return
        self._fd = -1
        if not self._end and not self._resumed:
            self._draft.discard()
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._draft.fd, self._end)
            os.fsync(self._draft.fd)
        try:
            self._draft.keep(replace=self._replace_incomplete)
        except OSError:
            self._draft.discard()

    def discard(self) -> None:
        """Remove it: another attempt begins anew. Never raises."""
        self._fd = -1
        self._draft.discard()
