"""Make this machine ready for a crash, up to one reboot.

Writes /etc/kdump/kdump.toml (if it does not exist), the panic policy as a sysctl.d file, systemd units and hooks for
kernel packages, manual pages, and crashkernel= where the boot loader keeps it. Then builds the capture image and
loads it. Shows each change as a diff and asks first; --undo reverts everything.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdump.cli.streams import confirmed
from kdump.errors import KdumpError, UsageError
from kdump.host import config, in_force
from kdump.host.config import Config
from kdump.report.logtext import clean

if TYPE_CHECKING:
    from kdump.host.changes import Journal

NOT_READY = 3
_NOT_OF_UNDO = ("target", "collector", "crashkernel", "no_boot_loader", "replace")


@dataclass(frozen=True)
class Outcome:
    """The result of the set-up: `did` lists the changes beside the edit, in words."""

    ready: bool
    verdict: str
    did: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--target", action="append", metavar="URL", help="where dumps go (repeatable)")
    parser.add_argument(
        "--collector", metavar="URL", help="a fleet's collector, https://…, as the first target (docs/fleet.md)"
    )
    parser.add_argument(
        "--crashkernel", metavar="VALUE", help='memory to reserve, such as "256M" (default: as estimated)'
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--unattended",
        action="store_true",
        help="ask nothing, print one JSON object with the changes (with --dry-run, those that would be made)",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the changes and make none")
    parser.add_argument("--full", action="store_true", help="show the whole text of new files")
    parser.add_argument("--no-boot-loader", action="store_true", help="do not change the kernel command line")
    parser.add_argument("--replace", action="store_true", help="also install kdumpctl, kdump-config and vmcore-dmesg")
    parser.add_argument("--undo", action="store_true", help="revert the changes of setup (with --dry-run: show them)")
    parser.add_argument(
        "--json", action="store_true", help="print the changes (with --undo, what it would do) as JSON and make none"
    )


def run(args: argparse.Namespace) -> int:
    """Set up, or undo; returns the exit status."""
    if args.unattended and args.json:
        raise UsageError("--json makes no changes, and --unattended makes them", remedy="--unattended prints JSON, too")
    if not args.unattended:
        return set_up(args, {})
    facts: dict[str, Any] = {}
    with redirect_stdout(sys.stderr):  # for people; standard output has the one object
        status = set_up(args, facts)
    print(json.dumps(facts, indent=1))
    return status


def set_up(args: argparse.Namespace, facts: dict[str, Any]) -> int:
    """The same; `facts` gets what tools want to know."""
    from kdump.cli import dropins, share
    from kdump.host import changes, home, setup, units

    if not (args.json or args.dry_run):
        home.move_in()
    if args.undo:
        if beside := [f"--{name.replace('_', '-')}" for name in _NOT_OF_UNDO if getattr(args, name)]:
            raise UsageError(f"--undo reverts all changes of setup: {', '.join(beside)} does not go with it")
        with nullcontext() if args.json or args.dry_run else alone(changes.JOURNAL):
            journal = changes.Journal.read(changes.JOURNAL)
            facts["changed"] = bool(journal)
            return undo(journal, assume_yes=args.yes or args.unattended, dry_run=args.dry_run, as_json=args.json)
    before = in_force.read()
    wanted = chosen(args, before.config)
    changed = wanted != before.config
    found = setup.plan(
        wanted,
        boot_loader=not args.no_boot_loader,
        write_config=changed or not (before.foreign or config.CONFIG_PATH.exists()),
        notes=in_place(before, changed=changed),
    )
    edit = found.edit + share.edit()
    if args.replace:
        edit += dropins.edit(units.executable())
    if args.json:
        print(json.dumps({"reboot": found.reboot, "notes": found.notes} | asdict(edit), indent=1))
        return 0
    print("\n".join(found.notes))
    if edit:
        print("\n" + edit.shown(full=args.full) + "\n")
    else:
        print("nothing to change")
    facts |= {"changed": bool(edit), "reboot": found.reboot, "files": [change.path for change in edit.files]}
    facts |= {"commands": [command.argv for command in edit.commands], "notes": found.notes}
    if args.dry_run:
        return 0
    need_root()
    if edit and not (args.yes or args.unattended or confirmed("make these changes?")):
        print("nothing was changed")
        return 1
    with alone(changes.JOURNAL):
        journal = changes.Journal.read(changes.JOURNAL)
        changes.apply(edit, journal)
        outcome = finish(wanted, journal, reboot=found.reboot)
    facts |= asdict(outcome) | {"changed": bool(edit or outcome.did)}
    # A tool sees to the reboot by `reboot`; a person is told by the exit status that something is left to do.
    return 0 if outcome.ready or (args.unattended and found.reboot) else NOT_READY


def in_place(found: in_force.InForce, *, changed: bool) -> list[str]:
    """Notes for the user on another kdump's files that are in force."""
    if not found.foreign:
        return []
    name = found.source or "another kdump's files"
    if changed:
        return [f"{config.CONFIG_PATH} takes over the settings of {name}, and counts alone from now on"]
    lines = [f"configured by {name}, whose changes are followed (`kdump config show`)"]
    return lines + [f"no equivalent: {clean(origin)}: {why}" for origin, why in found.lost]


