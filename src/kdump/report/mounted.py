"""The mounts that a report shows: those of the first process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kdump.kernel import mounts as kernel_mounts
from kdump.kernel.objects import Struct
from kdump.report.context import Context


def mounts(context: Context) -> Iterator[Struct]:
    """Mounts of the first process's namespace, in order of mounting."""
    objects = context.objects
    first = np.flatnonzero(context.tasks.all.columns["pid"] == 1)
    init = context.all_tasks[int(first[0])].struct if len(first) else None
    return kernel_mounts.mounts(objects, init if init is not None and init.nsproxy else objects.variable("init_task"))
