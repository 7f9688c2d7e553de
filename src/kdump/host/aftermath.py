"""After a crash: verify what was saved, write the full report beside it, tell people, and remember that it is done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kdump.capture.crash import COMPLETE, MANIFEST, VMCORE
from kdump.dump import manifest
from kdump.errors import KdumpError
from kdump.fileio import replace_file
from kdump.host import stored
from kdump.host.config import Config
from kdump.host.notify import notify

SEEN: Final = "seen.json"  # names of crashes that were dealt with, below the state directory
REPORT: Final = "report-full.txt"  # beside what the capture kernel wrote, which the manifest covers


@dataclass(frozen=True)
class Examined:
    """One new crash: what is wrong with its files (nothing, one hopes), who was told, who could not be."""

    crash: stored.Crash
    problems: tuple[str, ...]
    told: tuple[str, ...]
    not_told: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether the crash is whole and sound, and everybody knows."""
        return self.crash.status == COMPLETE and not self.problems and not self.not_told


def deal_with_new(config: Config, state: Path) -> Iterator[Examined]:
    """Every stored crash that was not dealt with yet, oldest first. One whose notification failed comes again."""
    seen = _seen(state)
    for crash in reversed(stored.scan(stored.directories(config))):
        if crash.name in seen or crash.status == stored.FOREIGN:
            continue
        result = examine(crash, config)
        if not result.not_told:
            seen.append(crash.name)
            _remember(seen, state)
        yield result


def examine(crash: stored.Crash, config: Config) -> Examined:
    """Verify, report and notify."""
    problems = list(verify(crash.path))
    if crash.status == COMPLETE and not problems:
        problems += report(crash.path)
    crash = stored.read(crash.path)
    outcomes = list(notify(config.notify, summary(crash, problems)))
    return Examined(
        crash,
        tuple(problems),
        tuple(who for who, why in outcomes if not why),
        tuple(f"{who}: {why}" for who, why in outcomes if why),
    )


def verify(path: Path) -> Iterator[str]:
    """What the manifest says of the files that is not so. Without a manifest there is nothing to compare."""
    if not (path / MANIFEST).exists():
        return
    try:
        for entry in manifest.read(path / MANIFEST)["files"]:
            yield from (f"{found.name} {found.what}" for found in manifest.check(path, entry))
    except KdumpError as error:
        yield f"the manifest cannot be used: {error.what}"


def report(path: Path) -> Iterator[str]:
    """Write the full report of a whole dump; yields why it cannot be written."""
    from kdump.kernel.kernel import Kernel
    from kdump.memory import open_dump
    from kdump.report import json as as_json
    from kdump.report import text as as_text
    from kdump.report.build import build
    from kdump.report.context import Context

    if not (path / VMCORE).exists() or (path / stored.FULL_REPORT).exists():
        return
    try:
        with open_dump(path / VMCORE) as dump:
            found = build(Context(Kernel(dump)), str(path / VMCORE))
    except KdumpError as error:
        yield f"no report: {error.what}"
        return
    _write(path / REPORT, "\n".join(as_text.render(found)))
    _write(path / stored.FULL_REPORT, "\n".join(as_json.render(found)))


def summary(crash: stored.Crash, problems: list[str]) -> dict[str, Any]:
    """What people and programs are told."""
    return {
        "host": crash.host,
        "crash": crash.name,
        "title": crash.title,
        "signature": crash.signature,
        "status": crash.status,
        "when": int(crash.when),
        "kernel": crash.release,
        "path": str(crash.path),
        "size": crash.size,
        "problems": problems,
    }


def _seen(state: Path) -> list[str]:
    try:
        names = json.loads((state / SEEN).read_text())
    except (OSError, ValueError):
        return []
    return names if isinstance(names, list) else []


def _remember(names: list[str], state: Path) -> None:
    state.mkdir(parents=True, exist_ok=True)
    replace_file(state / SEEN, (json.dumps(names[-1000:]) + "\n").encode())


def _write(path: Path, content: str) -> None:
    """What a dump holds is secret: so is a report of it."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(content.rstrip("\n") + "\n")
