"""Load the capture kernel and its image into the reservation.

The command line is made from the running kernel's; --explain says what would be loaded and why, and loads nothing.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

from kdump.kexec.cmdline import CommandLine, Decision, capture_command_line, running_command_line
from kdump.units import duration_text, size_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `kdump load`."""
    parser.add_argument("--kernel", type=Path, help="kernel to load (default: the running one's, in /boot)")
    parser.add_argument("--image", type=Path, required=True, help="capture image (initramfs)")
    parser.add_argument("--command-line", help="the whole command line, instead of one made from the running kernel's")
    parser.add_argument("--append", default="", metavar="OPTIONS", help="options to add to the command line")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs of the capture kernel (default 1)")
    parser.add_argument("--explain", action="store_true", help="say what would be loaded and why; load nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Load, or explain."""
    kernel: Path = args.kernel or Path(f"/boot/vmlinuz-{os.uname().release}")
    if args.command_line is not None:
        line = CommandLine(args.command_line, (Decision(args.command_line, "appended", "given whole"),))
    else:
        line = capture_command_line(running_command_line(), append=args.append, cpus=args.cpus)
    if args.explain:
        _explain(line, as_json=args.json)
        return 0
    from kdump.kexec.load import load

    result = load(kernel, args.image, line.text)
    if args.json:
        print(json.dumps(asdict(result), indent=1))
    else:
        print(
            f"loaded {kernel} ({size_text(result.kernel_size)}) and {args.image} ({size_text(result.initrd_size)}) "
            f"in {duration_text(result.seconds)}"
        )
    return 0


def _explain(line: CommandLine, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"cmdline": line.text, "options": [d._asdict() for d in line.decisions]}, indent=1))
        return
    print(f"command line: {line.text}\n")
    width = max((len(decision.option) for decision in line.decisions), default=0)
    for decision in line.decisions:
        print(f"  {decision.action:<8} {decision.option:<{min(width, 34)}} {decision.reason}")
