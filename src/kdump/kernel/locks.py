"""Which lock a sleeping task waits for, and who holds it, without debug information.

Sources: kernel/locking/mutex.c, mutex.h, rwsem.c: a waiter is a struct on the waiting task's stack that links into the
lock's list of waiters and points back to its task; the lock's `owner` is a task pointer whose low bits are flags. A
list has its head in the lock (`wait_list`); in 7.3 it is a ring of waiters, of which the lock knows the first
(`first_waiter`). kernel/locking/percpu-rwsem.c: readers queue on `waiters`, the one writer is in `writer`.
kernel/locking/rtmutex.c: `task.pi_blocked_on`, and the low bit of `owner` says that others wait.

So the stack is searched for the task's own address, and a find counts only if the list around it is intact and leads to
a lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kdump.errors import KdumpError, NotPresentError
from kdump.memory.gather import distinct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from kdump.kernel.objects import Objects
    from kdump.kernel.task import Task

_FLAGS = 7
_READERS = 1  # RWSEM_READER_OWNED
KERNEL = 0xFF00 << 48  # addresses of the kernel with five levels of page tables; with four they begin higher up
_RT_WAITERS = 1  # RT_MUTEX_HAS_WAITERS
_MAX_WAITERS = 1 << 16
_DEEP = 16  # frames from the innermost in which the wait must show


class Wait(NamedTuple):
    """A task waits for the lock at `address`; `owner` is its holder's task_struct or 0; `readers` may hold it too."""

    kind: str
    address: int
    owner: int = 0
    readers: bool = False


