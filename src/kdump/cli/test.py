"""Crash the real machine and check, after the reboot, that it left a dump.

`kdump test --real` asks you to type the machine's name, syncs the disks, and panics. After the reboot, `kdump test`
prints the result; the exit status is 3 without a complete dump. `kdump rehearse` proves most of this without a
crash.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path

from kdump.errors import KdumpError, UsageError
from kdump.host import config, in_force


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--real", action="store_true", help="crash this machine now")
    parser.add_argument("--confirm", metavar="HOSTNAME", help="name of the machine, instead of typing it")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"configuration (default: {config.CONFIG_PATH})")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Crash, or check; returns the exit status."""
    from kdump.host import drill
    from kdump.host.home import settled

    if args.confirm is not None and not args.real:
        raise UsageError("--confirm goes with --real", remedy="`kdump test` alone prints the result of the last test")
    state = settled()
    wanted = in_force.load(args.config)
    if args.real:
        refuse_if_not_ready(wanted)
        confirm(args.confirm)
        drill.begin(state)
        print("crashing now; after the reboot, `kdump test` prints the result", flush=True)
        drill.crash()
        raise KdumpError("the machine did not crash", why="the kernel did not act on SysRq c")
    last = drill.begun(state)
    if last is None:
        raise KdumpError("no test was begun on this machine", remedy="`kdump test --real` crashes it")
    result = drill.check(last, wanted)
    if args.json:
        crash = asdict(result.crash) | {"path": str(result.crash.path)} if result.crash else None
        print(json.dumps({"passed": not result.problem, "problem": result.problem, "crash": crash}, indent=1))
    else:
        print(result.problem or f"passed: {result.crash.path if result.crash else ''}")
    return 3 if result.problem else 0


def refuse_if_not_ready(wanted: config.Config) -> None:
    """A crash that would leave no dump teaches nothing. Raises KdumpError."""
    from kdump.host.readiness import Examination

    if os.geteuid() != 0:
        raise KdumpError("only root may crash the machine", remedy="run it as root")
    found = Examination(wanted).run()
    if not found.ready:
        raise KdumpError(f"kdump is {found.verdict}", remedy="`kdump status` says what to do")


def confirm(given: str | None) -> None:
    """The machine's name must be typed. Raises UsageError if it was not."""
    name = socket.gethostname()
    if given is None:
        if not sys.stdin.isatty():
            raise UsageError("there is no terminal to ask a question on", remedy=f"add --confirm {name}")
        print("This crashes the machine at once: every program on it dies. Dumps are left as kdump.toml says.")
        given = input(f"Type its name ({name}) to go on: ")
    if given.strip() != name:
        raise UsageError("that is not this machine's name; nothing was done")
