"""Tasks of a dead kernel: every thread, its state, where it ran, its stack.

Source: include/linux/sched.h (states; `__state` since 5.14), fs/proc/array.c (their letters), kernel/sched/sched.h
(`rq.curr`), kernel/kexec_core.c (`crash_notes`: registers of each CPU as ELF notes).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from kdump.arch.stacks import Registers, Unwinder, Unwound
from kdump.elf import NT_PRSTATUS
from kdump.errors import KdumpError
from kdump.kernel.task import Task, letter
from kdump.kernel.task_table import TaskTable, read_all

if TYPE_CHECKING:
    from kdump.kernel.kernel import Kernel
    from kdump.kernel.objects import Struct

_PF_KTHREAD = 0x00200000
_MAX_TASKS = 1 << 22  # PID_MAX_LIMIT


class Tasks:
    """Tasks, CPUs and their stacks."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.objects = self._objects = kernel.objects
        self._unwinder: Unwinder | None = None
        self._running: dict[int, Struct] | None = None

    def __iter__(self) -> Iterator[Task]:
        """Every thread except the idle tasks, processes in order of creation, their threads together.

        Damaged links end the walk with a note in the objects' problems; a task that cannot be read is left out and
        noted.
        """
        return iter(self.all.tasks)

    @cached_property
    def all(self) -> TaskTable:
        """All threads with their columns."""
        return read_all(self)

    def describe(self, task: Struct) -> Task:
        """The members of a task_struct that are read."""
        objects = self._objects
        info = task.thread_info.cpu if objects.has(task, "thread_info.cpu") else task.cpu
        running = bool(task.on_cpu) if objects.has(task, "on_cpu") else False
        kernel_thread = bool(task.flags & _PF_KTHREAD)
        return Task(
            task, task.pid, task.tgid, objects.string(task.comm), self.state(task), int(info), running, kernel_thread
        )

    def state(self, task: Struct) -> str:
        """The state's letter: R S D T t Z X P I."""
        left = int(task.exit_state)
        if left:
            return letter(left, 0)
        return letter(0, int(task.__getattr__("__state") if self._objects.has(task, "__state") else task.state))

    def running(self) -> dict[int, Struct]:
        """The task on each online CPU (its idle task included), from the run queues."""
        if self._running is None:
            objects = self._objects
            self._running = {}
            for cpu in objects.cpus("online"):
                try:
                    queue = objects.per_cpu("runqueues", cpu)
                    self._running[cpu] = objects.struct("task_struct", queue.curr)
                except KdumpError as error:
                    objects.problem(f"run queue of CPU {cpu}: {error}")
        return self._running

    def panic_cpu(self) -> int | None:
        """The CPU that panicked, None if the kernel did not."""
        # panic_cpu since 4.5 (-1 until then), crashing_cpu set by the x86 crash path.
        for name in ("panic_cpu", "crashing_cpu"):
            cpu = self._objects.number(name, 4, signed=True)
            if cpu is not None and 0 <= cpu < 1 << 16:
                return cpu
        return None

    def registers(self, cpu: int) -> Registers | None:
        """Registers that a CPU had when it was stopped, None if it left none."""
        objects = self._objects
        place = objects.symbols.get("crash_notes")
        if place is not None:
            try:
                head = objects.at_cpu(objects.unsigned(place), cpu)
                name_size, size, kind = struct.unpack("<III", objects.bytes(head, 12))
                if kind == NT_PRSTATUS and name_size <= 16 and 112 <= size <= 4096:
                    return self._kernel.arch.registers(bytes(objects.bytes(head + 12 + -(-name_size // 4) * 4, size)))
            except KdumpError as error:
                objects.problem(f"registers of CPU {cpu}: {error}")
        # A dump taken from outside (QEMU) has a note for each CPU in order.
        notes = [note for note in self._kernel.dump.notes if note.type == NT_PRSTATUS and note.name == "CORE"]
        if len(notes) == len(objects.cpus("online")) and cpu < len(notes):
            return self._kernel.arch.registers(notes[cpu].data)
        return None

    def stack(self, task: Task) -> Unwound:
        """The stack of a task, from its CPU's registers if it was running."""
        unwinder = self.unwinder
        if task.running:
            return self.cpu_stack(task.cpu)
        return unwinder.from_thread(task.struct.thread)

    def cpu_stack(self, cpu: int) -> Unwound:
        """The stack of what ran on a CPU."""
        found = self.registers(cpu)
        if found is None:
            return Unwound([], False, "the CPU left no registers: the kernel has not stopped it, or it did not answer")
        return self.unwinder.from_registers(found)

    @property
    def unwinder(self) -> Unwinder:
        """The unwinder; raises `KdumpError` if the kernel has no unwind tables."""
        if self._unwinder is None:
            self._unwinder = self._kernel.arch.unwinder(self._kernel)
        return self._unwinder
