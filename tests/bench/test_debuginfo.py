"""`kdump debuginfo`: the vmlinux made of a dump, held against Debian's own in the tools that read one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import foreign
from tests.bench.conftest import kernels
from tests.conftest import CrashMaker
from tests.test_machines import NEWEST
from tools.globals import variables

from kdump.bench.variables import typed
from kdump.cli.main import main
from kdump.kernel import globals as kernel_globals
from kdump.kernel.kernel import Kernel
from kdump.kernel.tasks import Tasks
from kdump.memory import open_dump

pytestmark = pytest.mark.lab
EVERY = kernels("6.1", "6.12", NEWEST.kernel)

# What differs, and why: the file's name; addresses within crash itself; line numbers, which no dump holds; the padding
# behind a function, for kallsyms knows only where the next one begins; gdb's running number of a value.
_DIFFERENT = (
    re.compile(r"^ *KERNEL: .*"), re.compile(r"error trace: .*"), re.compile(r"(?<=\) panic) .*"),
    re.compile(r"^0x[0-9a-f]+ <schedule\+\d+>:\s+(data16 )?nop.*"), re.compile(r"\$\d+ = "),
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


def ask(series: str, vmlinux: Path, vmcore: Path) -> list[str]:
    text = foreign.run(*foreign.crash(series), "-s", "-i", "/dev/null", vmlinux, vmcore, text=_COMMANDS)
    lines = []
    for line in text.splitlines():
        for pattern in _DIFFERENT:
            line = pattern.sub("", line)
        lines.append(line.rstrip())
    return [line for line in lines if line]


def test_crash_answers_as_with_debians(
    series: str, made: Path, vmcore: Path, debug_vmlinux: Callable[[str], Path]
) -> None:
    """8.0.2 on 6.1, 8.0.6 on 6.12."""
    ours = ask(series, made / "crash", vmcore)
    theirs = ask(series, debug_vmlinux(series), vmcore)
    assert len(theirs) > 1500
    assert ours == theirs
    assert (made / "crash").stat().st_size < 60 << 20


@pytest.mark.matrix
def test_crash_that_does_not_know_the_newest_kernel(lab_crash: CrashMaker, tmp_path: Path) -> None:
    """8.0.6 asks for a member that struct module has no longer. A crash that knows it fails this test: compare then."""
    vmcore = lab_crash(NEWEST.kernel, **NEWEST.options).directory / "vmcore"
    assert main(["debuginfo", str(vmcore), "-o", str(tmp_path / "vmlinux")]) == 0
    tool = [*foreign.from_debian_13("crash"), "--no_kmem_cache", "-s", "-i", "/dev/null"]
    done = subprocess.run([*tool, tmp_path / "vmlinux", vmcore], capture_output=True, text=True, check=False, input="q")
    assert "invalid structure member offset: module_num_gpl_syms" in done.stdout + done.stderr
    with open_dump(vmcore) as dump:
        assert not Kernel(dump).types.struct("module").has("num_gpl_syms")


def panicking(vmcore: Path) -> list[str]:
    """The functions on the stack of the CPU that panicked, as the report shows them."""
    with open_dump(vmcore) as dump:
        kernel = Kernel(dump)
        tasks = Tasks(kernel)
        frames = tasks.cpu_stack(tasks.panic_cpu() or 0).frames
        return [symbol.name for frame in frames if (symbol := kernel.symbolizer.at(frame.lookup))]


@pytest.mark.parametrize("series", EVERY, indirect=True)
def test_gdb_reads_the_dump(made: Path, vmcore: Path) -> None:
    asked = (
        "p init_task.comm",
        "p ((struct task_struct *)((char *)init_task.tasks.next - (long)&((struct task_struct *)0)->tasks))->comm",
        "x/2i schedule", "info symbol panic", "p sizeof(struct list_head)", "p PERF_CONTEXT_HV", "p &stop_sched_class",
    )  # fmt: skip
    gdb = ["gdb", "-nx", "-q", "-batch", *(word for command in asked for word in ("-ex", command))]
    text = foreign.run(*gdb, made / "crash", made / "elf")
    assert '$1 = "swapper/0' in text
    assert '$2 = "init"' in text
    assert "<schedule>:" in text and "panic in section .text" in text
    assert "$3 = 16" in text and "$4 = PERF_CONTEXT_HV" in text
    assert "<stop_sched_class>" in text  # not the linker's mark at the same address
    serve = f"target remote | {sys.executable} -m kdump serve --stdio {vmcore}"
    patient = ("-ex", "set remotetimeout 60")
    text = foreign.run("gdb", "-nx", "-q", "-batch", *patient, "-ex", serve, "-ex", "bt", made / "crash")
    names = re.findall(r"^#\d+ +0x[0-9a-f]+ in ([\w.]+)", text.replace("[cold]", ".cold"), re.MULTILINE)
    # gdb shows no name of the frame that user space entered by.
    assert names == [name for name in panicking(vmcore) if not name.startswith("entry_")] and "panic" in names, text


@pytest.mark.parametrize("series", EVERY, indirect=True)
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
    names, known = [frame.name for frame in program.crashed_thread().stack_trace()], panicking(vmcore)
    assert names[: len(known)] == known and {"__crash_kexec", "panic"} <= set(known)


def objects(vmlinux: Path) -> dict[str, set[int]]:
    """The sizes of variables by their names, which several may share."""
    found: dict[str, set[int]] = {}
    for line in foreign.run("readelf", "--symbols", "--wide", vmlinux).splitlines():
        if len(words := line.split()) == 8 and words[3] == "OBJECT":
            found.setdefault(words[7], set()).add(int(words[2], 0))
    return found


def test_variables_are_as_large_as_in_debians(
    series: str, made: Path, vmcore: Path, debug_vmlinux: Callable[[str], Path]
) -> None:
    """dwarf2json takes as much of the banner. An array may be longer here: kallsyms knows where the next one begins."""
    ours, theirs = objects(made / "crash"), objects(debug_vmlinux(series))
    with open_dump(vmcore) as dump:
        kernel = Kernel(dump)
        names = {each.symbol.name for each in typed(kernel, kernel.symbols) if each.size and not each.counts}
    names = {name for name in names if len(theirs.get(name, ())) == len(ours[name]) == 1}
    different = {name for name in names if ours[name] != theirs[name]}
    assert len(names) > 8000 and len(different) < 10, different
    assert ours["linux_banner"] == theirs["linux_banner"]


@pytest.mark.matrix
@pytest.mark.parametrize("series", EVERY, indirect=True)
def test_variables_have_the_types_of_debians(series: str, vmcore: Path, debug_vmlinux: Callable[[str], Path]) -> None:
    """Lengths of arrays aside, and what a compiler may call by another name of the same type."""
    theirs = {name: re.sub(r"\[\d*\]", "[]", text) for name, text in variables(debug_vmlinux(series))}
    with open_dump(vmcore) as dump:
        kernel = Kernel(dump)
        table = dict(kernel_globals.names())
        found = {
            name: chosen.text
            for name in theirs
            if (address := kernel.symbols.get(name)) is not None and (symbol := kernel.symbols.at(address))
            if (chosen := kernel_globals.choose(
                kernel.types, table.get(name, ()), symbol.size, kernel.vmcoreinfo.release))
        }  # fmt: skip
    different = {name for name, text in found.items() if re.sub(r"\[\d*\]", "[]", text) != theirs[name]}
    assert len(found) > 12_000 and len(different) < 10, different


@pytest.mark.matrix
@pytest.mark.skipif(not shutil.which("dwarf2json"), reason="no registry has dwarf2json: install it by hand")
@pytest.mark.parametrize("series", EVERY, indirect=True)
def test_dwarf2json_makes_volatilitys_symbols(made: Path, vmcore: Path, tmp_path: Path) -> None:
    """What Volatility finds with them is what it finds with ours (test_export.py), processes first."""
    plugins = [f"linux.{name}" for name in ("pslist.PsList", "pstree.PsTree", "kmsg.Kmsg", "mountinfo.MountInfo")]
    assert main(["export", str(vmcore), "--elf", "-o", str(tmp_path / "elf")]) == 0
    answers = []
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
        symbols = tmp_path / name / "linux.json"
        if name == "ours":
            assert main(["export", str(vmcore), "--isf", "-o", str(symbols)]) == 0
        else:
            symbols.write_text(foreign.run("dwarf2json", "linux", "--elf", made / "drgn"))
        program = (sys.executable, "-m", "tests.bench.volatility_plugins", tmp_path / "elf")
        answers.append(json.loads(foreign.run(*program, tmp_path / name, tmp_path / name, *plugins)))
    assert answers[0] == answers[1] and len(answers[0]["linux.pslist.PsList"]) > 40


def test_the_file_is_sound(made: Path) -> None:
    text = foreign.run("readelf", "--debug-dump=info,frames", "-W", made / "crash")
    assert "DW_TAG_structure_type" in text and "DW_CFA_def_cfa" in text
    result = subprocess.run(
        ["readelf", "--debug-dump=abbrev,frames", "-S", "-l", "-W", made / "crash"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stderr == ""
