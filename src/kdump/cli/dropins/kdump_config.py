"""The verbs of Debian's and Ubuntu's kdump-config, for scripts. Exit status 1: not ready, as there.

show, status, load, unload, reload, try-reload, test and propagate do the same as there, with kdump's own means.
savecore and symlinks are refused: kdump saves from the capture kernel and keeps no links.
"""

from __future__ import annotations

import argparse
from typing import Final

from kdump.cli import dropins

VERBS: Final = {
    "show": "the configuration and the state",
    "status": "ready to kdump or not",
    "load": "build what is missing or stale, and load it",
    "unload": "unload the capture kernel",
    "reload": "unload, then load",
    "try-reload": "load again if something is loaded",
    "test": "say what would be loaded; load nothing",
    "propagate": "put the SSH key on the targets' servers",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help=", ".join(VERBS))
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="passed on (propagate)")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status that kdump-config would have."""
    if args.verb == "propagate":
        return dropins.call(["propagate", *args.rest])
    dropins.refuse_rest(args.verb, args.rest)
    if args.verb in ("show", "status"):
        return _show(whole=args.verb == "show")
    if args.verb == "test":
        return _status(dropins.call(["load", "--explain"]))
    if args.verb == "try-reload":
        from kdump.kexec.state import read_state

        if not read_state().crash_loaded:
            return 0
    if args.verb in ("unload", "reload") and (status := dropins.call(["unload"])):
        print("failed to unload kdump kernel")
        return _status(status)
    if args.verb == "unload":
        print("unloaded kdump kernel.")
        return 0
    status = _status(dropins.call(["build", "--if-stale", "--load"]))
    print("failed to load kdump kernel" if status else "loaded kdump kernel.")
    return status


def _show(*, whole: bool) -> int:
    from kdump.host import in_force
    from kdump.kexec.state import read_state

    ready = dropins.operational()
    if whole:
        wanted, state = in_force.load(), read_state()
        print("DUMP_MODE:        kdump\nUSE_KDUMP:        1")
        for url in wanted.targets:
            print(f"KDUMP_COREDIR:    {url.removeprefix('file://')}")
        print(f"crashkernel:      {state.reserved >> 20}M reserved")
    print(f"current state:    {'ready to kdump' if ready else 'Not ready to kdump'}")
    return 0 if ready else 1


def _status(status: int) -> int:
    return 0 if status in (0, 3) else 1
