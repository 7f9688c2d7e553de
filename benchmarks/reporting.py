"""What a report costs, against crash and drgn with the debug vmlinux on the same dump."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Series, run

KDUMP = (sys.executable, "-m", "kdump")
COMMANDS = "bt\nps\nlog\nkmem -i\nquit\n"
# What the short report says of every task: PID, name, state, CPU and resident memory; and the stack that panicked.
DRGN = """
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


@dataclass(frozen=True)
class Row:
    """One way to ask: a command, its options, and what it may take."""

    name: str
    options: tuple[str, ...]
    seconds: float
    command: str = "report"


ROWS = (
    Row("signature", ("--signature",), 0.6),
    Row("verdict, short", ("--short",), 0.6),
    Row("full report", (), 2.0),
    Row("page", ("--html",), 2.0),
    Row("shell start", ("--crash", "-c", "sym panic"), 0.4, "shell"),
)
# What other tools want: the command and its options, and last the name of the file that is written.
OTHERS = (
    Row("debuginfo", ("debuginfo", "-f", "-o", "vmlinux"), 10.0),
    Row("export --isf", ("export", "--isf", "-f", "-o", "linux.json"), 5.0),
)
HEAD = f"{'':<29}{'seconds':>18}{'aim':>6}{'CPU':>7}{'peak':>10}{'crash takes':>13}{'drgn takes':>13}"


def reduce(vmcore: Path, scratch: Path) -> Path:
    """The dump at level 31, as a capture kernel leaves it."""
    output = scratch / "report.vmcore"
    run([*KDUMP, "save", "-d", "31", vmcore, output])
    return output


def measure(vmcore: Path, vmlinux: Path | None, crash: str, repeat: int, scratch: Path) -> Iterator[str]:
    """Lines of the table; without a vmlinux (or crash) nothing is compared."""
    theirs: list[Series] = []
    if vmlinux:
        commands, script = scratch / "commands", scratch / "tasks.py"
        commands.write_text(COMMANDS)
        script.write_text(DRGN)
        theirs = [
            _series([crash, "-s", "-i", str(commands), str(vmlinux), str(vmcore)], repeat),
            _series([sys.executable, script, vmcore, vmlinux], repeat),
        ]
        yield _line("crash: bt, ps, log, kmem", theirs[0])
        yield _line("drgn with DWARF: tasks, stack", theirs[1])
    for row in ROWS:
        yield _line(f"kdump: {row.name}", _series([*KDUMP, row.command, *row.options, vmcore], repeat), row, theirs)
    log = scratch / "log.txt"
    log.write_bytes(run([*KDUMP, "dmesg", vmcore]).output)
    yield _line("kdump: signature of a log", _series([*KDUMP, "report", "--signature", log], repeat), ROWS[0], theirs)
    for row in OTHERS:
        *words, name = row.options
        yield _line(f"kdump: {row.name}", _series([*KDUMP, *words, scratch / name, vmcore], repeat), row)


def _series(command: Sequence[str | Path], repeat: int) -> Series:
    run(command)  # brings the dump and the programs into the page cache
    return Series(tuple(run(command) for _ in range(repeat)))


def _line(name: str, ours: Series, row: Row | None = None, theirs: Sequence[Series] = ()) -> str:
    aim = f"{row.seconds:.1f}" if row else ""
    times = "".join(f"{f'{other.seconds / ours.seconds:.1f} times':>13}" for other in theirs)
    return f"{name:<29}{ours.spread():>18}{aim:>6}{ours.cpu:>7.2f}{ours.peak / (1 << 20):>6.0f} MiB{times}"
