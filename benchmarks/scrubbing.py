"""What it costs to leave secrets out of a dump: `kdump save -d 31` with and without `--scrub`, by turns."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.filtering import warm
from benchmarks.measure import Run, Series, run

AIM = 1.05
KINDS = "keys,keyrings,tls,wireguard,passwords-in-cmdline"  # the page cache is left out at level 31 anyway
HEAD = (
    f"{'':<16} {'plain s (spread)':>20} {'scrubbed s (spread)':>20} {'ratio':>6} {'CPU s':>6} {'ratio':>6} {'aim':>5}"
)


def measure(vmcore: Path, repeat: int, scratch: Path) -> Iterator[str]:
    """The lines of the table."""
    warm(vmcore)
    out = scratch / "scrub.out"
    runs: dict[str, list[Run]] = {"": [], KINDS: []}
    for _ in range(repeat + 1):
        for kinds, each in runs.items():
            out.unlink(missing_ok=True)
            options = ["--scrub", kinds] if kinds else []
            each.append(run([sys.executable, "-m", "kdump", "save", "-d", "31", *options, vmcore, out]))
    out.unlink()
    plain, scrubbed = (Series(tuple(each[1:])) for each in runs.values())  # the first warms up
    ratios = scrubbed.seconds / plain.seconds, scrubbed.cpu / plain.cpu
    yield (
        f"{'save -d 31':<16} {plain.spread():>20} {scrubbed.spread():>20} {ratios[0]:>6.2f} {scrubbed.cpu:>6.2f}"
        f" {ratios[1]:>6.2f} {AIM:>5}"
    )
