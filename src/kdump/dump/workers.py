"""Threads that compress batches of pages while the caller writes them, in order, with a bounded number in flight."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class _Task(Generic[Job, Result]):
    def __init__(self, job: Job) -> None:
        self.job = job
        self.pending = threading.Lock()  # held until there is a result: cheaper than an Event
        self.pending.acquire()
        self.result: Result | None = None
        self.error: BaseException | None = None


def thread_count(wanted: int | None) -> int:
    """`wanted`, or one for each CPU that this process may use."""
    return len(os.sched_getaffinity(0)) if wanted is None else wanted


def in_order(
    jobs: Iterable[Job], make_work: Callable[[], Callable[[Job], Result]], threads: int
) -> Iterator[tuple[Job, Result]]:
    """(job, work(job)) in the order of `jobs`; each thread has a `work` of its own, from `make_work()`.

    At most threads + 4 jobs are between being taken and being yielded. An exception of `work` is raised here. With
    `threads` 0 the work is done by the caller.
    """
    if not threads:
        work = make_work()
        for job in jobs:
            yield job, work(job)
        return
    queue: SimpleQueue[_Task[Job, Result] | None] = SimpleQueue()

    def run() -> None:
        work = make_work()
        while (task := queue.get()) is not None:
            try:
                task.result = work(task.job)
            except BaseException as error:  # noqa: BLE001 -- handed to the caller, who raises it
                task.error = error
            task.pending.release()

    workers = [threading.Thread(target=run, name=f"compress-{i}", daemon=True) for i in range(threads)]
    for worker in workers:
        worker.start()
    flying: deque[_Task[Job, Result]] = deque()
    try:
        for job in jobs:
            task: _Task[Job, Result] = _Task(job)
            queue.put(task)
            flying.append(task)
            if len(flying) >= threads + 4:
                yield _wait(flying.popleft())
        while flying:
            yield _wait(flying.popleft())
    finally:
        for _ in workers:
            queue.put(None)
        for worker in workers:
            worker.join()


class Aside:
    """Calls made in a thread of its own, one after the other, while the caller does something else."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._ends: SimpleQueue[BaseException | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._busy = False

    def start(self, call: Callable[[], object]) -> None:
        """Begin a call, once the one before has ended. Raises what that one raised."""
        self.wait()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aside", daemon=True)
            self._thread.start()
        self._busy = True
        self._calls.put(call)

    def wait(self) -> None:
        """Until the last call has ended. Raises what it raised."""
        if self._busy:
            self._busy = False
            if error := self._ends.get():
                raise error

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            if self._thread:
                self._calls.put(None)
                self._thread.join()
                self._thread = None

    def _run(self) -> None:
        while call := self._calls.get():
            try:
                call()
            except BaseException as error:  # noqa: BLE001 -- handed to the caller, who raises it
                self._ends.put(error)
            else:
                self._ends.put(None)


def _wait(task: _Task[Job, Result]) -> tuple[Job, Result]:
    task.pending.acquire()
    if task.error is not None:
        raise task.error
    assert task.result is not None
    return task.job, task.result
