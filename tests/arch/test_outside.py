"""Dumps that QEMU took of kernels of all kinds that nothing here can crash from inside (`tests.arch.dumps`)."""

from __future__ import annotations

import pytest
from tests.arch.dumps import KINDS, MACHINE, small_dump

from kdump.dump.first_pass import first_pass
from kdump.dump.zones import free_pages, with_nodes
from kdump.kernel.kernel import Kernel
from kdump.kernel.tasks import Tasks
from kdump.memory import open_dump
from kdump.report.build import build
from kdump.report.context import Context

pytestmark = [pytest.mark.lab, pytest.mark.matrix]


@pytest.mark.parametrize(("series", "page_size"), KINDS.items())
def test_a_dump_from_outside_is_told_whole(series: str, page_size: int) -> None:
    """The 6.1 kernel has no KALLSYMS_ALL: its variables are found by what it exports."""
    vmcore = small_dump(series)
    with open_dump(vmcore) as dump:
        assert dump.memory.page_size == page_size and dump.vmcoreinfo  # both found in memory, when it was saved
        found = Kernel(dump)
        assert (found.arch.name, found.vmcoreinfo.page_size) == (MACHINE, page_size)
        tasks = Tasks(found)
        stacks = {task.pid: tasks.stack(task) for task in tasks}
        assert len(stacks) > 30 and all(stack.reliable for stack in stacks.values())
        names = [symbol.name for frame in stacks[1].frames if (symbol := found.symbolizer.at(frame.lookup))]
        assert "panic" in names and "kernel_init" in names
        assert tasks.objects.cpus() == [0, 1]
        selection = first_pass(dump, 31)
        assert not selection.not_applied
        free = free_pages(with_nodes(found), found.virtual)
        assert (
            free is not None and 0 <= selection.dropped_by_class["free"] - free[0] < 1 << 14
        )  # those on the CPUs' lists
        report = build(Context(found), str(vmcore))
    assert "Unable to mount root fs" in report.verdict.title
    assert not [section.name for section in report.sections if section.error and "only functions" not in section.error]
