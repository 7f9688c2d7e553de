"""Let an AI assistant read crashes: a Model Context Protocol server on standard input and output.

The assistant's program starts it (`{"command": "kdump", "args": ["mcp"]}`). It can list the stored crashes, read
reports, sections and logs, search, compare, and use crash(8)'s commands that look; it can change nothing. Each request
runs in a child with limits of memory, CPU and time. Whoever can talk to the server can read all of the dumps.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kdump.extras import extra
from kdump.host import config, in_force


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "directory", nargs="*", type=Path, help="where crashes are (default: the directories of the file targets)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"configuration (default: {config.CONFIG_PATH})")


def run(args: argparse.Namespace) -> int:
    """Serve until the client leaves."""
    with extra("mcp", "kdump mcp"):
        from kdump.assist.server import Crashes, build
    from kdump.host import stored

    places = args.directory or stored.directories(in_force.load(args.config))
    build(Crashes(places)).run("stdio")
    return 0
