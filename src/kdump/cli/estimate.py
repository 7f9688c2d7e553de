"""Say how much memory to reserve for the capture kernel, or explain a crashkernel= value.

The proposal is the memory that captures and rehearsals on this machine used, plus a margin. Before the first
measurement it is a formula. With VALUE ("2G-64G:256M,64G-:512M", "512M,high 128M,low" …) the command explains the
value and says what this kernel makes of it on this machine. --shrink returns the excess of the reservation until the
next boot.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

from kdump.cli import values
from kdump.errors import UsageError
from kdump.host import config, crashkernel, expected, in_force, reservation
from kdump.kexec.state import read_state
from kdump.units import size_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("value", nargs="?", metavar="VALUE", help="a crashkernel= value to explain")
    parser.add_argument(
        "--ram",
        type=values.size(1 << 20, 1 << 52),
        metavar="SIZE",
        help="explain VALUE for a machine with this much RAM",
    )
    parser.add_argument("--shrink", type=values.size(), metavar="SIZE", help="return the reserved memory beyond SIZE")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"configuration (default: {config.CONFIG_PATH})")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Estimate, explain or shrink; returns the exit status."""
    if args.ram is not None and args.value is None:
        raise UsageError("--ram needs a value to explain", remedy="name one, such as 2G-64G:256M,64G-:512M")
    if args.shrink is not None and args.value is not None:
        raise UsageError("--shrink goes with no value to explain", remedy="leave out --shrink, or the value")
    if args.shrink is not None:
        left = reservation.shrink(args.shrink)
        print(json.dumps({"reserved": left}) if args.json else f"{size_text(left)} reserved now, until the next boot")
        return 0
    if args.value is not None:
        return explain(args.value, args.ram, as_json=args.json)
    configured = in_force.load(args.config)
    wanted = expected.wanted(configured)
    movable = expected.movable(wanted, configured, crashkernel.Rules.of(os.uname().release))
    reserved = read_state().reserved
    ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    others = expected.distributions(ram)
    if args.json:
        result = asdict(wanted) | {
            "value": wanted.value,
            "movable": movable,
            "reserved": reserved,
            "distributions": others,
        }
        print(json.dumps(result, indent=1))
        return 0
    print(f"reserve {size_text(wanted.size)}: crashkernel={wanted.value} (by {wanted.reason})\n")
    for name, size in wanted.parts:
        print(f"  {size_text(size):>9}  {name}")
    if movable:
        print(f'\n  [crashkernel] value = "{movable}" lets the running system use the last part;')
        print("  the kernel waits 10 s after a panic, and the dump lacks what user space had there")
    print(f"\n{size_text(reserved):>11}  reserved now")
    for name, size in others.items():
        print(f"{size_text(size):>11}  {name}'s default here")
    return 0


def explain(values: str, ram: int | None, *, as_json: bool) -> int:
    """The combined meaning of values separated by blanks ("512M,high 128M,low"), and the result."""
    parameters = crashkernel.parameters(values.replace(crashkernel.NAME, ""))
    memory = ((crashkernel.MIB, ram),) if ram else reservation.system_ram()
    rules = crashkernel.Rules.of(os.uname().release)
    asked = [crashkernel.explained(parameter.removeprefix(crashkernel.NAME), rules) for parameter in parameters]
    outcome = crashkernel.evaluate(" ".join(parameters), memory, rules)
    if as_json:
        print(json.dumps({"asked": "; ".join(asked), "outcome": asdict(outcome)}, indent=1))
    else:
        for each in asked:
            print(f"asks for  {each}")
        for step in outcome.steps:
            print(f"          {step}")
        print(f"reserves  {result_text(outcome)}")
    return 0 if outcome.size else 3


def result_text(outcome: crashkernel.Outcome) -> str:
    """The outcome in words."""
    if outcome.why:
        return f"nothing: {outcome.why}"
    text = f"{size_text(outcome.size)} " + ("above 4 GiB" if outcome.above_4g else "below 4 GiB")
    if outcome.low:
        text += f", and {size_text(outcome.low)} below"
    return text + (f", and {size_text(outcome.cma)} movable" if outcome.cma else "")
