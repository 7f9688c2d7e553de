"""The input of sections: the log, and the dump's kernel if there is one. Each part is read once, when used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdump.errors import KdumpError
from kdump.kernel.objects import Struct
from kdump.kernel.remembered import remembered
from kdump.report import oops
from kdump.report.damage import DAMAGE
from kdump.report.logtext import Line, from_log
from kdump.report.model import Frame, Stack

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kdump.arch.stacks import Unwound
    from kdump.kernel.btf import Btf
    from kdump.kernel.kernel import Kernel
    from kdump.kernel.objects import Objects
    from kdump.kernel.task import Task
    from kdump.kernel.task_table import Threads
    from kdump.kernel.tasks import Tasks
    from kdump.report.storage import Request


class Context:
    """Shared by the sections of one report."""

    def __init__(self, kernel: Kernel | None, lines: Sequence[Line] | None = None) -> None:
        """Of a dump (`kernel`), or of a log text alone (`lines`)."""
        self._kernel = kernel
        self._lines = lines
        self.problems: list[str] = []
        self.lost_requests: list[str] = []
        self.shared: dict[str, object] = {}  # what is made of a context for several sections, by who makes it
        self._arguments: dict[tuple[int, int], str] = {}  # by a frame's pc and sp

    @property
    def has_memory(self) -> bool:
        """Whether there is a dump and not only a log."""
        return self._kernel is not None

    @property
    def kernel(self) -> Kernel:
        """The dump's kernel; raises `KdumpError` if there is only a log."""
        if self._kernel is None:
            raise KdumpError("this needs a dump; there is only the kernel's log")
        return self._kernel

    @property
    def objects(self) -> Objects:
        """The kernel's objects; raises `KdumpError` if the kernel does not describe its types."""
        return self.kernel.objects

    @remembered
    def described(self) -> bool:
        """Whether the kernel's symbols and types can be read; if not, the reason is noted in `problems`."""
        if self._kernel is None:
            return False
        try:
            self._kernel.objects  # noqa: B018 - read for what it raises
        except KdumpError as error:
            self.problems.append(str(error))
            return False
        return True

    @remembered
    def lines(self) -> list[Line]:
        """The log. What was lost of it is noted in `problems`."""
        if self._lines is not None:
            return list(self._lines)
        try:
            log = self.kernel.log()
        except KdumpError as error:
            self.problems.append(f"the kernel's log cannot be read: {error}")
            return []
        self.problems += [f"log: {sentence}" for sentence in log.lost]
        return from_log(log)

    @remembered
    def crash(self) -> oops.Crash:
        """The crash as the log tells it."""
        return oops.find(self.lines)

    @property
    def crashed(self) -> bool:
        """Whether the dump itself says that its kernel crashed: it noted the time (crash_save_vmcoreinfo())."""
        return self._kernel is not None and bool(self._kernel.vmcoreinfo.crash_time)

    @remembered
    def tasks(self) -> Tasks:
        """Tasks and CPUs."""
        from kdump.kernel.tasks import Tasks

        self.objects  # noqa: B018 - raises where there are no types, before anything is half done
        return Tasks(self.kernel)

    @remembered
    def all_tasks(self) -> Threads:
        """Every thread; each is made when it is asked for, so ask `tasks.all.columns` about all of them."""
        return self.tasks.all.tasks

    @remembered
    def panic_cpu(self) -> int | None:
        """The CPU that panicked: the kernel's own note, else what panic() printed."""
        noted = self.tasks.panic_cpu()
        known = self.objects.symbols.get("panic_cpu") is not None
        return self.crash.event.cpu if noted is None and not known and self.crash.panic else noted

    @remembered
    def panic_stack(self) -> Unwound:
        """The stack of the CPU that panicked."""
        cpu = self.panic_cpu
        if cpu is None:
            raise KdumpError("the kernel did not note which CPU panicked")
        return self.tasks.cpu_stack(cpu)

    @remembered
    def now(self) -> int:
        """The scheduler's clock at the crash, in nanoseconds since boot: the latest of all run queues."""
        objects = self.objects
        return max(int(objects.per_cpu("runqueues", cpu).clock) for cpu in objects.cpus("online"))

    @remembered
    def disks(self) -> list[Struct]:
        """struct gendisk of every disk that has a size."""
        from kdump.report import storage

        return storage.disks(self.objects)

    @remembered
    def requests(self) -> list[Request]:
        """Requests in flight on all disks; what could not be read is noted in `lost_requests`."""
        from kdump.report import storage

        found = []
        for disk in self.disks:
            try:
                found += storage.in_flight(self.objects, disk, self.now)
            except DAMAGE as error:
                self.lost_requests.append(f"requests of {storage.name_of(self.objects, disk)}: {error}")
        return found

    def types_of(self, name: str) -> Btf:
        """The types that have a struct of that name: the kernel's, or those of a module. Raises `KdumpError`."""
        if self.objects.types.has_struct(name):
            return self.objects.types
        for module in self.kernel.modules:
            types = module.types
            if types is not None and types.has_struct(name):
                return types
        raise KdumpError(f"no types of this kernel have struct {name}")

    def struct(self, name: str, address: int) -> Struct:
        """The struct of that name at an address, which may be one of a module's. Raises `KdumpError`."""
        return Struct(self.objects, self.types_of(name).struct(name), address)

    def waiting_seconds(self, task: Task) -> float | None:
        """For how long a task has not run, None if the kernel does not keep that (CONFIG_SCHED_INFO)."""
        if not self.objects.has(task.struct, "sched_info.last_arrival"):
            return None
        arrival = int(task.struct.sched_info.last_arrival)
        return max(self.now - arrival, 0) / 1e9 if arrival else None

    @remembered
    def resident_sizes(self) -> NDArray[np.int64]:
        """Shape (threads,), as `all_tasks`: resident bytes of each process in the row of its first thread, else -1."""
        from kdump.report.resident import sizes

        return sizes(self.objects, self.tasks.all, self.kernel.vmcoreinfo.page_size)

    def resident(self, task: Struct) -> int | None:
        """Resident bytes of a process, None for a kernel thread."""
        mm = task.mm
        if not mm:
            return None
        objects, types = self.objects, self.objects.types
        kinds = [types.enumerator(name) for name in ("MM_FILEPAGES", "MM_ANONPAGES", "MM_SHMEMPAGES")]
        if objects.has(mm, "rss_stat.count"):  # until 6.1: counters, and what each thread has not yet added to them
            pages = sum(int(mm.rss_stat.count[kind].counter) for kind in kinds)
            if objects.has(task, "rss_stat.count"):
                for thread in objects.list(task.signal.thread_head, "task_struct", "thread_node"):
                    pages += sum(int(thread.rss_stat.count[kind]) for kind in kinds)
        else:  # per-CPU counters since 6.2
            pages = sum(self.counter(mm.rss_stat[kind]) for kind in kinds)
        return max(pages, 0) * self.kernel.vmcoreinfo.page_size

    def counter(self, counter: Struct) -> int:
        """The exact value of a struct percpu_counter."""
        objects = self.objects
        parts = (objects.signed(objects.at_cpu(counter.counters, cpu)) for cpu in objects.cpus("online"))
        return int(counter.count) + (sum(parts) if counter.counters else 0)

    def frames(self, unwound: Unwound) -> list[Frame]:
        """An unwound stack with names."""
        out = []
        for number, frame in enumerate(unwound.frames):
            symbol = self.kernel.symbolizer.at(frame.lookup)
            context = "exception" if frame.registers and number else ""
            if symbol is None or not symbol.name:
                out.append(Frame("", address=frame.pc, module=symbol.module if symbol else "", context=context))
            else:
                offset = frame.pc - symbol.address
                arguments = self._arguments.get((frame.pc, frame.sp), "")
                out.append(
                    Frame(symbol.name, offset, symbol.size, symbol.module, frame.pc, context, arguments=arguments)
                )
        return out

    def find_arguments(self, unwound: Unwound) -> None:
        """Find the arguments of a stack's functions: `frames` tells them from now on.

        Raises `ImportError` if there is no disassembler, and what reading damaged memory may raise.
        """
        from kdump.report import arguments

        for frame, found in zip(unwound.frames, arguments.of_stack(self, unwound), strict=True):
            if found and any(argument.value is not None for argument in found):
                self._arguments[frame.pc, frame.sp] = ", ".join(map(str, found))

    def stack(self, title: str, unwound: Unwound, owners: Sequence[str] = ()) -> Stack:
        """An unwound stack as a block of a section."""
        return Stack(title, list(owners), self.frames(unwound), unwound.note)
