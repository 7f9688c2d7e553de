"""The verbs of Fedora's and RHEL's kdumpctl, for scripts. Exit status 3: not operational, as there.

start, restart, reload, stop, rebuild, status, estimate, showmem, get-default-crashkernel, reset-crashkernel, test
and propagate do the same as there, with kdump's own means.
"""

from __future__ import annotations

import argparse
from typing import Final

from kdump.cli import dropins

VERBS: Final = {
    "start": "build what is missing or stale, and load it",
    "stop": "unload the capture kernel",
    "restart": "stop, then start",
    "reload": "load again if something changed",
    "rebuild": "build the capture image",
    "status": "operational or not",
    "estimate": "how much to reserve",
    "showmem": "how much is reserved",
    "get-default-crashkernel": "what crashkernel= should be here",
    "reset-crashkernel": "write that where the boot loader keeps it",
    "test": "crash this machine, and check what it left",
    "propagate": "put the SSH key on the targets' servers",
}
NOT_OPERATIONAL: Final = 3
MIB: Final = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help=", ".join(VERBS))
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="passed on (test, propagate)")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status that kdumpctl would have."""
    if args.verb in ("test", "propagate"):
        return dropins.call([args.verb, *args.rest])
    every = args.verb == "reset-crashkernel" and args.rest == ["--kernel=ALL"]  # which it does anyway
    dropins.refuse_rest(args.verb, () if every else args.rest)
    if args.verb == "status":
        working = dropins.operational()
        print("kdump: Kdump is operational" if working else "kdump: Kdump is not operational")
        return 0 if working else NOT_OPERATIONAL
    if args.verb in ("start", "reload"):
        return _said("Starting kdump", dropins.call(["build", "--if-stale", "--load"]))
    if args.verb == "stop":
        return _said("Stopping kdump", dropins.call(["unload"]))
    if args.verb == "restart":
        stopped = _said("Stopping kdump", dropins.call(["unload"]))
        return stopped or _said("Starting kdump", dropins.call(["build", "--if-stale", "--load"]))
    if args.verb == "rebuild":
        return _said("Rebuilding the capture image", dropins.call(["build"]))
    return _memory(args.verb)


def _memory(verb: str) -> int:
    from kdump.host import expected, in_force
    from kdump.kexec.state import read_state

    wanted = expected.wanted(in_force.load())
    reserved = read_state().reserved // MIB
    if verb == "showmem":
        print(f"kdump: Reserved {reserved}MB memory for crash kernel")
    elif verb == "get-default-crashkernel":
        print(wanted.value)
    elif verb == "estimate":
        print(f"Reserved crashkernel:    {reserved}M\nRecommended crashkernel: {wanted.size // MIB}M\n")
        for name, size in wanted.parts:
            print(f"{name + ':':<40} {size // MIB}M")
    else:
        return dropins.call(["setup", "--yes"])
    return 0


def _said(what: str, status: int) -> int:
    print(f"kdump: {what}: [{'FAILED' if status not in (0, NOT_OPERATIONAL) else 'OK'}]")
    return 0 if status in (0, NOT_OPERATIONAL) else 1
