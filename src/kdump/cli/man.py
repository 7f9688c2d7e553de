"""Print or install the manual pages, which contain the texts of --help.

Prints the page of COMMAND (without one, kdump(8)) as roff: `kdump man status | man -l -`. --install puts all pages,
kdump.toml(5) and the shells' completions below /usr/local/share or another DIR. `kdump setup` does this.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kdump.cli.parsers import pages
from kdump.cli.roff import manual, overview
from kdump.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="command whose page is printed")
    place: dict[str, Any] = {"nargs": "?", "type": Path, "const": Path("/usr/local/share"), "metavar": "DIR"}
    parser.add_argument("--install", help="put pages and completions below DIR", **place)
    parser.add_argument("--remove", help="remove what --install put below DIR", **place)


def run(args: argparse.Namespace) -> int:
    """Print, install or remove; returns the exit status."""
    if args.install or args.remove:
        from kdump.cli import share

        if args.install:
            print(f"{share.write(args.install)} files written below {args.install}")
        if args.remove:
            print(f"{share.remove(args.remove)} files removed below {args.remove}")
        return 0
    known = {page.command.name: page for page in pages()}
    if args.command and args.command not in known:
        raise UsageError(f"there is no command {args.command!r}", remedy="`kdump --help` lists the commands")
    print(manual(known[args.command]) if args.command else overview(known.values()), end="")
    return 0
