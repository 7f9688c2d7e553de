"""What a report costs on a machine of very many threads, against drgn with DWARF and crash on the same dump."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import reporting
from benchmarks.measure import Series, run
from kdump.image.kernel_tree import KernelTree
from kdump.lab.causes import find_cause
from kdump.lab.crash import GIB, Scenario, crash

_EACH = 40 << 10  # bytes of the machine for a thread: its task, its kernel stack, page tables
_OTHERS = 2000  # processes, and control groups
# What the short report says of every task: PID, name, state, CPU and resident memory; and the stack that panicked.
_DRGN = """
import sys, drgn
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.mm import task_rss
from drgn.helpers.linux.sched import task_cpu, task_state_to_char
program = drgn.Program()
program.set_core_dump(sys.argv[1])
try:
    program.load_debug_info([sys.argv[2]])
except drgn.MissingDebugInfoError:
    pass  # of modules
for task in for_each_task(program):
    size = task_rss(task).total if task.pid == task.tgid and task.mm else 0
    print(task.pid.value_(), task.comm.string_(), task_state_to_char(task), task_cpu(task), size)
print(program.crashed_thread().stack_trace())
"""


def machine(tree: KernelTree, threads: int, scratch: Path) -> Path:
    """The level-31 dump of a crashed machine with so many threads."""
    memory = 2 * GIB + threads * _EACH
    made = Scenario(
        tree, find_cause("cpu"), memory=memory, cpus=2, crashkernel="512M", timeout=1800, work=8 << 20,
        crowd=(threads, min(_OTHERS, threads), min(_OTHERS, threads)),
    )  # fmt: skip
    return crash(made, scratch).directory / "vmcore"


def measure(vmcore: Path, vmlinux: Path | None, tool: str, repeat: int, scratch: Path) -> Iterator[str]:
    """Lines of the table."""
    if vmlinux:
        script = scratch / "tasks.py"
        script.write_text(_DRGN)
        command: list[str | Path] = [sys.executable, script, vmcore, vmlinux]
        run(command)
        yield reporting.cost("drgn with DWARF: tasks, rss", Series(tuple(run(command) for _ in range(repeat))))
    yield from reporting.measure(vmcore, vmlinux, tool, repeat, scratch)
