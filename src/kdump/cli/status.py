"""Say whether this machine is ready for a crash. Exit status 0 ready, 3 not ready.

Prints the verdict first, then the checks. Every "no" comes with its remedy; a "note" does not affect readiness.
--policy shows when the kernel panics and what each setting means for dumps. --prometheus writes metrics for
node_exporter's textfile collector.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from kdump.errors import KdumpError
from kdump.files import outputs
from kdump.files.drafts import replace_file
from kdump.host import config, in_force

if TYPE_CHECKING:
    from kdump.host.checks import Readiness
    from kdump.host.policy import Setting

WIDTH = 79
NOT_READY = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--policy", action="store_true", help="show when the kernel panics, and what this means for dumps"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing; only set the exit status")
    parser.add_argument("--prometheus", type=Path, metavar="FILE", help="write metrics to FILE, for node_exporter")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"configuration (default: {config.CONFIG_PATH})")


def run(args: argparse.Namespace) -> int:
    """Examine the machine; returns the exit status."""
    from kdump.host import checks, home, policy

    wanted = in_force.read(args.config)
    if args.policy:
        return show_policy(list(policy.settings(wanted.config.panic)), as_json=args.json)
    home.move_in()
    try:
        from kdump.host.readiness import Examination
    except KdumpError as error:  # NumPy does not run here, so nothing else can be asked
        found = checks.Readiness((checks.refusal("processor", error),), {})
    else:
        found = Examination(wanted).run()
    if args.prometheus:
        outputs.check(args.prometheus, replace=True)
        # A collector may be reading it, as another user.
        replace_file(args.prometheus, checks.as_prometheus(found).encode(), mode=0o644)
    if args.json:
        print(json.dumps(checks.as_json(found), indent=1))
    elif not args.quiet:
        print("\n".join(screen(found)))
    return 0 if found.ready else NOT_READY


def show_policy(settings: list[Setting], *, as_json: bool) -> int:
    """The panic policy as a table; exit status 3 if a setting is not as configured."""
    if as_json:
        rows = [asdict(each) | {"as_wanted": each.as_wanted, "meaning": each.meaning} for each in settings]
        print(json.dumps(rows, indent=1))
    else:
        for each in settings:
            now = "-" if each.now is None else str(each.now)
            text = each.meaning if each.now is not None else "this kernel does not have it"
            if not each.as_wanted:
                text += f" (kdump.toml wants {each.wanted})"
            print("\n".join(_folded(f"{each.sysctl.name:<32} {now:>3}  {text}", 38)))
    return 0 if all(each.as_wanted for each in settings) else NOT_READY


def screen(found: Readiness) -> list[str]:
    """The examination as lines of a terminal."""
    lines = [f"kdump is {found.verdict}", ""]
    for check in found.checks:
        lines += _folded(f"{check.answer:<4}  {check.name:<13} {check.found}", 20)
        if check.remedy:
            lines += _folded(f"{'':20}-> {check.remedy}", 23)
    return lines


def _folded(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, drop_whitespace=True, break_on_hyphens=False)
