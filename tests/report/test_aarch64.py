"""Reports of aarch64 machines on whatever host this is, with drgn as the judge of tasks and stacks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import foreign
from tests.conftest import CrashMaker
from tests.lab.test_aarch64 import small
from tests.report import asked
from tests.report.test_agreement import same_arguments

from kdump.arch.stacks import Unwound
from kdump.capture.plan import CapturePlan
from kdump.cli.main import main
from kdump.image.kernel_tree import KernelTree
from kdump.kernel.kernel import Kernel
from kdump.kernel.tasks import Tasks
from kdump.lab import kernels
from kdump.memory import open_dump
from kdump.report import arguments
from kdump.report.build import build
from kdump.report.context import Context

pytestmark = pytest.mark.lab

MIN_STACKS = 40
# What this machine has not, and the report says so.
ABSENT = "CONFIG_PAGE_OWNER"


def recorded(unwound: Unwound) -> list[int]:
    """The program counters that frame records tell. drgn has no others; the caller of a leaf is in x30 alone."""
    found, frames = [], unwound.frames
    for number, frame in enumerate(frames):
        behind_registers = number and frames[number - 1].registers is not None and frame.registers is None
        if not (behind_registers and frame.sp == frames[number - 1].sp):
            found.append(frame.pc)
    return found


def check_stacks(vmcore: Path) -> None:
    from drgn.helpers.linux.pid import for_each_task

    from kdump.report.program import open_program

    with open_dump(vmcore) as dump:
        kernel = Kernel(dump)
        tasks = Tasks(kernel)
        program = open_program([str(vmcore)], kernel)
        theirs = {int(task.pid): [frame.pc for frame in program.stack_trace(task)] for task in for_each_task(program)}
        ours = {task.pid: tasks.stack(task) for task in tasks}
        assert sorted(ours) == sorted(theirs) and len(ours) > MIN_STACKS
        for pid, unwound in ours.items():
            assert unwound.reliable, (pid, unwound.note)
            assert recorded(unwound) == theirs[pid], pid
        panicked = tasks.cpu_stack(tasks.panic_cpu() or 0)
        names = [found.name for frame in panicked.frames if (found := kernel.symbolizer.at(frame.lookup))]
        assert "sysrq_handle_crash" in names and names[-1] == "el0t_64_sync" and panicked.user is not None
        check_arguments(Context(kernel), panicked)


def check_arguments(context: Context, unwound: Unwound) -> None:
    """What write(2) was called with is in the registers that user space had."""
    names = [frame.function for frame in context.frames(unwound)]
    found = dict(zip(names, arguments.of_stack(context, unwound), strict=True))
    known = {each.name: each.value for each in found["ksys_write"] or [] if each.value is not None}
    assert unwound.user is not None
    registers = {"fd": unwound.user["x0"], "buf": unwound.user["x1"], "count": unwound.user["x2"]}
    assert len(known) > 1 and known.items() <= registers.items()


def check_report(vmcore: Path, cpus: int) -> None:
    with open_dump(vmcore) as dump:
        report = build(Context(Kernel(dump)), str(vmcore))
    assert report.verdict.title == "sysrq triggered crash" and not report.problems
    for section in report.sections:
        assert not section.error, (section.name, section.error)
        assert not [note for note in section.notes if ABSENT not in note], section.notes
    blocks = {block.name: block for section in report.sections for block in section.blocks}
    assert len(blocks["cpus"].rows) == cpus  # type: ignore[union-attr]


def test_four_kib(lab_crash: CrashMaker) -> None:
    crash = small(lab_crash, "6.12", plan=CapturePlan(), crashkernel="192M", cpus=2)
    check_stacks(crash.directory / "vmcore")
    check_report(crash.directory / "vmcore", 2)
    with open_dump(crash.directory / "vmcore") as dump:
        assert asked.without_type(crash.directory / "vmcore", Kernel(dump)) == []


def test_the_core_of_a_process(lab_crash: CrashMaker, tmp_path: Path) -> None:
    """drgn opens it and finds the registers of user mode; binutils know the notes."""
    import drgn

    crash = small(lab_crash, "6.12", plan=CapturePlan(), crashkernel="192M", cpus=2)
    vmcore, core = crash.directory / "vmcore", tmp_path / "core"
    assert main(["export", str(vmcore), "--gcore", "1", "-o", str(core)]) == 0
    with open_dump(vmcore) as dump:
        tasks = Tasks(Kernel(dump))
        panicked = tasks.cpu_stack(tasks.panic_cpu() or 0).user  # of init, which wrote to sysrq-trigger
    assert panicked is not None
    program = drgn.Program()
    program.set_core_dump(core)
    assert program.platform is not None and program.platform.arch == drgn.Architecture.AARCH64
    (thread,) = program.threads()
    frame = thread.stack_trace()[0]
    names = ["sp", "pstate", *(f"x{number}" for number in range(31))]
    assert thread.tid == 1 and frame.pc == panicked.pc
    assert {name: frame.register(name) for name in names} == {name: panicked[name] for name in names}
    notes = foreign.run("readelf", "--notes", "-W", core)
    assert {"NT_PRSTATUS", "NT_PRPSINFO", "NT_AUXV", "NT_FILE"} <= set(re.findall(r"NT_\w+", notes))
    assert b"/libc.so.6\0" in core.read_bytes()


@pytest.mark.matrix
def test_arguments_as_the_debug_information_has_them(lab_crash: CrashMaker, kernel: Callable[..., KernelTree]) -> None:
    import drgn
    from drgn.helpers.linux.pid import for_each_task

    crash = small(lab_crash, "6.12", plan=CapturePlan(), crashkernel="192M", cpus=2)
    program = drgn.Program()
    program.set_core_dump(crash.directory / "vmcore")
    program.load_debug_info([kernels.debug_vmlinux(kernel("6.12", "aarch64"))])
    theirs = {int(task.pid): program.stack_trace(task) for task in for_each_task(program)}
    told = 0
    with open_dump(crash.directory / "vmcore") as dump:
        context = Context(Kernel(dump))
        for task in context.all_tasks:
            told += same_arguments(context, context.tasks.stack(task), theirs[task.pid])
    assert told > 150


def test_sixteen_kib(lab_crash: CrashMaker) -> None:
    """Nobody else filters this kernel: by its own counters what was dropped is free."""
    crash = small(lab_crash, "6.12-16k", crashkernel="256M")
    vmcore = crash.directory / "vmcore"
    check_stacks(vmcore)
    check_report(vmcore, 1)
    with open_dump(vmcore) as dump:
        from kdump.memory.counts import count_pages

        counts = count_pages(dump.memory)
    assert counts.dumped < counts.memory / 3 and (counts.excluded or 0) > counts.memory / 2
