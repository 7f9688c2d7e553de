"""kdump save against makedumpfile: same file, same codec, warm cache, output to the same disk; whole processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Run, Series, run

NAMES = {"-z": "zstd", "-c": "zlib", "-l": "lzo", "-p": "snappy"}


@dataclass(frozen=True)
class Row:
    """A line of the table: codec option, dump level, and the ratio that is aimed at."""

    codec: str
    level: int
    aim: float


ROWS = (
    Row("-z", 31, 0.8), Row("-z", 1, 0.55), Row("-c", 31, 0.3), Row("-c", 1, 0.3), Row("-l", 31, 1.0),
    Row("-l", 1, 0.7), Row("-p", 31, 1.0), Row("-p", 1, 0.7),
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """Both sides of a row; `theirs` is the best of makedumpfile's thread settings."""

    row: Row
    ours: Series
    theirs: Series
    threads: int
    our_size: int
    their_size: int


def compare(vmcore: Path, makedumpfile: Path, rows: Sequence[Row], repeat: int, scratch: Path) -> Iterator[Result]:
    """Measure each row `repeat` times, the two tools by turns."""
    ours, theirs = scratch / "kdump.out", scratch / "makedumpfile.out"
    warm(vmcore)
    for row in rows:
        ours_runs = []
        their_runs: dict[int, list[Run]] = {0: [], 2: []}
        for _ in range(repeat):
            ours.unlink(missing_ok=True)
            options = [row.codec, "-d", str(row.level)]
            ours_runs.append(run([sys.executable, "-m", "kdump", "save", *options, "--force", vmcore, ours]))
            for threads, runs in their_runs.items():
                theirs.unlink(missing_ok=True)
                extra = ["--num-threads", str(threads)] if threads else []
                runs.append(run([makedumpfile, "--message-level", "0", *options, *extra, vmcore, theirs]))
        series = {threads: Series(tuple(runs)) for threads, runs in their_runs.items()}
        best = min(series, key=lambda threads: series[threads].seconds)
        yield Result(row, Series(tuple(ours_runs)), series[best], best, ours.stat().st_size, theirs.stat().st_size)
    for path in (ours, theirs, ours.with_name(f"{ours.name}.manifest.json")):
        path.unlink(missing_ok=True)


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


HEAD = f"{'':<9}{'kdump s':>18}{'makedumpfile s':>21}{'ratio':>6}{'aim':>5}{'CPU':>6}{'size':>6}{'private':>8}"


def line(result: Result) -> str:
    """A line of the table, 80 columns: medians with their spread, ratios of seconds, of CPU seconds, of sizes."""
    ours, theirs = result.ours, result.theirs
    name = f"{result.row.codec} -d {result.row.level}"
    threads = f" {result.threads}t" if result.threads else ""
    return (
        f"{name:<9}{ours.spread():>18}{theirs.spread() + threads:>21}{ours.seconds / theirs.seconds:>6.2f}"
        f"{result.row.aim:>5}{ours.cpu / theirs.cpu:>6.2f}{result.our_size / result.their_size:>6.3f}"
        f"{ours.private / (1 << 20):>5.0f}MiB"
    )
