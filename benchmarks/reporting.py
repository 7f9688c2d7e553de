"""What a report costs, against `crash` with the debug vmlinux on the same dump."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Series, run

KDUMP = (sys.executable, "-m", "kdump")
COMMANDS = "bt\nps\nlog\nkmem -i\nquit\n"


@dataclass(frozen=True)
class Row:
    """One way to ask: options of `kdump report`, and the issue's bounds: seconds, and times faster than crash."""

    name: str
    options: tuple[str, ...]
    seconds: float


ROWS = (
    Row("signature", ("--signature",), 0.6),
    Row("verdict, short", ("--short",), 0.6),
    Row("full report", (), 2.0),
    Row("page", ("--html",), 2.0),
)
HEAD = f"{'':<26}{'seconds':>18}{'aim':>6}{'CPU':>7}{'peak':>10}{'crash takes':>13}"


def reduce(vmcore: Path, scratch: Path) -> Path:
    """The dump at level 31, as a capture kernel leaves it."""
    output = scratch / "report.vmcore"
    run([*KDUMP, "save", "-d", "31", vmcore, output])
    return output


def measure(vmcore: Path, vmlinux: Path | None, crash: str, repeat: int, scratch: Path) -> Iterator[str]:
    """Lines of the table; without a vmlinux (or crash) nothing is compared."""
    script = scratch / "commands"
    script.write_text(COMMANDS)
    theirs = _series([crash, "-s", "-i", str(script), str(vmlinux), str(vmcore)], repeat) if vmlinux else None
    if theirs:
        yield _line("crash: bt, ps, log, kmem", theirs, None, theirs)
    for row in ROWS:
        yield _line(f"kdump: {row.name}", _series([*KDUMP, "report", *row.options, vmcore], repeat), row, theirs)
    log = scratch / "log.txt"
    log.write_bytes(run([*KDUMP, "dmesg", vmcore]).output)
    yield _line("kdump: signature of a log", _series([*KDUMP, "report", "--signature", log], repeat), ROWS[0], theirs)


def cost(name: str, spent: Series) -> str:
    """A line of the table for a tool that nothing is compared with."""
    return _line(name, spent, None, None)


def _series(command: Sequence[str | Path], repeat: int) -> Series:
    run(command)  # brings the dump and the programs into the page cache
    return Series(tuple(run(command) for _ in range(repeat)))


def _line(name: str, ours: Series, row: Row | None, theirs: Series | None) -> str:
    aim = f"{row.seconds:.1f}" if row else ""
    times = f"{theirs.seconds / ours.seconds:.1f} times" if theirs and row else ""
    return f"{name:<26}{ours.spread():>18}{aim:>6}{ours.cpu:>7.2f}{ours.peak / (1 << 20):>6.0f} MiB{times:>13}"