def chosen(args: argparse.Namespace, wanted: Config) -> Config:
    """The configuration there is, with what the command line says on top."""
    changed = config.to_dict(wanted)
    if args.target:
        changed["targets"] = args.target
    if args.collector:
        url = args.collector if args.collector.startswith("collector+") else f"collector+{args.collector}"
        changed["targets"] = [url, *(each for each in changed["targets"] if not each.startswith("collector+"))]
    if args.crashkernel:
        changed["crashkernel"]["value"] = args.crashkernel
    return config.from_dict(changed) if args.target or args.crashkernel or args.collector else wanted


def finish(wanted: Config, journal: Journal, *, reboot: bool) -> Outcome:
    """Put the new configuration to use: policy, directories, image, load."""
    from kdump.host import built, plan, policy, readiness, stored, units
    from kdump.host.python_search import python_search

    did = []
    for changed in policy.apply(wanted.panic):
        did.append(f"set {changed}")
        print(did[-1])
    fetched = [Path(units.FETCHED)] if any(url.startswith("block://") for url in wanted.targets) else []
    for place in (*stored.directories(wanted), *fetched):
        if not place.exists():
            journal.make_directory(str(place), mode=0o700)
            did.append(f"made {place}")
    with python_search() as search:
        prepared = plan.prepare(wanted, search=search)
        record = built.recorded(prepared.kernel.release)
        parts = built.fingerprint(prepared) if record else None
        if record is None or parts is None or built.damage(record) or built.stale(record, parts):
            record, summary = built.build_image(prepared, parts)
            did.append(f"built {record.image}")
            print(f"{did[-1]} in {summary.seconds:.1f} s")
    if reboot:
        print("\nreboot once: the memory is reserved at boot; then see `kdump status`")
        return Outcome(ready=False, verdict="reboot once", did=tuple(did))
    if built.load_image(record, wanted).changed:
        did.append("loaded the capture kernel")
    found = readiness.Examination(wanted).run()
    print(f"\nkdump is {found.verdict}")
    return Outcome(found.ready, found.verdict, tuple(did))


def undo(journal: Journal, *, assume_yes: bool, dry_run: bool, as_json: bool) -> int:
    """Take everything back that setup made, and nothing else: crashes and what is known of them stay."""
    from kdump.host import built, setup

    runs = [each["undo"] for each in reversed(journal.commands) if each["undo"]]
    runs += [each["argv"] for each in journal.commands if each["again"]]
    if as_json:
        paths = {
            name: [each["path"] for each in journal.files if (each["before"] is None) == new]
            for name, new in (("remove", True), ("restore", False))
        }
        print(json.dumps(paths | {"commands": runs}, indent=1))
        return 0
    if not journal:
        print("nothing to undo: setup changed nothing here")
        return 0
    for entry in journal.files:
        print(("remove " if entry["before"] is None else "restore ") + entry["path"])
    for argv in runs:
        print("run: " + " ".join(argv))
    if dry_run:
        return 0
    need_root()
    if not (assume_yes or confirmed("take these back?")):
        print("nothing was changed")
        return 1
    left = setup.undo(journal)
    built.remove_images()
    for problem in left:
        print(f"left: {problem}")
    if left:
        print(f"{journal.path} remembers what is left: `kdump setup --undo` tries again")
    done = "everything else is undone" if left else "undone"
    print(f"{done}; memory that is reserved stays so until the next boot")
    return NOT_READY if left else 0


@contextmanager
def alone(journal: Path) -> Iterator[None]:
    """Keep other setups out. Raises KdumpError if one is at work."""
    from kdump.files.directory import exclusive

    if os.geteuid() != 0:
        yield  # nothing will be changed
        return
    journal.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(journal.parent) as got:
        if not got:
            raise KdumpError("another `kdump setup` is running", remedy="wait for it to end and try again")
        yield
        with suppress(OSError):  # there is something in it, as a rule
            journal.parent.rmdir()


def need_root() -> None:
    """Raise KdumpError for everyone but root."""
    if os.geteuid() != 0:
        raise KdumpError("only root can change the machine's configuration", remedy="run it as root")
