"""`kdump debuginfo`: the vmlinux made of a dump, held against Debian's own in the tools that read one."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import foreign

pytestmark = pytest.mark.lab

# What differs, and why: the file's name; addresses within crash itself; line numbers, which no dump holds; the padding
# behind a function, for kallsyms knows only where the next one begins; gdb's running number of a value.
_DIFFERENT = (
    re.compile(r"^ *KERNEL: .*"), re.compile(r"error trace: .*"), re.compile(r"(?<=\) panic) .*"),
    re.compile(r"^0x[0-9a-f]+ <schedule\+\d+>:\s+nop.*"), re.compile(r"\$\d+ = "),
)  # fmt: skip
_COMMANDS = """sys
bt
bt -a
ps
mod
log
kmem -i
kmem -s
struct task_struct
struct file_operations
dev
files 1
net
mount
runq
timer
irq
foreach task
task 1
vm 1
dis schedule
rd linux_banner 8
sym panic
sym init_task
p init_task.comm
p jiffies
whatis panic
whatis chrdevs
quit
"""


def ask(vmlinux: Path, vmcore: Path, commands: str) -> list[str]:
    text = foreign.run("crash", "-s", "-i", "/dev/null", vmlinux, vmcore, text=commands)
    lines = []
    for line in text.splitlines():
        for pattern in _DIFFERENT:
            line = pattern.sub("", line)
        lines.append(line.rstrip())
    return [line for line in lines if line]


def test_crash_answers_as_with_debians(made: Path, vmcore: Path, debug_vmlinux: Callable[[str], Path]) -> None:
    ours = ask(made / "crash", vmcore, _COMMANDS)
    theirs = ask(debug_vmlinux("6.1"), vmcore, _COMMANDS)
    assert len(theirs) > 1500
    assert ours == theirs
    assert (made / "crash").stat().st_size < 60 << 20


def test_gdb_reads_the_dump(made: Path) -> None:
    script = made / "gdb.in"
    script.write_text(
        "p init_task.comm\n"
        "p ((struct task_struct *)((char *)init_task.tasks.next - (long)&((struct task_struct *)0)->tasks))->comm\n"
        "x/2i schedule\ninfo symbol panic\np sizeof(struct list_head)\np PERF_CONTEXT_HV\n"
    )
    text = foreign.run("gdb", "-nx", "-q", "-batch", "-x", script, made / "crash", made / "elf")
    assert '$1 = "swapper/0' in text
    assert '$2 = "init"' in text
    assert "<schedule>:" in text and "panic in section .text" in text
    assert "$3 = 16" in text and "$4 = PERF_CONTEXT_HV" in text


def test_drgn_takes_it_as_debug_information(made: Path, vmcore: Path) -> None:
    import drgn
    from drgn.helpers.linux.percpu import per_cpu
    from drgn.helpers.linux.pid import for_each_task

    program = drgn.Program()
    program.set_core_dump(vmcore)
    try:
        program.load_debug_info([made / "drgn"])
    except drgn.MissingDebugInfoError as error:  # of modules, which have theirs in the same file
        assert "kernel" not in str(error).splitlines()[0].split(":")[0]
    assert program.main_module().debug_file_path == str((made / "drgn").resolve())
    assert b"init" in [task.comm.string_() for task in for_each_task(program)]
    assert per_cpu(program["runqueues"], 0).cpu.value_() == 0
    names = [frame.name for frame in program.crashed_thread().stack_trace()]
    assert {"__crash_kexec", "ksys_write", "do_syscall_64"} <= set(names)


def test_the_file_is_sound(made: Path) -> None:
    text = foreign.run("readelf", "--debug-dump=info,frames", "-W", made / "crash")
    assert "DW_TAG_structure_type" in text and "DW_CFA_def_cfa" in text
    result = subprocess.run(
        ["readelf", "--debug-dump=abbrev,frames", "-S", "-l", "-W", made / "crash"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stderr == ""
