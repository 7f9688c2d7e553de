"""A process's core out of a dump, for gdb: threads with the registers of user mode, its memory where the dump has it.

Sources: fs/binfmt_elf.c and include/linux/elfcore.h (notes of a core), include/uapi/linux/elf.h (their numbers),
include/linux/mm_types.h (`mm_mt` since 6.1, a list before), include/linux/mm.h (VM_READ, VM_WRITE, VM_EXEC).
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from kdump import elf
from kdump.dump.elf_writer import PHDR_ROWS
from kdump.dump.kdump_writer import pack_notes
from kdump.errors import KdumpError, NotPresentError
from kdump.files.drafts import pwrite_all
from kdump.kernel import maple
from kdump.kernel.kernel import Kernel
from kdump.kernel.mounts import path_of_file
from kdump.kernel.objects import Struct
from kdump.kernel.processes import address_space
from kdump.kernel.task import Task
from kdump.kernel.tasks import Tasks
from kdump.memory.protocol import Note

_NT_PRPSINFO, _NT_AUXV, _NT_FILE = 3, 6, 0x46494C45
_PRSTATUS: Final = struct.Struct("<12xhxx16xiiii64x")  # signal, pid, parent, group, session; then the registers
_PRPSINFO: Final = struct.Struct("<BcBbxxxxQIIiiii16s80s")
_FLAGS: Final = ((1, elf.PF_R), (2, elf.PF_W), (4, elf.PF_X))
_STATES: Final = "RSDTZW"  # pr_state is the place of the letter
_ARGUMENTS: Final = 80
_MOST_AREAS: Final = 1 << 20
_MOST_NAMES: Final = 4 << 20  # bytes of an NT_FILE note
_BATCH: Final = 4 << 20


class Area(NamedTuple):
    """A mapping of the process: addresses, PF_* flags, the file behind it (or "") and where in it, in bytes."""

    start: int
    end: int
    flags: int
    file: str
    offset: int


class Summary(NamedTuple):
    """What the core has. `held` and `mapped` are bytes; `problems` say what could not be read."""

    threads: int
    areas: int
    held: int
    mapped: int
    size: int
    problems: tuple[str, ...]


class _Piece(NamedTuple):
    """Part of an area: mapped at `physical` and held by the dump, or not (None)."""

    start: int
    end: int
    physical: int | None


class Process:
    """One process of a dump."""

    def __init__(self, kernel: Kernel, pid: int) -> None:
        """Raises `KdumpError` if there is no such process, or it has no memory of its own."""
        self._kernel, self._objects, self.pid = kernel, kernel.objects, pid
        self._tasks = Tasks(kernel)
        self._panicked = self._tasks.panic_cpu()
        self._page = kernel.memory.page_size
        threads = [task for task in self._tasks if task.tgid == pid]
        if not threads:
            raise KdumpError(
                f"the dump has no process {pid}",
                remedy="`kdump report DUMP --section tasks` and `kdump shell --crash DUMP -c ps` list them",
            )  # fmt: skip
        if not threads[0].struct.mm:
            raise KdumpError(
                f"process {pid} ({threads[0].command}) has no memory of its own",
                why="it is a kernel thread" if threads[0].kernel_thread else "it has exited",
            )
        # GDB shows the first thread: the one that was running when the kernel died.
        self.threads = sorted(threads, key=lambda task: (not self._panicking(task), not task.running))
        self.leader = next((task for task in threads if task.pid == pid), threads[0])
        self.mm = self.leader.struct.mm
        self.space = address_space(kernel, int(self.mm.pgd))
        self.areas = sorted(self._areas())

    def _panicking(self, task: Task) -> bool:
        return task.running and task.cpu == self._panicked

    def _areas(self) -> Iterator[Area]:
        objects = self._objects
        found: Iterator[Struct]
        if objects.has(self.mm, "mm_mt"):
            found = (objects.struct("vm_area_struct", entry) for _, entry in maple.entries(objects, self.mm.mm_mt))
        else:
            found = self._listed()
        for number, area in enumerate(found):
            if number == _MOST_AREAS:
                raise KdumpError(f"process {self.pid} has more than {_MOST_AREAS} mappings")
            start, end, bits = int(area.vm_start), int(area.vm_end), int(area.vm_flags)
            if not start < end <= 1 << 63 or start % self._page or end % self._page:
                objects.problem(f"a mapping from {start:#x} to {end:#x} cannot be")
                continue
            file = self._path(area) if area.vm_file else ""
            flags = sum(flag for bit, flag in _FLAGS if bits & bit)
            yield Area(start, end, flags, file, int(area.vm_pgoff) * self._page if file else 0)

    def _listed(self) -> Iterator[Struct]:
        objects, at = self._objects, int(self.mm.mmap)
        for _ in range(_MOST_AREAS + 1):
            if not at:
                return
            area = objects.struct("vm_area_struct", at)
            yield area
            at = int(area.vm_next)

    def _path(self, area: Struct) -> str:
        try:
            return path_of_file(self._objects, area.vm_file.f_path)
        except KdumpError as error:
            self._objects.problem(f"the file mapped at {int(area.vm_start):#x}: {error}")
            return "?"

    def write(self, descriptor: int) -> Summary:
        """Write the core through a descriptor of an empty file."""
        pieces = [(area, piece) for area in self.areas for piece in self._pieces(area)]
        notes = pack_notes(self._notes())
        segments = list(_segments(pieces))
        count = 1 + len(segments)
        sections = elf.SHDR.size if count >= elf.PN_XNUM else 0
        notes_at = elf.EHDR.size + sections + count * elf.PHDR.size
        place = data_at = -(-(notes_at + len(notes)) // self._page) * self._page
        headers = np.zeros(count, PHDR_ROWS)
        headers[0] = (elf.PT_NOTE, 0, notes_at, 0, 0, len(notes), len(notes), 0)
        for number, (area, start, end, held) in enumerate(segments, 1):
            size = end - start
            headers[number] = (elf.PT_LOAD, area.flags, place, start, 0, size * held, size, self._page)
            place += size * held
        head = elf.EHDR.pack(
            elf.IDENT, elf.ET_CORE, self._kernel.arch.elf_machine, 1, 0, elf.EHDR.size + sections,
            elf.EHDR.size if sections else 0, 0, elf.EHDR.size, elf.PHDR.size, min(count, elf.PN_XNUM),
            elf.SHDR.size if sections else 0, 1 if sections else 0, 0,
        )  # fmt: skip
        if sections:
            head += elf.SHDR.pack(0, 0, 0, 0, 0, 1, 0, count, 0, 0)
        pwrite_all(descriptor, head + headers.tobytes() + notes, 0)
        at = data_at
        for _, piece in pieces:
            if piece.physical is not None:
                at = self._copy(piece, descriptor, at)
        mapped = sum(area.end - area.start for area in self.areas)
        problems = tuple(self._objects.problems)
        return Summary(len(self.threads), len(self.areas), at - data_at, mapped, place, problems)

    def _copy(self, piece: _Piece, descriptor: int, at: int) -> int:
        assert piece.physical is not None
        for skip in range(0, piece.end - piece.start, _BATCH):
            size = min(_BATCH, piece.end - piece.start - skip)
            at += pwrite_all(descriptor, self._kernel.memory.view(piece.physical + skip, size), at)
        return at

    def _pieces(self, area: Area) -> Iterator[_Piece]:
        """The area from end to end."""
        at, page = area.start, self._page
        for extent in self.space.extents(area.start, area.end - area.start):
            first, count = extent.physical // page, extent.size // page
            held = self._kernel.memory.present(first, count)
            edges = [0, *(np.flatnonzero(held[1:] != held[:-1]) + 1).tolist(), count]
            for start, end in pairwise(edges):
                if held[start]:
                    virtual = extent.virtual + start * page
                    if at < virtual:
                        yield _Piece(at, virtual, None)
                    at = extent.virtual + end * page
                    yield _Piece(virtual, at, extent.physical + start * page)
        if at < area.end:
            yield _Piece(at, area.end, None)

    def _notes(self) -> Iterator[Note]:
        for number, task in enumerate(self.threads):
            yield from self._thread(task)
            if number == 0:
                yield Note("CORE", _NT_PRPSINFO, self._information())
                auxv = self.mm.saved_auxv
                yield Note("CORE", _NT_AUXV, bytes(self._objects.bytes(self._objects.address(auxv), 8 * len(auxv))))
                yield Note("CORE", _NT_FILE, self._files())

    def _thread(self, task: Task) -> Iterator[Note]:
        kernel, thread = self._kernel, task.struct.thread
        user = self._tasks.stack(task).user
        registers = b""
        if user is None:
            self._objects.problem(f"registers of thread {task.pid} are not known: its stack does not end in user mode")
        else:
            registers = kernel.arch.core_registers(kernel, user, thread)
        if not registers:
            return
        leader = self.leader.struct
        head = _PRSTATUS.pack(0, task.pid, int(leader.real_parent.tgid), self.pid, self.pid)
        yield Note("CORE", elf.NT_PRSTATUS, head + registers + bytes(8))
        if not task.running:
            with contextlib.suppress(NotPresentError):
                for owner, number, content in kernel.arch.core_notes(kernel, thread):
                    yield Note(owner, number, content)

    def _information(self) -> bytes:
        task, leader = self.leader, self.leader.struct
        place = _STATES.find(task.state)
        return _PRPSINFO.pack(
            max(place, 0), task.state[:1].encode(), task.state == "Z", 0, int(leader.flags),
            int(leader.cred.uid.val), int(leader.cred.gid.val), task.pid, int(leader.real_parent.tgid), task.pid,
            task.pid, task.command.encode()[:15], self._arguments()[: _ARGUMENTS - 1],
        )  # fmt: skip

    def _arguments(self) -> bytes:
        start, end = int(self.mm.arg_start), int(self.mm.arg_end)
        try:
            raw = self.space.read(start, min(max(end - start, 0), _ARGUMENTS)) if start else b""
        except NotPresentError:
            raw = b""
        return raw.rstrip(b"\0").replace(b"\0", b" ") or self.leader.command.encode()

    def _files(self) -> bytes:
        files = [area for area in self.areas if area.file]
        words = [len(files), self._page]
        names = b""
        for area in files:
            words += [area.start, area.end, area.offset // self._page]
            names += area.file.encode("utf-8", "replace") + b"\0"
            if len(names) > _MOST_NAMES:
                raise KdumpError(f"process {self.pid} maps more files than a core can name")
        return struct.pack(f"<{len(words)}Q", *words) + names


def _segments(pieces: list[tuple[Area, _Piece]]) -> Iterator[tuple[Area, int, int, bool]]:
    """(area, start, end, whether the dump holds it) of the program headers: adjacent pieces that are alike, joined."""
    pending: tuple[Area, int, int, bool] | None = None
    for area, piece in pieces:
        held = piece.physical is not None
        if pending and pending[0] is area and pending[3] == held and pending[2] == piece.start:
            pending = (area, pending[1], piece.end, held)
            continue
        if pending:
            yield pending
        pending = (area, piece.start, piece.end, held)
    if pending:
        yield pending
