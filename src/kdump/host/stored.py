"""The crashes stored on this machine: what there is, and what retention lets go.

A stored crash is a directory of a target with the files that the capture kernel wrote (`kdump.capture.crash`). Crashes
of other tools (a directory with a vmcore but no manifest) are listed but never pruned.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kdump.capture.crash import DMESG, INCOMPLETE, MANIFEST, REPORT_JSON, VMCORE
from kdump.errors import KdumpError
from kdump.fileio import INCOMPLETE as SUFFIX
from kdump.host.config import Config, Retention
from kdump.targets.retention import first_to_go
from kdump.units import duration_text, size_text

FOREIGN: Final = "no manifest"
FULL_REPORT: Final = "report-full.json"  # written by `kdump collect`; the capture kernel's own is short
_LOG_END: Final = 256 << 10  # bytes at the end of a log in which the panic is looked for


@dataclass(frozen=True)
class Crash:
    """One stored crash. `status`: "complete", "degraded", "incomplete" or "no manifest"; `size` in bytes on disk;
    `when` Unix time of the panic; crashes of one `signature` have one cause, as far as can be told.
    """

    path: Path
    status: str
    when: float
    size: int
    host: str
    release: str
    title: str
    signature: str

    @property
    def name(self) -> str:
        """Its name: the directory's."""
        return self.path.name


@dataclass(frozen=True)
class Victim:
    """A crash that retention lets go, and why."""

    crash: Crash
    reason: str


def directories(config: Config) -> list[Path]:
    """Where this machine keeps crashes: the directories of its file targets."""
    return [Path(url.removeprefix("file://")) for url in config.targets if url.startswith("file://")]


def scan(places: Iterable[Path]) -> list[Crash]:
    """The crashes in these directories, newest first. Raises KdumpError if one exists but cannot be read."""
    found = []
    for place in places:
        try:
            entries = sorted(place.iterdir())
        except FileNotFoundError:
            continue
        except OSError as error:
            raise KdumpError(
                f"{place} cannot be read", why=error.strerror or str(error), remedy="run as root"
            ) from None
        found += [read(entry) for entry in entries if _is_crash(entry)]
    return sorted(found, key=lambda crash: (crash.when, crash.name), reverse=True)


def read(path: Path) -> Crash:
    """The crash in a directory."""
    known = manifest(path)
    report = _json(path / FULL_REPORT) or _json(path / REPORT_JSON)
    files = [each for each in path.rglob("*") if each.is_file() and not each.is_symlink()]
    if known:
        status = str(known.get("status", INCOMPLETE))
    else:
        # The capture kernel writes its manifest last: with its files but without that, it did not finish.
        partial = any(each.name.endswith(SUFFIX) for each in files) or not (path / VMCORE).exists()
        status = INCOMPLETE if partial else FOREIGN
    title, signature = title_and_signature(path, report)
    return Crash(
        path=path,
        status=status,
        when=float(known.get("panic_time") or known.get("saved_time") or path.stat().st_mtime),
        size=sum(each.stat().st_blocks * 512 for each in files),
        host=str(known.get("host", "")),
        release=str(known.get("kernel", {}).get("release", "")),
        title=title,
        signature=signature,
    )


def manifest(path: Path) -> dict[str, Any]:
    """The manifest of the crash in a directory; empty if it has none, or a broken one."""
    return _json(path / MANIFEST)


def title_and_signature(path: Path, report: dict[str, Any]) -> tuple[str, str]:
    """What happened in one line, and what crashes of one cause share: the report's verdict, else that of the log."""
    verdict = report.get("verdict", {})
    if verdict.get("title") and verdict.get("signature"):
        return str(verdict["title"]), str(verdict["signature"])
    for log in (path / DMESG, path / (DMESG + SUFFIX)):
        if log.exists():
            with log.open("rb") as file:
                file.seek(max(0, log.stat().st_size - _LOG_END))
                return judged(file.read().decode("utf-8", "replace"))
    return "", ""


def judged(log: str) -> tuple[str, str]:
    """Title and signature of a kernel log; empty if it tells of no crash."""
    from kdump.report.context import Context
    from kdump.report.logtext import from_text
    from kdump.report.verdict import judge

    verdict = judge(Context(None, from_text(log)))
    return ("", "") if verdict.kind == "none" else (verdict.title, verdict.signature)


def victims(crashes: Sequence[Crash], rules: Retention, free: int, now: float | None = None) -> list[Victim]:
    """What has to go, in the order in which it goes. `free`: bytes that are free on the file system.

    The newest crash always stays. Of the others, those whose signature another remaining crash has go first, the
    oldest of them first; the last one of a signature goes only if no such crash is left. Crashes of other tools stay.
    """
    moment = time.time() if now is None else now
    remaining = [crash for crash in crashes if crash.status != FOREIGN]
    gone: list[Victim] = []

    def drop(reason: str, choose_from: Sequence[Crash]) -> bool:
        victim = _next(remaining, choose_from)
        if victim is None:
            return False
        remaining.remove(victim)
        gone.append(Victim(victim, reason))
        return True

    if rules.max_age:
        reason = f"older than {duration_text(rules.max_age)}"
        while drop(reason, [crash for crash in remaining if moment - crash.when > rules.max_age]):
            pass
    if rules.keep:
        while len(remaining) > rules.keep and drop(f"more than {rules.keep} crashes", remaining):
            pass
    if rules.max_size:
        reason = f"more than {size_text(rules.max_size)} of crashes"
        while sum(crash.size for crash in remaining) > rules.max_size and drop(reason, remaining):
            pass
    if rules.min_free:
        reason = f"less than {size_text(rules.min_free)} free"
        while free + sum(victim.crash.size for victim in gone) < rules.min_free and drop(reason, remaining):
            pass
    return gone


def prune(config: Config, *, dry_run: bool = False) -> Iterator[Victim]:
    """Apply retention to each directory of crashes; yields each victim after it is gone. Raises KdumpError."""
    for place in directories(config):
        crashes = scan([place])
        if not crashes:
            continue
        for victim in victims(crashes, config.retention, shutil.disk_usage(place).free):
            if not dry_run:
                remove(victim.crash)
            yield victim


def remove(crash: Crash) -> None:
    """Delete a stored crash. It loses its name first, so that one half deleted is never taken for a whole one."""
    doomed = crash.path.with_name(f".deleting-{crash.name}")
    try:
        crash.path.rename(doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        raise KdumpError(f"{crash.path} cannot be deleted", why=error.strerror or str(error)) from None


def _next(remaining: Sequence[Crash], choose_from: Sequence[Crash]) -> Crash | None:
    if len(remaining) < 2:
        return None
    newest = max(remaining, key=lambda crash: crash.when)
    return first_to_go(remaining, (crash for crash in choose_from if crash is not newest))


def _is_crash(path: Path) -> bool:
    if path.is_symlink() or not path.is_dir() or path.name.startswith("."):
        return False
    names = (MANIFEST, VMCORE, DMESG)
    return any((path / (name + suffix)).exists() for name in names for suffix in ("", SUFFIX))


def _json(path: Path) -> dict[str, Any]:
    """A JSON object in a file; empty if the file is missing or (cut off, say) not JSON."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
