"""Files as the page cache of a dead kernel had them: what was written last, whether or not it reached the disk.

Sources: include/linux/dcache.h (`d_children` since 6.8, `d_subdirs` before), include/linux/fs.h (struct address_space),
include/linux/mm_types.h (struct folio: its order is in `_flags_1` since 6.6, in `_folio_order` before).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import PurePosixPath
from typing import Final, NamedTuple

import numpy as np

from kdump.dump.memmap import find_runs
from kdump.errors import NotPresentError
from kdump.files.drafts import pwrite_all
from kdump.kernel.kernel import Kernel
from kdump.kernel.mounts import mounts, path_of_mount
from kdump.kernel.objects import Struct
from kdump.kernel.tasks import Tasks

JOURNALS: Final = ("/var/log/journal", "/run/log/journal")
_DEEP: Final = 256  # directories
_MOST: Final = 1 << 20  # files
_LARGEST: Final = 1 << 44  # bytes; ext4's limit
_MOST_ORDER: Final = 18
_LONGEST: Final = 255  # bytes of a name


class Found(NamedTuple):
    """A file: its path at the crash, and its struct inode."""

    path: str
    inode: Struct


class Written(NamedTuple):
    """A file that was written: its name below the directory, bytes, and how many of them the dump holds."""

    path: str
    size: int
    held: int


class PageCache:
    """Files of the first process's mounts."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._objects = kernel, kernel.objects
        self._head = self._objects.types.enumerator("PG_head")

    def find(self, path: str) -> Iterator[Found]:
        """The file at a path, or those below it, as far as the kernel remembered their names."""
        wanted = _parts(path)
        tasks = list(Tasks(self._kernel))
        first = next((task.struct for task in tasks if task.pid == 1 and task.struct.nsproxy), None)
        seen: set[str] = set()
        # What was mounted last hides what is below it.
        for mount in reversed(list(mounts(self._objects, first or self._objects.variable("init_task")))):
            place = _parts(path_of_mount(self._objects, mount))
            common = min(len(place), len(wanted))
            if place[:common] != wanted[:common]:
                continue
            for found in self._below(mount.mnt.mnt_root, place, wanted[len(place) :]):
                if found.path not in seen:
                    seen.add(found.path)
                    yield found

    def _below(self, root: Struct, place: tuple[str, ...], wanted: tuple[str, ...]) -> Iterator[Found]:
        """Regular files below a dentry; only along `wanted`, as far as that goes."""
        stack = [(root, place, wanted)]
        visited = 0
        while stack:
            entry, path, rest = stack.pop()
            visited += 1
            if visited > _MOST or len(path) > _DEEP:
                self._objects.problem("the tree of names does not end")
                return
            inode = entry.d_inode
            if not inode:
                continue
            kind = stat.S_IFMT(int(inode.i_mode))
            if kind == stat.S_IFREG and not rest:
                yield Found("/" + "/".join(path), self._objects.struct("inode", inode))
            elif kind == stat.S_IFDIR:
                for child in self._children(entry):
                    name = self._objects.string(child.d_name.name)
                    if not rest or name == rest[0]:
                        stack.append((child, (*path, name), rest[1:]))

    def _children(self, entry: Struct) -> Iterator[Struct]:
        objects = self._objects
        if objects.has(entry, "d_children"):
            yield from objects.hlist(entry.d_children, "dentry", "d_sib", _MOST)
        else:
            yield from objects.list(entry.d_subdirs, "dentry", "d_child", _MOST)

    @cached_property
    def _map(self) -> tuple[list[int], list[tuple[int, int]], int]:
        """Where runs of struct pages begin, rising; their ends and first pfns; the size of a struct page."""
        size = self._objects.sizeof("page")
        runs = sorted(find_runs(self._kernel.vmcoreinfo, self._kernel.virtual, size), key=lambda run: run.virtual)
        return [run.virtual for run in runs], [(run.virtual + run.pages * size, run.first_pfn) for run in runs], size

    def _pfn(self, page: int) -> int | None:
        starts, rest, size = self._map
        place = int(np.searchsorted(np.array(starts, np.uint64), np.uint64(page), side="right")) - 1
        if place < 0 or page >= rest[place][0] or (page - starts[place]) % size:
            return None
        return rest[place][1] + (page - starts[place]) // size

    def pages(self, inode: Struct) -> Iterator[tuple[int, int]]:
        """(number of the page within the file, pfn) of what is in the page cache."""
        objects = self._objects
        for index, entry in objects.xarray(inode.i_mapping.i_pages):
            if entry & 1:  # swapped out, or only remembered
                continue
            pfn = self._pfn(entry)
            if pfn is None:
                objects.problem(f"{entry:#x} in the page cache is no page")
                continue
            for number in range(self._count(entry)):
                yield index + number, pfn + number

    def _count(self, folio: int) -> int:
        """Pages of a folio."""
        objects = self._objects
        if not objects.unsigned(folio) >> self._head & 1 or not objects.types.has_struct("folio"):
            return 1
        head = objects.struct("folio", folio)
        order = int(head._folio_order) if objects.has(head, "_folio_order") else int(head._flags_1) & 0xFF
        return 1 << order if order <= _MOST_ORDER else 1

    def write(self, found: Found, directory: int) -> Written | None:
        """Write one file below a directory that only we write to; None if there is no page of it.

        Pages that the dump lacks are holes of the file. Raises `OSError`.
        """
        page, memory = self._kernel.vmcoreinfo.page_size, self._kernel.memory
        size = int(found.inode.i_size)
        if not 0 < size <= _LARGEST:
            return None
        held = [
            (number, pfn) for number, pfn in self.pages(found.inode)
            if number * page < size and bool(memory.present(pfn, 1)[0])
        ]  # fmt: skip
        if not held:
            return None
        try:
            path, descriptor = _create(found.path, directory)
        except (FileExistsError, NotADirectoryError) as error:
            self._objects.problem(f"{found.path} is not written: {error.strerror}")  # two names that are alike here
            return None
        done = 0
        try:
            os.truncate(descriptor, size)
            for number, pfn in held:
                length = min(page, size - number * page)
                try:
                    done += pwrite_all(descriptor, memory.view(pfn * page, length), number * page)
                except NotPresentError:
                    continue
        finally:
            os.close(descriptor)
        return Written(path, size, done)


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in PurePosixPath(path).parts if part != "/")


def _create(path: str, directory: int) -> tuple[str, int]:
    """A new file, mode 0600, at a path out of a dump below our directory: its name there, and a descriptor."""
    *above, name = (_safe(part) for part in _parts(path) or ("",))
    inside = os.dup(directory)
    try:
        for part in above:
            with suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=inside)
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=inside)
            os.close(inside)
            inside = below
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return "/".join([*above, name]), os.open(name, flags, 0o600, dir_fd=inside)
    finally:
        os.close(inside)


def _safe(name: str) -> str:
    """A name as it may stand in a directory of ours, whatever the dump says."""
    text = "".join(letter if letter.isprintable() and letter != "/" else "_" for letter in name)
    short = text.encode()[:_LONGEST].decode("utf-8", "ignore")
    return short if short not in ("", ".", "..") else "_"
