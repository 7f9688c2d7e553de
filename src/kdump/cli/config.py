"""Show, check or import the configuration.

`kdump config show` prints the configuration in force and where each value comes from; `--template` prints the
documented file with its defaults. Without a kdump.toml, the files of another kdump are in force. `kdump config check`
reads a file and says what is wrong with it, with lines; exit status 1 if anything is. `kdump config import` reads what
another kdump was configured with (Fedora and RHEL's /etc/kdump.conf and /etc/sysconfig/kdump, Debian's
/etc/default/kdump-tools, SUSE's /etc/sysconfig/kdump), prints a kdump.toml that says the same, and lists what has no
equivalent (exit status 3 then). The foreign files are read as data; nothing in them is run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from kdump.host import config, in_force, template


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
    found = in_force.read(args.file)
    if args.action == "show":
        return show(found, as_json=args.json)
    if found.source and not found.foreign:
        print(f"{found.source}: good")
        return 0
    print(f"{config.CONFIG_PATH} does not exist; in force: {found.source or 'the defaults'}")
    told(found.lost)
    return 3 if found.lost else 0


def show(found: in_force.InForce, *, as_json: bool) -> int:
    """Print the configuration in force."""
    if as_json:
        origins = {key: list(lines) for key, lines in found.origins.items()}
        content = config.to_dict(found.config) | {"source": found.source, "origins": origins, "lost": found.lost}
        print(json.dumps(content, indent=2))
        return 0
    print(f"# In force: {found.source or 'the defaults'}")
    print(template.render(found.config, found.origins), end="")
    told(found.lost)
    return 0


def told(lost: Iterable[tuple[str, str]]) -> None:
    """Name the lines of another kdump's files that have no equivalent, on standard error."""
    for origin, why in lost:
        print(f"LOST     {origin}\n         {why}", file=sys.stderr)


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
    told(draft.lost)
    return 3 if draft.lost else 0
