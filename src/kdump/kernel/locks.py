"""Which lock a sleeping task waits for, and who holds it: mutexes and read-write semaphores, without debug information.

Sources: kernel/locking/mutex.c, mutex.h, rwsem.c: a waiter is a struct on the waiting task's stack that links into the
lock's `wait_list` and points back to its task; the lock's `owner` is a task pointer whose low bits are flags. So the
stack is searched for the task's own address, and a find counts only if the list around it is intact and leads to a
lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kdump.errors import KdumpError, NotPresentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kdump.kernel.objects import Objects
    from kdump.kernel.tasks import Task

_FLAGS = 7
_READERS = 1  # RWSEM_READER_OWNED
_KINDS = {
    "mutex": ("mutex_waiter", ("mutex_lock", "__mutex_lock", "__ww_mutex_lock", "ww_mutex_lock")),
    "rw_semaphore": ("rwsem_waiter", ("rwsem_down_",)),
}
_MAX_WAITERS = 1 << 16


class Wait(NamedTuple):
    """A task waits for the lock at `address`; `owner` is its holder's task_struct or 0; `readers` may hold it too."""

    kind: str
    address: int
    owner: int
    readers: bool


class Locks:
    """Finds what tasks wait for."""

    def __init__(self, objects: Objects, stacks: Iterable[int]) -> None:
        """`stacks`: where the stacks of all tasks begin."""
        self._objects = objects
        self._stacks = set(stacks)
        symbols = objects.symbols
        bounds = [
            (symbols.get(f"__start_init_{name}"), symbols.get(f"__end_init_{name}")) for name in ("stack", "task")
        ]
        start, end = next(((start, end) for start, end in bounds if start and end), (None, None))
        if start is None or end is None:
            raise KdumpError("the size of kernel stacks is not known")
        self._size = end - start

    def awaited(self, task: Task, functions: Sequence[str]) -> Wait | None:
        """The lock that a task waits for; `functions` are those on its stack. None if it waits for something else."""
        for kind, (waiter, names) in _KINDS.items():
            if any(function.startswith(names) for function in functions) and self._objects.types.has_struct(waiter):
                return self._search(task, kind, waiter)
        return None

    def _search(self, task: Task, kind: str, waiter: str) -> Wait | None:
        objects = self._objects
        sp = int(task.struct.thread.sp)
        top = int(task.struct.stack) + self._size
        if not top - self._size <= sp < top or not objects.types.struct(kind).has("wait_list.next"):
            return None
        try:
            words = np.frombuffer(objects.bytes(sp, (top - sp) // 8 * 8), "<u8")
        except NotPresentError:
            return None
        offset = objects.types.struct(waiter).offset("task")
        own = np.uint64(objects.address(task.struct))
        for index in np.flatnonzero(words == own):
            found = self._lock(kind, sp + 8 * int(index) - offset)
            if found:
                return found
        return None

    def _lock(self, kind: str, waiter: int) -> Wait | None:
        """The lock into whose list a waiter links, None if that is no intact list."""
        objects = self._objects
        layout = objects.types.struct(kind)
        seen: set[int] = set()
        node = waiter
        try:
            while node not in seen and len(seen) < _MAX_WAITERS:
                seen.add(node)
                following = objects.unsigned(node)
                if objects.unsigned(following + 8) != node:
                    return None
                node = following
                if node & -self._size not in self._stacks:
                    owner = objects.unsigned(node - layout.offset("wait_list") + layout.offset("owner"))
                    readers = kind == "rw_semaphore" and bool(owner & _READERS)
                    return Wait(kind, node - layout.offset("wait_list"), owner & ~_FLAGS, readers)
        except NotPresentError:
            return None
        return None