class Stacks:
    """The words of sleeping tasks' stacks, and which addresses lie on any stack."""

    def __init__(self, objects: Objects, stacks: Iterable[int]) -> None:
        """`stacks`: where the stacks of all tasks begin."""
        self.objects = objects
        self._starts = set(stacks)
        symbols = objects.symbols
        bounds = [
            (symbols.get(f"__start_init_{name}"), symbols.get(f"__end_init_{name}")) for name in ("stack", "task")
        ]
        start, end = next(((start, end) for start, end in bounds if start and end), (None, None))
        if start is None or end is None:
            raise KdumpError("the size of kernel stacks is not known")
        self.size = end - start

    def holds(self, address: int) -> bool:
        """Whether the address lies on a task's stack."""
        return address & -self.size in self._starts

    def words(self, task: Task) -> tuple[int, npt.NDArray[np.uint64]]:
        """Where the used part of a sleeping task's stack begins, and its words; none if it cannot be read."""
        sp = int(task.struct.thread.sp)
        top = int(task.struct.stack) + self.size
        if not top - self.size <= sp < top or sp & 7:
            return sp, np.empty(0, np.uint64)
        try:
            return sp, np.frombuffer(self.objects.bytes(sp, (top - sp) // 8 * 8), "<u8")
        except NotPresentError:
            return sp, np.empty(0, np.uint64)

    def places(self, task: Task, value: int) -> Iterator[int]:
        """Addresses on a task's stack that hold `value`, the innermost first."""
        sp, words = self.words(task)
        for index in np.flatnonzero(words == np.uint64(value)).tolist():
            yield sp + 8 * index

    def pointing(self, task: Task, offset: int, value: int) -> int:
        """The first pointer off its stack that a task has on it, with `value` `offset` bytes on; 0 without one."""
        _, words = self.words(task)
        pointers = distinct(words[(words >= np.uint64(KERNEL)) & (words & np.uint64(7) == 0)])
        found = self.objects.columns.pointers(pointers, offset) == np.uint64(value)
        # Not what is itself on a stack: the waiters of a ring point to each other there.
        return next((pointer for pointer in pointers[found].tolist() if not self.holds(pointer)), 0)

    def ring(self, node: int) -> list[int]:
        """All nodes of the struct list_head ring that `node` is in, from it on; empty unless the ring is intact."""
        unsigned = self.objects.unsigned
        seen: dict[int, None] = {}
        try:
            while node not in seen:
                if len(seen) >= _MAX_WAITERS or not node:
                    return []
                seen[node] = None
                following = unsigned(node)
                if unsigned(following + 8) != node:
                    return []
                node = following
        except NotPresentError:
            return []
        return list(seen) if node == next(iter(seen)) else []


class Locks:
    """Finds what tasks wait for."""

    def __init__(self, objects: Objects, stacks: Stacks) -> None:
        self._objects = objects
        self._stacks = stacks
        self._finders: tuple[tuple[tuple[str, ...], Callable[[Task], Wait | None]], ...] = (
            (("percpu_rwsem_wait", "__percpu_down_read", "percpu_down_"), self._percpu),
            (("rt_mutex_slowlock", "__rt_mutex_slowlock", "rtlock_slowlock", "rt_spin_lock", "rwbase_"), self._rt),
            (("mutex_lock", "__mutex_lock", "__ww_mutex_lock", "ww_mutex_lock"), self._mutex),
            (("rwsem_down_",), self._rwsem),
        )

    def awaited(self, task: Task, functions: Sequence[str]) -> Wait | None:
        """The lock that a task waits for; `functions` are those on its stack. None if it waits for something else."""
        for function in functions[:_DEEP]:
            for names, find in self._finders:
                if function.startswith(names) and (found := find(task)):
                    return found
        return None

    def _mutex(self, task: Task) -> Wait | None:
        if self._objects.has(task.struct, "pi_blocked_on") and task.struct.pi_blocked_on:
            return self._rt(task)  # PREEMPT_RT: a mutex is one of those
        return self._search(task, "mutex", "mutex_waiter")

    def _rwsem(self, task: Task) -> Wait | None:
        return self._search(task, "rw_semaphore", "rwsem_waiter")

    def _search(self, task: Task, kind: str, waiter: str) -> Wait | None:
        types = self._objects.types
        if not types.has_struct(waiter) or not types.has_struct(kind):
            return None
        offset = types.struct(waiter).offset("task")
        for place in self._stacks.places(task, self._objects.address(task.struct)):
            ring = self._stacks.ring(place - offset)
            if ring and (lock := self._lock(task, kind, ring)):
                owner = self._objects.unsigned(lock + types.struct(kind).offset("owner"))
                return Wait(kind, lock, owner & ~_FLAGS, kind == "rw_semaphore" and bool(owner & _READERS))
        return None

    def _lock(self, task: Task, kind: str, ring: list[int]) -> int:
        """The lock that a ring of waiters belongs to, 0 if none is found."""
        layout = self._objects.types.struct(kind)
        if layout.has("wait_list.next"):
            head = next((node for node in ring if not self._stacks.holds(node)), 0)
            return head - layout.offset("wait_list") if head else 0
        if not layout.has("first_waiter") or any(not self._stacks.holds(node) for node in ring):
            return 0
        offset = layout.offset("first_waiter")
        return next((found for node in ring if (found := self._stacks.pointing(task, offset, node))), 0)

    def _percpu(self, task: Task) -> Wait | None:
        objects, types = self._objects, self._objects.types
        if not types.has_struct("percpu_rw_semaphore"):
            return None
        layout, entry = types.struct("percpu_rw_semaphore"), types.struct("wait_queue_entry")
        own = objects.address(task.struct)
        lock = 0
        for place in self._stacks.places(task, own):
            ring = self._stacks.ring(place - entry.offset("private") + entry.offset("entry"))
            head = next((node for node in ring if not self._stacks.holds(node)), 0)
            if head:
                lock = head - layout.offset("waiters.head")
                break
        if not lock:  # the writer, which waits for readers to leave
            lock = self._stacks.pointing(task, layout.offset("writer"), own)
            return Wait("percpu_rw_semaphore", lock, readers=True) if lock else None
        writer = objects.unsigned(lock + layout.offset("writer"))
        return Wait("percpu_rw_semaphore", lock, writer if writer != own else 0)

    def _rt(self, task: Task) -> Wait | None:
        objects = self._objects
        waiter = task.struct.pi_blocked_on if objects.has(task.struct, "pi_blocked_on") else None
        if not waiter or waiter.task != objects.address(task.struct):
            return None
        lock = waiter.lock
        return Wait("rt_mutex", int(lock), int(lock.owner) & ~_RT_WAITERS)
