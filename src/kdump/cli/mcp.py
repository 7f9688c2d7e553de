"""Let an AI assistant read crashes: a Model Context Protocol server on standard input and output.

The assistant's program starts the server (`{"command": "kdump", "args": ["mcp"]}`). It can list the stored crashes,
read reports, sections and logs, search, compare, and use those commands of crash(8) that only read. It can change
nothing. Each request runs in a child process with limits of memory, CPU and time. Anyone who can talk to the server
can read all of the dumps.

With --fleet it reads from a collector: groups, hosts, kernels, reports and logs, as far as the token's role allows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kdump.cli import values
from kdump.errors import KdumpError, UsageError
from kdump.extras import extra
from kdump.host import config, in_force


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "directory",
        nargs="*",
        type=Path,
        help="directories of crashes, or of one crash (default: those of the file targets)",
    )
    parser.add_argument(
        "--fleet", type=values.web_address, metavar="URL", help="read from this collector instead of directories"
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file (mode 0600) with the output of `kdump fleet token --reader ROLE NAME`",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"configuration (default: {config.CONFIG_PATH})")


def run(args: argparse.Namespace) -> int:
    """Serve until the client leaves."""
    if args.fleet:
        return _fleet(args)
    if args.token_file:
        raise UsageError("--token-file goes with --fleet")
    with extra("mcp", "kdump mcp"):
        from kdump.assist.server import Crashes, build
    from kdump.host import stored

    for place in args.directory:
        if not place.is_dir():
            raise KdumpError(f"{place}: no such directory")
    places = args.directory or stored.directories(in_force.load(args.config))
    build(Crashes(places)).run("stdio")
    return 0


def _fleet(args: argparse.Namespace) -> int:
    if args.config:
        raise UsageError("--fleet reads a collector, not what a configuration names")
    if args.directory:
        raise UsageError("--fleet reads a collector, not directories")
    with extra("mcp", "kdump mcp"):
        from kdump.assist.fleet import Fleet, build
    from kdump.targets.collector import read_token

    token = read_token(str(args.token_file)) if args.token_file else ""
    build(Fleet(args.fleet, token)).run("stdio")
    return 0
