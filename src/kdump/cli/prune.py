"""Delete the stored crashes that retention does not keep.

[retention] in kdump.toml limits number, age and size. The newest crash always stays, and the last one with a
signature is deleted only when nothing else is left to delete. Crashes that kdump did not write are never deleted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from kdump.display import shown
from kdump.errors import KdumpError
from kdump.host import config, in_force, stored
from kdump.units import size_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--dry-run", action="store_true", help="show what would be deleted, delete nothing")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"configuration (default: {config.CONFIG_PATH})")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Apply retention; returns the exit status."""
    gone = []
    problems: list[KdumpError] = []
    for victim in stored.prune(in_force.load(args.config), dry_run=args.dry_run, failed=problems.append):
        gone.append(victim)
        if not args.json:
            verb = "would delete" if args.dry_run else "deleted"
            print(shown(f"{verb} {victim.crash.path} ({size_text(victim.crash.size)}): {victim.reason}"))
    if args.json:
        rows = [
            {
                "path": str(victim.crash.path),
                "size": victim.crash.size,
                "reason": victim.reason,
                "deleted": not args.dry_run,
            }
            for victim in gone
        ]
        print(json.dumps(rows, indent=1))
    elif not gone and not problems:
        print("nothing to delete")
    for problem in problems:
        print(f"kdump prune: {problem}", file=sys.stderr)
    return 1 if problems else 0
