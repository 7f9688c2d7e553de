"""Crashes that lie in directories: our own, those of other kdumps in /var/crash, and files with kernel logs.

What is imported is what a host would have reported: manifest and report if they are there, else the log, which a worker
reads. A directory is a crash if it holds a manifest, a log or a dump; dumps stay where they are. A crash's name is its
directory's, or made of the log's own bytes, so that importing again changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kdump.fleet import evidence, ingest
from kdump.fleet.evidence import RefusedError
from kdump.fleet.service import Service

LOGS: Final = ("vmcore-dmesg.txt", "dmesg.txt", "vmcore-dmesg-incomplete.txt", "dmesg")
_LARGEST: Final = 8 << 20  # bytes of a log's end that are read
_DEEPEST: Final = 6


@dataclass
class Done:
    """What came of it: `left` are paths and why they were left out."""

    new: int = 0
    known: int = 0
    left: list[tuple[Path, str]] = field(default_factory=list)


def bring(service: Service, paths: Sequence[Path], host: str = "") -> Done:
    """Import every crash below the paths."""
    done = Done()
    for path in paths:
        if not path.exists():
            done.left.append((path, "it does not exist"))
        for crash in _crashes(path):
            try:
                text = _envelope(crash, host)
                facts = evidence.read(text)
                pair = (facts, evidence.pack(text))
                (answer,) = service.database.run(
                    lambda session, pair=pair: ingest.store(session, [pair], time.time(), None)  # type: ignore[misc]
                )
            except (RefusedError, OSError, ValueError) as error:
                done.left.append((crash, str(error)))
                continue
            done.known += answer.again
            done.new += not answer.again
    return done


def _crashes(path: Path, depth: int = 0) -> Iterator[Path]:
    """Directories that are crashes, and files that are given by name."""
    if path.is_file():
        yield path
        return
    if not path.is_dir() or path.is_symlink() or depth > _DEEPEST:
        return
    names = {each.name for each in path.iterdir()}
    if "manifest.json" in names or names & set(LOGS) or any(name.startswith("dmesg.") for name in names):
        yield path
        return
    for each in sorted(path.iterdir()):
        if each.is_dir():
            yield from _crashes(each, depth + 1)


def _envelope(path: Path, host: str) -> bytes:
    if path.is_file():
        log = _tail(path)
        return evidence.compose(_made_up(log, host, path.stem), b"", log)
    manifest: dict[str, Any] = {}
    if (own := path / "manifest.json").is_file():
        manifest = json.loads(own.read_bytes()[: evidence.UNPACKED])
        if not isinstance(manifest, dict):
            raise ValueError("its manifest is not an object")
    report = (path / "report.json").read_bytes() if (path / "report.json").is_file() else b""
    found = next((path / name for name in LOGS if (path / name).is_file()), None)
    found = found or next((each for each in sorted(path.glob("dmesg.*")) if each.is_file()), None)
    log = _tail(found) if found else ""
    if not report and not log:
        raise ValueError("there is no report and no log in it")
    made = _made_up(log, host or _host_of(path.name), path.name)
    return evidence.compose({**made, **{name: value for name, value in manifest.items() if value}}, report, log)


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _LARGEST))
        return file.read().decode("utf-8", "replace")


def _host_of(name: str) -> str:
    """The host in the name of a directory as other kdumps make them: "127.0.0.1-2026-11-29-…", "web1-2026…"."""
    found = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*?)-(?:20\d\d)", name)
    return found[1] if found else ""


def _made_up(log: str, host: str, name: str) -> dict[str, Any]:
    """A manifest for a crash that has none. Without a host's name the crash stands for a host called "imported"."""
    digest = hashlib.sha256(log.encode("utf-8", "replace")).hexdigest()[:12]
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("._-")[:100]
    return {"host": host or "imported", "crash": f"{plain or 'crash'}-{digest}", "status": "imported"}
