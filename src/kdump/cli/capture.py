"""Save the memory of the kernel that crashed. Runs in the capture kernel.

The capture image runs this command by itself. Run from a shell of the capture kernel, it does the same without the
final action. A plan (made by `kdump build`) says where and how to save; --to names another target.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kdump.errors import KdumpError

_OUTCOME = {0: 0, 1: 1, 3: 3, 70: 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--plan", default="/etc/kdump/plan.json", metavar="FILE", help="the capture plan")
    parser.add_argument(
        "--to", metavar="URL", action="append", help="target, instead of those of the plan (repeatable)"
    )
    parser.add_argument("--source", default="/proc/vmcore", metavar="FILE", help="the dead kernel's memory")


def run(args: argparse.Namespace) -> int:
    """Save once; the exit status tells complete (0), degraded (3) and incomplete (1)."""
    from dataclasses import replace

    from kdump.capture.console import Console
    from kdump.capture.plan import CapturePlan, load_plan
    from kdump.capture.worker import work
    from kdump.targets.protocol import Spec

    if not Path(args.source).exists():
        raise KdumpError(
            f"{args.source} does not exist",
            why="this kernel was not started by a crash" if args.source == "/proc/vmcore" else "",
            remedy="`kdump status` says whether this machine is ready; `kdump rehearse` tries it",
        )
    plan = CapturePlan() if args.to and not Path(args.plan).exists() else load_plan(args.plan)
    if args.to:
        plan = replace(plan, targets=tuple(Spec(url) for url in args.to))
    return _OUTCOME[work(plan, Console(), source=args.source)]
