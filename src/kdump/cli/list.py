"""List the crashes stored on this machine: time, state, size, signature, cause.

Crashes with the same signature have the same cause, as far as a program can tell.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from kdump.display import shown
from kdump.errors import KdumpError
from kdump.host import config, in_force, stored
from kdump.units import size_text

WIDTH = 79


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "directory", nargs="*", type=Path,
        help="a directory of crashes, or of one crash (default: the configured file targets)",
    )  # fmt: skip
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"configuration (default: {config.CONFIG_PATH})")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the list; returns the exit status."""
    places = args.directory or stored.directories(in_force.load(args.config))
    problems: list[KdumpError] = []
    crashes = (stored.named if args.directory else stored.scan)(places, problems.append)
    for problem in problems:
        print(f"kdump list: {problem}", file=sys.stderr)
    status = 1 if problems else 0
    if args.json:
        print(json.dumps([asdict(crash) | {"path": str(crash.path)} for crash in crashes], indent=1))
        return status
    if not crashes and not problems:
        print(
            "no crashes in " + ", ".join(map(shown, places)) if places else "no target is a directory of this machine"
        )
    for crash in crashes:
        print("\n".join(lines(crash)))
    return status


def lines(crash: stored.Crash) -> list[str]:
    """A crash as two or three lines."""
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(crash.when)) if crash.when else "date not known"
    head = f"{when:<23}  {crash.status:<11} {size_text(crash.size):>8}  {crash.signature or '-'}"
    release = f"kernel {crash.release}" if crash.release else ""
    what = ", ".join(filter(None, (crash.title[: WIDTH - len(release) - 4], release)))
    foreign = f"FOREIGN: {crash.foreign}; it is not reported on, announced or pruned" if crash.foreign else ""
    return [shown(head), *(f"  {shown(line)}" for line in (what, crash.problem, foreign, str(crash.path)) if line)]
