"""Fetch the crash from a raw partition (a block:// target), verify it, and free the partition for the next one.

Without DEVICE, the block:// targets of the configuration are looked at. The crash becomes a directory like those that
other targets make. --format prepares an empty partition to take dumps: whatever is on it is lost.

--new also verifies every new crash that is stored on this machine, writes its full report beside it, notifies as
configured and applies retention: kdump-collect.service does that after each boot.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdump.errors import KdumpError, UsageError
from kdump.units import size_text

if TYPE_CHECKING:
    from kdump.targets.rawstore import RawFile

_STEP = 1 << 20

Say = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("device", metavar="DEVICE", nargs="?", help="the partition, or an image of it")
    parser.add_argument("--to", metavar="DIR", type=Path, default=Path("/var/crash"), help="where crashes are kept")
    parser.add_argument("--keep", action="store_true", help="leave the partition as it is")
    parser.add_argument(
        "--new", action="store_true", help="verify, report and announce new crashes, wherever fetched from"
    )
    parser.add_argument("--format", action="store_true", help="make DEVICE an empty dump area and do nothing else")
    parser.add_argument("--force", action="store_true", help="with --format: even if something is on it")
    parser.add_argument("--json", action="store_true", help="print JSON: what was fetched, new and deleted")


def run(args: argparse.Namespace) -> int:
    """Exit status 3 if what was fetched is incomplete or does not verify."""
    if args.format:
        if not args.device:
            raise UsageError("--format needs the device")
        return _format(args.device, force=args.force)
    say: Say = _silent if args.json else print
    devices = [args.device] if args.device else _configured(required=not args.new)
    result: dict[str, list[dict[str, Any]]] = {"fetched": [], "new": [], "deleted": []}
    for device in devices:
        if fetched := _collect(device, args.to, say, keep=args.keep):
            result["fetched"].append(fetched)
    if args.new:
        _deal_with_new(result, say)
    if args.json:
        print(json.dumps(result, indent=1))
    return 0 if all(entry["good"] for entry in (*result["fetched"], *result["new"])) else 3


def _silent(_text: str) -> None:
    """Say nothing: it will be in the JSON."""


def _deal_with_new(result: dict[str, list[dict[str, Any]]], say: Say) -> None:
    from kdump.host import aftermath, config, stored
    from kdump.host.python_search import STATE

    wanted = config.load()
    for found in aftermath.deal_with_new(wanted, STATE):
        say(f"{found.crash.path}: {found.crash.status}: {found.crash.title or 'no title'}")
        for line in (
            *found.problems,
            *(f"told {who}" for who in found.told),
            *(f"NOT told {who}" for who in found.not_told),
        ):
            say(f"  {line}")
        summary = aftermath.summary(found.crash, list(found.problems))
        result["new"].append(summary | {"told": found.told, "not_told": found.not_told, "good": found.good})
    for victim in stored.prune(wanted):
        say(f"deleted {victim.crash.path}: {victim.reason}")
        result["deleted"].append({"path": str(victim.crash.path), "reason": victim.reason})


def _configured(*, required: bool) -> list[str]:
    from kdump.host import config
    from kdump.targets.protocol import Spec

    found = [Spec(url).parts.path for url in config.load().targets if url.startswith("block://")]
    if not found and required:
        raise UsageError("no device is named, and the configuration has no block:// target")
    return found


def _format(device: str, *, force: bool) -> int:
    from kdump.targets.rawstore import format_device

    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        format_device(descriptor, device, force=force)
    finally:
        os.close(descriptor)
    print(f"{device} is ready to take a dump")
    return 0


def _collect(device: str, to: Path, say: Say, *, keep: bool) -> dict[str, Any] | None:
    from kdump.dump import manifest
    from kdump.targets import rawstore

    descriptor = os.open(device, (os.O_RDONLY if keep else os.O_RDWR) | os.O_CLOEXEC)
    try:
        header = rawstore.read_header(descriptor, device)
        if header.state in (rawstore.EMPTY, rawstore.CONSUMED) or not header.files:
            say(f"{device}: no crash to collect")
            return None
        target = to / Path(header.crash).name
        if target.exists():
            raise KdumpError(f"{target} exists already", remedy="--to names another directory")
        target.mkdir(mode=0o700, parents=True)
        for file in header.files:
            _fetch(descriptor, file, target, device)
        whole = header.state == rawstore.SAVED and all(file.state == rawstore.SEALED for file in header.files)
        try:
            entries = manifest.read(target / manifest.NAME)["files"]
            wrong = [f"{f.name} {f.what}" for entry in entries for f in manifest.check(target, entry)]
        except (OSError, KdumpError) as error:
            wrong = [f"it cannot be verified: {error}"]
        if not keep:
            rawstore.write_header(descriptor, replace(header, state=rawstore.CONSUMED))
    finally:
        os.close(descriptor)
    size = sum(file.size for file in header.files)
    say(f"{target}: {len(header.files)} files, {size_text(size)}" + ("" if whole else ", incomplete"))
    for line in wrong:
        say(f"  {line}")
    facts = {"device": device, "path": str(target), "size": size, "whole": whole, "problems": wrong}
    return facts | {"good": whole and not wrong}


def _fetch(descriptor: int, file: RawFile, target: Path, device: str) -> None:
    name = Path(file.name).name
    if name != file.name or name in ("", ".", ".."):
        raise KdumpError(f"{device} names a file {file.name!r}", why="its header is damaged")
    path = target / name
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        at, rest = file.offset, file.size
        while rest:
            data = os.pread(descriptor, min(rest, _STEP), at)
            if not data:
                raise KdumpError(f"{device} ends within {name}", why="it is smaller than its header says")
            out.write(data)
            at, rest = at + len(data), rest - len(data)
        out.flush()
        os.fsync(out.fileno())
