"""Ours against makedumpfile: same file, same codec, warm cache, output to the same disk; whole processes.

`kdump makedumpfile` does what makedumpfile does; `kdump save` also computes SHA-256 and waits until all is on the disk.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Run, Series, run

_PROCESS = 1 << 27  # bytes: more than one of these processes takes
_MADV_POPULATE_WRITE = 23  # include/uapi/asm-generic/mman-common.h, Linux 5.14
NAMES = {"-z": "zstd", "-c": "zlib", "-l": "lzo", "-p": "snappy"}


@dataclass(frozen=True)
class Row:
    """A line of the table: codec option, dump level, and the ratio aimed at; `large` from 16 GB of memory on."""

    codec: str
    level: int
    aim: float
    large: float | None = None

    def of(self, vmcore: int) -> float:
        """The aim for a vmcore of so many bytes."""
        return self.large if self.large and vmcore >= 16 * 10**9 else self.aim


ROWS = (
    Row("-z", 31, 0.8, 0.6), Row("-z", 1, 0.55), Row("-c", 31, 0.3), Row("-c", 1, 0.3),
    Row("-l", 31, 1.0), Row("-l", 1, 0.7), Row("-p", 31, 1.0), Row("-p", 1, 0.7),
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """All sides of a row: `kdump makedumpfile`, `kdump save`, and the best of makedumpfile's thread settings."""

    row: Row
    aim: float
    ours: Series
    save: Series
    theirs: Series
    threads: int
    our_size: int
    their_size: int


def compare(vmcore: Path, makedumpfile: Path, rows: Sequence[Row], repeat: int, scratch: Path) -> Iterator[Result]:
    """Measure each row `repeat` times, the tools by turns."""
    ours, theirs = scratch / "kdump.out", scratch / "makedumpfile.out"
    warm(vmcore)
    kdump = [sys.executable, "-m", "kdump"]
    for row in rows:
        ours_runs, save_runs = [], []
        their_runs: dict[int, list[Run]] = {0: [], 2: []}
        options = [row.codec, "-d", str(row.level)]
        ours.unlink(missing_ok=True)
        run([*kdump, "save", *options, vmcore, ours])  # not measured: how much will be written
        size = ours.stat().st_size
        for _ in range(repeat):
            ours.unlink(missing_ok=True)
            save_runs.append(_run([*kdump, "save", *options, vmcore, ours], size))
            ours.unlink()
            quiet = ["--message-level", "0"]
            ours_runs.append(_run([*kdump, "makedumpfile", *quiet, *options, vmcore, ours], size))
            for threads, runs in their_runs.items():
                theirs.unlink(missing_ok=True)
                extra = ["--num-threads", str(threads)] if threads else []
                runs.append(_run([makedumpfile, *quiet, *options, *extra, vmcore, theirs], size))
        series = {threads: Series(tuple(runs)) for threads, runs in their_runs.items()}
        best = min(series, key=lambda threads: series[threads].seconds)
        sizes = ours.stat().st_size, theirs.stat().st_size
        yield Result(
            row, row.of(vmcore.stat().st_size), Series(tuple(ours_runs)), Series(tuple(save_runs)), series[best], best,
            *sizes,
        )  # fmt: skip
    for path in (ours, theirs, ours.with_name(f"{ours.name}.manifest.json")):
        path.unlink(missing_ok=True)


def _run(command: Sequence[str | Path], size: int) -> Run:
    """Run a command that writes about `size` bytes, with nothing left to be done from before, at its cost."""
    os.sync()
    # A virtual machine's host may have taken back free memory, and is slow to give it again: have there what is needed.
    # Not more, as what is free in the end is taken back while the command runs.
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # not what the page cache holds
    with mmap.mmap(-1, min(size + _PROCESS, free // 2), flags=mmap.MAP_PRIVATE) as memory, contextlib.suppress(OSError):
        memory.madvise(_MADV_POPULATE_WRITE)
    return run(command)


def usable(makedumpfile: Path, rows: Sequence[Row]) -> list[Row]:
    """The rows whose codec this makedumpfile was built with: without it the option is silently ignored."""
    import subprocess

    text = subprocess.run([makedumpfile, "--help"], capture_output=True, text=True, check=False).stdout.lower()
    built = {"-c": True}
    for option, name in NAMES.items():
        if option != "-c":
            place = text.find(f"{name} support:")
            built[option] = place >= 0 and "enabled" in text[place : place + 60]
    return [row for row in rows if built[row.codec]]


def warm(path: Path) -> None:
    """Read a file into the page cache."""
    with path.open("rb", buffering=0) as stream:
        while stream.read(1 << 24):
            pass


HEAD = f"{'':<8}{'kdump s':>17}{'makedumpfile s':>20}{'ratio':>6}{'aim':>5}{'CPU':>6}{'size':>6}{'MiB':>4}{'save':>6}"


def line(result: Result) -> str:
    """A line of the table, 80 columns: medians with their spread, ratios of seconds, of CPU seconds, of sizes; private
    memory; and the ratio of seconds of `kdump save`.
    """
    ours, theirs = result.ours, result.theirs
    name = f"{result.row.codec} -d {result.row.level}"
    threads = f" {result.threads}t" if result.threads else ""
    return (
        f"{name:<8}{ours.spread():>17}{theirs.spread() + threads:>20}{ours.seconds / theirs.seconds:>6.2f}"
        f"{result.aim:>5}{ours.cpu / theirs.cpu:>6.2f}{result.our_size / result.their_size:>6.3f}"
        f"{ours.private / (1 << 20):>4.0f}{result.save.seconds / theirs.seconds:>6.2f}"
    )
