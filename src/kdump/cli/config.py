"""Show, check or import the configuration.

`kdump config show` prints what is in force, `--template` the documented file with its defaults. `kdump config check`
reads a file and says what is wrong with it, with lines; exit status 1 if anything is. `kdump config import` reads what
another kdump was configured with (Fedora and RHEL's /etc/kdump.conf and /etc/sysconfig/kdump, Debian's
/etc/default/kdump-tools, SUSE's /etc/sysconfig/kdump), prints a kdump.toml that says the same, and lists what has no
equivalent (exit status 3 then). The foreign files are read as data; nothing in them is run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from kdump.host import config, template


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="show|check|import")
    show = actions.add_parser("show", help="print the configuration in force")
    show.add_argument("--template", action="store_true", help="print the documented file with its defaults instead")
    show.add_argument("--json", action="store_true", help="print JSON (sizes in bytes, durations in seconds)")
    show.add_argument("file", nargs="?", type=Path, help=f"file to read (default: {config.CONFIG_PATH})")
    check = actions.add_parser("check", help="read a file and say what is wrong with it")
    check.add_argument("file", nargs="?", type=Path, help=f"file to read (default: {config.CONFIG_PATH})")
    foreign = actions.add_parser("import", help="print a kdump.toml that says what another kdump's files say")
    foreign.add_argument("files", nargs="*", type=Path, help="files to read (default: those that this machine has)")
    foreign.add_argument("--json", action="store_true", help="print JSON: the values, what was carried, what was lost")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if args.action == "show" and args.template:
        print(template.render(), end="")
        return 0
    if args.action == "import":
        return carry_over(args.files, as_json=args.json)
    found = config.load(args.file)
    if args.action == "show":
        print(json.dumps(config.to_dict(found), indent=2) if args.json else template.render(found), end="")
        return 0
    path = args.file or config.CONFIG_PATH
    print(f"{path}: good" if path.exists() else f"{path} does not exist: the defaults are in force, and good")
    return 0


def carry_over(files: list[Path], *, as_json: bool) -> int:
    """Import; exit status 3 if something has no equivalent."""
    from kdump.host.importers import detect

    draft = detect.read(files or detect.detect())
    wanted = draft.config()
    if as_json:
        content = {"config": draft.values, "carried": draft.carried, "lost": draft.lost}
        print(json.dumps(content, indent=1))
        return 3 if draft.lost else 0
    print(template.render(wanted), end="")
    for origin, ours in draft.carried:
        print(f"carried  {origin}\n         {ours}", file=sys.stderr)
    for origin, why in draft.lost:
        print(f"LOST     {origin}\n         {why}", file=sys.stderr)
    return 3 if draft.lost else 0
