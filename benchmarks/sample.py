"""A real vmcore to measure on: a machine of the lab, put to work, crashed, saved whole; kept in the lab's cache."""

from __future__ import annotations

import tempfile
from pathlib import Path

from kdump.capture.plan import CapturePlan
from kdump.dump.destination import Destination, save_to
from kdump.dump.pipeline import Options
from kdump.lab import cache, kernels
from kdump.lab.causes import find_cause
from kdump.lab.crash import Scenario, crash
from kdump.memory import open_dump
from kdump.units import size_text


def make(memory: int, series: str = "6.1", work: int | None = None) -> Path:
    """An ELF vmcore, as /proc/vmcore is, of a machine with `memory` bytes, `work` of them in use (default a third)."""
    name = f"vmcore-{series}-{memory >> 20}"

    def fill(directory: Path) -> None:
        print(f"crashing a machine of {size_text(memory)} to measure on (once) ...", flush=True)
        plan = CapturePlan(level=1, report=False)  # zero pages are still known, so nothing is lost
        scenario = Scenario(
            kernels.find(series), find_cause("sysrq"), memory=memory, cpus=2, plan=plan, work=work or memory // 3,
            timeout=900,
        )  # fmt: skip
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            found = crash(scenario, Path(scratch))
            target = Destination((str(directory / "vmcore"),))
            with open_dump(found.directory / "vmcore") as dump:
                save_to(dump, target, Options(levels=(0,), container="elf"))

    return cache.entry(name, fill) / "vmcore"
