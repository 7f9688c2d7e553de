"""Show, check or import the configuration.

`kdump config show` prints the configuration in force and the source of each value; `--template` prints the
documented file with its defaults. Without a kdump.toml, the configuration files of another kdump are in force.

`kdump config check` reads a file and prints its errors with line numbers. The exit status is 1 if there are any.

`kdump config import` reads the configuration of another kdump (/etc/kdump.conf and /etc/sysconfig/kdump of Fedora
and RHEL, /etc/default/kdump-tools of Debian, /etc/sysconfig/kdump of SUSE) and prints an equivalent kdump.toml. It
lists settings without an equivalent; the exit status is then 3. It runs nothing in these files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from kdump.errors import UsageError
from kdump.host import config, in_force, template


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="print the configuration in force")
    show.add_argument("--template", action="store_true", help="print the documented file with its defaults instead")
    show.add_argument("--json", action="store_true", help="print JSON (sizes in bytes, durations in seconds)")
    show.add_argument("file", nargs="?", type=Path, help=f"file to read (default: {config.CONFIG_PATH})")
    check = actions.add_parser("check", help="read a file and print its errors")
    check.add_argument("file", nargs="?", type=Path, help=f"file to read (default: {config.CONFIG_PATH})")
    foreign = actions.add_parser("import", help="print a kdump.toml with the settings of another kdump")
    foreign.add_argument("files", nargs="*", type=Path, help="files to read (default: those that this machine has)")
    foreign.add_argument(
        "--json", action="store_true", help="print JSON: the values, the imported and the lost settings"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if args.action == "show" and args.template:
        if args.json or args.file:
            raise UsageError("--template prints the defaults, as text: neither a file nor --json goes with it")
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
