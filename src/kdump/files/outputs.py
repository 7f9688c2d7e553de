"""Files that a person names for a command to write: looked at before the first byte, and never one that is read.

How they come to be is in `kdump.files.drafts`: as drafts of their own that take the name when they are whole.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO

from kdump.errors import KdumpError
from kdump.files.drafts import Draft, name_file

STDOUT: Final = "-"
_KINDS: Final = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)

Name = str | os.PathLike[str]


def check(path: Name, inputs: Iterable[Name | int] = (), *, replace: bool) -> None:
    """Raise KdumpError if `path` is one of `inputs` (paths or descriptors), by whatever name, or is not to be written.

    Only regular files are replaced, and only with `replace`.
    """
    try:
        state = os.lstat(path)
    except FileNotFoundError:
        return
    _refuse_input(path, inputs)
    if stat.S_ISREG(state.st_mode):
        if not replace:
            raise KdumpError(f"{path} exists", remedy="name another file, or use --force to replace it")
        return
    raise KdumpError(f"{path} is {_kind(state.st_mode)}", why="only regular files can be replaced", remedy=_OTHER)


def check_all(paths: Iterable[Name], inputs: Iterable[Name | int] = (), *, replace: bool) -> None:
    """`check` every one, and that none is named twice."""
    seen: set[str] = set()
    inputs = list(inputs)
    for path in paths:
        real = os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))  # noqa: PTH119, PTH120
        if real in seen:
            raise KdumpError(f"{path} is named twice", remedy="name a file for each part")
        seen.add(real)
        check(path, inputs, replace=replace)


def is_null(path: Name) -> bool:
    """Whether `path` is /dev/null, under any name."""
    try:
        state = os.stat(path)  # noqa: PTH116
    except OSError:
        return False
    return stat.S_ISCHR(state.st_mode) and state.st_rdev == os.makedev(1, 3)


def is_input(path: Name, inputs: Iterable[Name | int]) -> bool:
    """Whether `path` is one of `inputs`: the same file by device and inode."""
    try:
        state = os.stat(path)  # noqa: PTH116
    except OSError:
        return False
    return any(_identity(each) == (state.st_dev, state.st_ino) for each in inputs)


@contextmanager
def text(path: Name, inputs: Iterable[Name | int] = ()) -> Iterator[TextIO]:
    """A text file to write, mode 0600; it replaces a regular file when the block ends without an error.

    A pipe or a character device (/dev/stdout, /dev/null) is written into. Raises KdumpError for what `check` refuses.
    """
    if (descriptor := _written_into(path, inputs)) is not None:
        with _open(descriptor) as file:
            yield file
        return
    check(path, inputs, replace=True)
    draft = Draft(path)
    try:
        with _open(os.dup(draft.fd)) as file:
            yield file
        draft.commit()
    finally:
        draft.discard()


class _Named(io.FileIO):
    """A file whose errors of writing name it."""

    def write(self, data: Any) -> int:
        """As any file; an OSError has the name."""
        try:
            return super().write(data)
        except OSError as error:
            name_file(error, self.fileno())
            raise


def writer(descriptor: int) -> io.BufferedWriter:
    """A buffer for a descriptor, which it closes. Errors of writing name the file; of a draft, what it becomes."""
    return io.BufferedWriter(_Named(descriptor, "w"))


def _open(descriptor: int) -> TextIO:
    return io.TextIOWrapper(writer(descriptor), encoding="utf-8")


def _written_into(path: Name, inputs: Iterable[Name | int]) -> int | None:
    """A descriptor, if `path` is something to write into, not to replace."""
    text = os.fspath(path)
    try:
        mode = os.stat(text).st_mode  # noqa: PTH116
    except OSError:
        return None
    ours = text.startswith(("/dev/", "/proc/self/fd/"))  # /dev/stdout, even if redirected to a file
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or (ours and stat.S_ISREG(mode))):
        return None
    _refuse_input(text, inputs)
    return os.open(text, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)


def _refuse_input(path: Name, inputs: Iterable[Name | int]) -> None:
    if is_input(path, inputs):
        raise KdumpError(f"{path} is the input", why="it would be lost", remedy=_OTHER)


_OTHER: Final = "name another file"


def _identity(path: Name | int) -> tuple[int, int] | None:
    try:
        state = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _kind(mode: int) -> str:
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "not a regular file")
