"""The address spaces of processes: each once, however many threads share it."""

from __future__ import annotations

from collections.abc import Iterator

from kdump.kernel.objects import Objects, Struct
from kdump.kernel.tasks import Tasks

_KTHREAD = 0x00200000  # PF_KTHREAD: it may have borrowed one


def processes(objects: Objects) -> Iterator[Struct]:
    """struct mm_struct of every process that has one."""
    columns = Tasks(objects.kernel).all.columns
    own = columns["mm"][(columns["flags"] & _KTHREAD) == 0]
    for place in dict.fromkeys(own.tolist()):
        if place:
            yield objects.struct("mm_struct", place)
