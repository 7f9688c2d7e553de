"""Print the kernel log of a dump or of /proc/vmcore, with vmcore-dmesg's command line."""

from __future__ import annotations

import argparse

from kdump.cli import dropins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("vmcore", help="a dump, or /proc/vmcore")


def run(args: argparse.Namespace) -> int:
    """Print the log; exit status 0 also if some of it could not be read, which is said."""
    status = dropins.call(["dmesg", args.vmcore])
    return 0 if status == 3 else status
