"""Crash a real kernel in a virtual machine and show the report.

Fetches a Debian kernel (or takes yours), builds a capture image, boots a virtual machine that reserves memory and
loads the image, and crashes that machine. The capture kernel saves the dump, and the command shows the report.
Nothing on this machine changes. The results stay in a directory whose name is printed at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from kdump.cli import values
from kdump.lab import kernels
from kdump.lab.causes import CAUSES, find_cause


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `kdump demo`."""
    parser.add_argument(
        "--kernel", default="", metavar="WHICH",
        help="a Debian series or package, a release in /boot, or a path (default: 6.1; 6.12 with --arch)",
    )  # fmt: skip
    parser.add_argument(
        "--arch", metavar="MACHINE", type=values.architecture,
        help="architecture, as uname -m prints it; takes a Debian kernel (default: this machine's)",
    )  # fmt: skip
    parser.add_argument(
        "--memory",
        type=values.size(128 << 20, 1 << 40),
        default="1G",
        metavar="SIZE",
        help="of the machine (default: %(default)s)",
    )
    parser.add_argument(
        "--cpus", type=values.number(1, 255), default=2, metavar="N", help="of the machine (default: %(default)s)"
    )
    parser.add_argument(
        "--cause", default="sysrq", choices=[cause.name for cause in CAUSES],
        help="; ".join(f"{cause.name}: {cause.summary}" for cause in CAUSES) + " (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--crashkernel", metavar="SIZE",
        help="reservation (default: 256M, or 192M below 1G)",
    )  # fmt: skip
    parser.add_argument("--cpu", default="", metavar="MODEL", help="QEMU's CPU model (default: the most capable one)")
    parser.add_argument("--accelerator", default="", metavar="NAME", help="kvm or tcg (default: what works)")
    parser.add_argument(
        "--cmdline", default="", metavar="OPTIONS", help="options to add to the command line of the kernel that crashes"
    )
    parser.add_argument("--output", type=Path, default=Path("kdump-demo"), metavar="DIR",
                        help="parent directory for the results (default: %(default)s)")  # fmt: skip
    parser.add_argument("--keep-disk", action="store_true", help="keep the machine's disk, too")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON instead of the report")


def run(args: argparse.Namespace) -> int:
    """Run the demonstration."""
    from kdump.lab import demo
    from kdump.lab.crash import GIB, Scenario

    def say(text: str) -> None:
        print(f"kdump demo: {text}", file=sys.stderr if args.json else sys.stdout, flush=True)

    machine: str = args.arch or ""
    say(f"looking for the kernel {args.kernel or kernels.default(machine)}")
    tree = kernels.find(args.kernel or kernels.default(machine), machine)
    say(f"the kernel is {tree.release}")
    memory: int = args.memory
    scenario = Scenario(
        tree,
        find_cause(args.cause),
        memory=memory,
        cpus=args.cpus,
        cpu=args.cpu,
        crashkernel=args.crashkernel or ("256M" if memory >= GIB else "192M"),
        cmdline=args.cmdline,
        accelerator=args.accelerator,
    )
    directory = demo.results_directory(args.output, scenario)
    result = demo.run(scenario, directory, say, keep_disk=args.keep_disk)
    if args.json:
        print(json.dumps(result.summary, indent=1, default=str))
        return 0
    print()
    print(result.report)
    print("Timeline, seconds after the panic:")
    print("\n".join(demo.timeline_lines(result)))
    print("Figures:")
    print("\n".join(demo.figures(result)))
    print(f"Everything is in {result.directory}. Go on with:")
    kdump = sys.argv[0] if Path(sys.argv[0]).name == "kdump" else "kdump"
    for command in ("report", "shell --crash"):
        print(f"  {kdump} {command} {result.summary['crash']}")
    return 0
