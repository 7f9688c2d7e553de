"""Crash a virtual twin of this machine: its kernel, its capture image, its configuration.

Boots the running kernel under QEMU with this machine's reservation (by UEFI if this machine booted by UEFI and OVMF
is installed), crashes it, lets the capture kernel save as kdump.toml says (to the twin's disk instead of the
targets), verifies the dump and makes a report. Lists what this proved and what only the real machine can prove.
`kdump estimate` uses the measured memory. This machine is not at risk. Exit status 3 if the twin did not leave a
complete dump.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

from kdump.cli import values
from kdump.host import config, in_force
from kdump.host.home import STATE, settled
from kdump.units import duration_text, parse_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--memory",
        type=values.size(128 << 20, 1 << 40),
        metavar="SIZE",
        help="memory of the twin (default: chosen by the reservation)",
    )
    parser.add_argument("--crashkernel", metavar="SIZE", help="reservation of the twin (default: this machine's)")
    parser.add_argument("--kernel", type=Path, help="kernel to crash (default: the configured or the running one)")
    parser.add_argument("--output", type=Path, default=STATE / "rehearsals", metavar="DIR",
                        help="parent directory for the results (default: %(default)s)")  # fmt: skip
    parser.add_argument("--timeout", type=values.duration(1, 86400), default="3min", metavar="TIME",
                        help="limit for each phase and each stage of the capture (default: %(default)s)")  # fmt: skip
    parser.add_argument("--accelerator", default="", metavar="NAME", help="kvm or tcg (default: what works)")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"configuration (default: {config.CONFIG_PATH})")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Rehearse; returns the exit status."""
    import time

    from kdump.host import expected, plan, rehearsed
    from kdump.image.kernel_tree import tree_of
    from kdump.kexec.state import read_state
    from kdump.lab import demo, rehearsal

    def say(text: str) -> None:
        print(f"kdump rehearse: {text}", file=sys.stderr if args.json else sys.stdout, flush=True)

    settled()
    wanted = in_force.load(args.config)
    prepared = plan.prepare(wanted, tree_of(args.kernel) if args.kernel else None)
    reserved = read_state().reserved or expected.wanted(wanted).size
    crashkernel = args.crashkernel or f"{reserved >> 20}M"
    memory = args.memory or rehearsal.twin_memory(parse_size(crashkernel))
    uefi = rehearsal.started_by_uefi()
    firmware = rehearsal.uefi_image() if uefi else None
    twin = rehearsal.scenario(
        wanted, prepared, crashkernel, memory, args.timeout, accelerator=args.accelerator, firmware=firmware
    )
    began = time.monotonic()
    outcome = rehearsal.rehearse(twin, prepared, demo.results_directory(args.output, twin), say, uefi=uefi)
    rehearsed.record(outcome.rehearsal, STATE)
    if args.json:
        result = asdict(outcome.rehearsal) | {"unproved": outcome.unproved, "problem": outcome.problem}
        print(json.dumps(result | {"directory": str(outcome.directory)}, indent=1))
        return 0 if outcome.rehearsal.passed else 3
    print(f"\n{'passed' if outcome.rehearsal.passed else 'FAILED'} in {duration_text(time.monotonic() - began)}")
    if outcome.problem:
        print(f"  {outcome.problem}")
    for title, facts in (("proved", outcome.proved), ("only the real machine can prove", outcome.unproved)):
        if facts:
            print(f"{title}:")
            print("\n".join(_wrapped(fact) for fact in facts))
    print(f"everything is in {outcome.directory}")
    return 0 if outcome.rehearsal.passed else 3


def _wrapped(fact: str) -> str:
    return textwrap.fill(
        fact, 80, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
