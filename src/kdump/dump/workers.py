"""Threads that compress batches of pages while the caller writes them, in order, with a bounded number in flight.

Every wait ends: whatever ends a worker, MemoryError included, is raised where its result is waited for. `stop` is asked
before each result, and again and again while a wait lasts.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

from kdump.errors import KdumpError

A_THREAD = 16 << 20  # bytes: a thread's batch of pages, what it is packed to, and a codec's tables
_POLL = 0.2  # seconds between two questions to `stop`
_LAST = 5.0  # seconds that a worker has to end after a stop

Job = TypeVar("Job")
Result = TypeVar("Result")
Stop = Callable[[], str]  # a sentence that ends the work, "" to go on


class StoppedError(KdumpError):
    """`stop` said something while a result was waited for; `what` is what it said."""


def _never() -> str:
    return ""


def _ask(stop: Stop) -> None:
    if why := stop():
        raise StoppedError(why)


class _Task(Generic[Result]):
    """A call in another thread, and its result."""

    def __init__(self) -> None:
        self._pending = threading.Lock()  # held until there is a result: cheaper than an Event
        self._pending.acquire()
        self._result: Result | None = None
        self._error: BaseException | None = None

    def perform(self, call: Callable[[], Result]) -> None:
        """In the other thread. Never raises."""
        try:
            self._result = call()
        except BaseException as error:  # noqa: BLE001 -- handed to whoever waits, who raises it
            self._error = error
        self._pending.release()

    def wait(self, stop: Stop) -> Result:
        """The result. Raises what the call raised, `StoppedError` if `stop` says so before it is there."""
        _ask(stop)
        while not self._pending.acquire(timeout=_POLL):
            _ask(stop)
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # None only where Result is


def thread_count(wanted: int | None) -> int:
    """`wanted` threads, or one for each CPU; no more than there are CPUs, and memory for their buffers.

    Only what was asked for as 0 is 0: work without a thread is a choice of the caller.
    """
    if wanted == 0:
        return 0
    cpus = len(os.sched_getaffinity(0))
    most = cpus if wanted is None else min(wanted, cpus)
    return max(1, min(most, memory_left() // 2 // A_THREAD))


def memory_left() -> int:
    """Bytes that this process may still get: what the machine has available, and what RLIMIT_AS leaves."""
    available = _figure("/proc/meminfo", "MemAvailable:", 1)
    limit, used = _figure("/proc/self/limits", "Max address space", 3), _figure("/proc/self/status", "VmSize:", 1)
    found = 1 << 62 if available is None else available << 10
    return found if limit is None or used is None else min(found, max(0, limit - (used << 10)))


def _figure(path: str, name: str, word: int) -> int | None:
    """The number that is word `word` of the line of /proc that begins with `name`, or None."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(path, encoding="ascii") as lines:
        return next((int(line.split()[word]) for line in lines if line.startswith(name)), None)
    return None


def in_order(
    jobs: Iterable[Job],
    make_work: Callable[[], Callable[[Job], Result]],
    threads: int,
    stop: Stop = _never,
) -> Iterator[tuple[Job, Result]]:
    """(job, work(job)) in the order of `jobs`; each thread has a `work` of its own, from `make_work()`.

    At most threads + 4 jobs are between being taken and being yielded. An exception of `work` or of `make_work` is
    raised here, and `StoppedError` if `stop`, asked before each result, says something. With `threads` 0, or where no
    thread can be had, the work is done by the caller.
    """
    queue: SimpleQueue[tuple[Job, _Task[Result]] | None] = SimpleQueue()
    workers = _start(threads, make_work, queue)
    if not workers:
        work = make_work()
        for job in jobs:
            _ask(stop)
            yield job, work(job)
        return
    flying: deque[tuple[Job, _Task[Result]]] = deque()
    patience = None
    try:
        for job in jobs:
            flying.append((job, _Task()))
            queue.put(flying[-1])
            if len(flying) >= len(workers) + 4:
                first, task = flying.popleft()
                yield first, task.wait(stop)
        while flying:
            first, task = flying.popleft()
            yield first, task.wait(stop)
    except (StoppedError, KeyboardInterrupt):
        patience = time.monotonic() + _LAST  # a worker may hang in what it reads; it is a daemon
        raise
    finally:
        for _ in workers:
            queue.put(None)
        for worker in workers:
            worker.join(None if patience is None else max(0.0, patience - time.monotonic()))


def _start(
    threads: int,
    make_work: Callable[[], Callable[[Job], Result]],
    queue: SimpleQueue[tuple[Job, _Task[Result]] | None],
) -> list[threading.Thread]:
    """As many workers as can be had."""

    def run() -> None:
        work: Callable[[Job], Result] | None = None
        while (entry := queue.get()) is not None:
            job, task = entry

            def call(job: Job = job) -> Result:
                nonlocal work
                if work is None:
                    work = make_work()
                return work(job)

            task.perform(call)

    workers: list[threading.Thread] = []
    for number in range(threads):
        worker = threading.Thread(target=run, name=f"compress-{number}", daemon=True)
        try:
            worker.start()
        except (RuntimeError, MemoryError):  # no room for its stack, or a limit on processes
            break
        workers.append(worker)
    return workers


class Aside:
    """Calls made in a thread of its own, one after the other, while the caller does something else."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], object], _Task[object]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._running: _Task[object] | None = None

    def start(self, call: Callable[[], object]) -> None:
        """Begin a call, once the one before has ended. Raises what that one raised."""
        self.wait()
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="aside", daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError):  # no thread can be had
                call()
                return
            self._thread = thread
        self._running = _Task()
        self._calls.put((call, self._running))

    def wait(self) -> None:
        """Until the last call has ended. Raises what it raised."""
        running, self._running = self._running, None
        if running:
            running.wait(_never)

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
        while entry := self._calls.get():
            call, task = entry
            task.perform(call)
