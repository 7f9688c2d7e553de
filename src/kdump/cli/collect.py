"""Fetch the crash from a raw partition (a block:// target), verify it, and free the partition for the next one.

Without DEVICE, the command looks at all block:// targets of the configuration. The crash becomes a directory like
those of other targets. It gets its name, and the partition is freed, only after the crash is complete, verified and
synced to the disk. An interrupted run loses nothing: run the command again. A crash that does not verify stays on
the partition.

--format prepares an empty partition for dumps and destroys its contents.

--new also verifies every new crash on this machine, writes its full report beside it, notifies as configured, and
applies retention. linux-kdump-collect.service does this after each boot.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdump.display import shown
from kdump.errors import KdumpError, UsageError, describe
from kdump.units import size_text

if TYPE_CHECKING:
    from kdump.host.config import Config

Say = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("device", metavar="DEVICE", nargs="?", help="the partition, or an image of it")
    parser.add_argument(
        "--to",
        metavar="DIR",
        type=Path,
        default=Path("/var/crash"),
        help="directory for crashes (default: %(default)s)",
    )
    free = parser.add_mutually_exclusive_group()
    free.add_argument("--keep", action="store_true", help="leave the partition as it is")
    free.add_argument("--free", action="store_true", help="free the partition even if the crash does not verify")
    parser.add_argument(
        "--new", action="store_true", help="verify, report and announce new crashes, wherever fetched from"
    )
    parser.add_argument(
        "--format", action="store_true", help="prepare DEVICE as an empty dump area, and do nothing else"
    )
    parser.add_argument("--force", action="store_true", help="with --format: also if DEVICE is not empty")
    parser.add_argument("--json", action="store_true", help="print JSON: the fetched, new and deleted crashes")


def run(args: argparse.Namespace) -> int:
    """Exit status 3 if what was fetched is incomplete or does not verify, 1 if something failed that may be retried."""
    if args.force and not args.format:
        raise UsageError("--force goes with --format", remedy="--free frees a partition whose crash does not verify")
    if args.format:
        if not args.device:
            raise UsageError("--format needs the device")
        if beside := [f"--{name}" for name in ("keep", "free", "new", "json") if getattr(args, name)]:
            raise UsageError(f"--format does nothing else: {', '.join(beside)} does not go with it")
        return _format(args.device, force=args.force)
    say: Say = _silent if args.json else _say
    devices = [args.device] if args.device else _configured(required=not args.new)
    result: dict[str, list[dict[str, Any]]] = {"fetched": [], "new": [], "deleted": [], "failed": []}

    def failed(error: Exception) -> None:
        print(f"kdump collect: {error if isinstance(error, KdumpError) else describe(error)}", file=sys.stderr)
        result["failed"].append({"problem": describe(error)})

    for device in devices:
        try:
            if fetched := _collect(device, args.to, say, keep=args.keep, free=args.free):
                result["fetched"].append(fetched)
        except Exception as error:  # noqa: BLE001 -- neither the next device nor what is new here waits for this one
            failed(error)
    if args.new:
        _deal_with_new(result, say, failed)
    if args.json:
        print(json.dumps(result, indent=1))
    if result["failed"] or any(entry["not_told"] for entry in result["new"]):
        return 1
    return 0 if all(entry["good"] for entry in (*result["fetched"], *result["new"])) else 3


def _say(text: str) -> None:
    print(shown(text))


def _silent(_text: str) -> None:
    """Say nothing: it will be in the JSON."""


def _deal_with_new(result: dict[str, list[dict[str, Any]]], say: Say, failed: Callable[[Exception], None]) -> None:
    from kdump.files.directory import exclusive
    from kdump.host import in_force
    from kdump.host.home import settled

    wanted = in_force.load()
    state = settled()
    state.mkdir(parents=True, exist_ok=True)
    with exclusive(state / "collect.lock") as got:  # two would announce each crash twice
        if not got:
            raise KdumpError("another `kdump collect --new` is running", remedy="wait for it to end")
        _examine(wanted, state, result, say, failed)


def _examine(
    wanted: Config, state: Path, result: dict[str, list[dict[str, Any]]], say: Say, failed: Callable[[Exception], None]
) -> None:
    from kdump.host import aftermath, stored

    for found in aftermath.deal_with_new(wanted, state, failed):
        say(f"{found.crash.path}: {found.crash.status}: {found.crash.title or 'no title'}")
        for line in (
            *found.problems,
            *(f"told {who}" for who in found.told),
            *(f"NOT told {who}" for who in found.not_told),
        ):
            say(f"  {line}")
        summary = aftermath.summary(found.crash, list(found.problems))
        result["new"].append(summary | {"told": found.told, "not_told": found.not_told, "good": found.good})
    for victim in stored.prune(wanted, failed=failed):
        say(f"deleted {victim.crash.path}: {victim.reason}")
        result["deleted"].append({"path": str(victim.crash.path), "reason": victim.reason})


def _configured(*, required: bool) -> list[str]:
    from kdump.host import in_force
    from kdump.targets.protocol import Spec

    found = [Spec(url).parts.path for url in in_force.load().targets if url.startswith("block://")]
    if not found and required:
        raise UsageError("no device is named, and the configuration has no block:// target")
    return found


def _format(device: str, *, force: bool) -> int:
    from kdump.host.fetch import open_device
    from kdump.targets.rawstore import format_device

    descriptor = open_device(device, writable=True)
    try:
        format_device(descriptor, device, force=force)
    finally:
        os.close(descriptor)
    print(f"{device} is ready to take a dump")
    return 0


def _collect(device: str, to: Path, say: Say, *, keep: bool, free: bool) -> dict[str, Any] | None:
    from kdump.host.fetch import fetch

    found = fetch(device, to, keep=keep, free=free)
    if found is None:
        say(f"{device}: no crash to collect")
        return None
    say(f"{found.path}: {found.files} files, {size_text(found.size)}" + ("" if found.whole else ", incomplete"))
    for line in found.problems:
        say(f"  {line}")
    if not found.freed and not keep:
        say(f"  {device} keeps the crash, and takes no other; when you have looked: kdump collect --free {device}")
    return asdict(found) | {"good": found.good}
