"""Runs commands and measures the whole process: seconds, CPU seconds, private memory."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

INTERVAL = 0.03  # seconds between two looks at the memory: each takes time from what is measured


@dataclass(frozen=True)
class Run:
    """One run of a command. Memory in bytes: `private` is the most anonymous memory that was resident (mapped files are
    not), `peak` the most of both, at the last look (wait4(2) counts what the benchmark itself had in memory when it
    started the command). `output` is what it said.
    """

    seconds: float
    cpu: float
    private: int
    peak: int = 0
    output: bytes = b""


def run(command: Sequence[str | Path]) -> Run:
    """Run to the end; raises `RuntimeError` with its output if it fails."""
    began = time.perf_counter()
    # A file, for a pipe that nobody reads would stop a command that says much.
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(list(map(str, command)), stdout=said, stderr=subprocess.STDOUT) as process,
    ):
        private = peak = 0
        ended = os.pidfd_open(process.pid)
        while not select.select([ended], [], [], INTERVAL)[0]:
            now, most = _memory(process.pid)
            private, peak = max(private, now), max(peak, most)
        seconds = time.perf_counter() - began
        os.close(ended)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        output = said.read()
    if process.returncode:
        text = output.decode(errors="replace")
        raise RuntimeError(f"{' '.join(map(str, command))}: exit status {process.returncode}\n{text}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, private, peak, output)


def _memory(pid: int) -> tuple[int, int]:
    """A process's anonymous memory that is resident now, and the most of all that was (VmHWM); 0 if it has ended."""
    found = {"RssAnon": 0, "VmHWM": 0}
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in found:
                found[name] = int(value.split()[0]) << 10
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found["RssAnon"], found["VmHWM"]


@dataclass(frozen=True)
class Series:
    """Runs of one command."""

    runs: tuple[Run, ...]

    @property
    def seconds(self) -> float:
        """The median."""
        return median(each.seconds for each in self.runs)

    @property
    def cpu(self) -> float:
        """The median of CPU seconds."""
        return median(each.cpu for each in self.runs)

    @property
    def private(self) -> int:
        """The largest of all runs."""
        return max(each.private for each in self.runs)

    @property
    def peak(self) -> int:
        """The largest of all runs."""
        return max(each.peak for each in self.runs)

    def spread(self) -> str:
        """ "0.52 (0.50-0.61)"."""
        times = [each.seconds for each in self.runs]
        return f"{self.seconds:.2f} ({min(times):.2f}-{max(times):.2f})"


def machine() -> str:
    """CPUs, memory and load of this machine, in a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "unknown CPU")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    cpus = len(os.sched_getaffinity(0))
    return f"{cpus} CPUs ({model}), {memory:.0f} GiB, load {os.getloadavg()[0]:.2f}, Linux {os.uname().release}"
