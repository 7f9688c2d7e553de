"""The crashes stored on this machine: what there is, and what retention lets go.

A stored crash is a directory of a target with the files that the capture kernel wrote (`kdump.capture.crash`). Crashes
of other tools (a directory with a vmcore but no manifest) are listed but never pruned. What is wrong with one crash, or
with one directory of crashes, stops none of the others.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kdump.capture.crash import DMESG, INCOMPLETE, MANIFEST, REPORT_JSON, VMCORE
from kdump.dump import manifest_schema
from kdump.errors import KdumpError, describe
from kdump.files.directory import Directory
from kdump.files.drafts import INCOMPLETE as SUFFIX
from kdump.foreign import Schema, load_object, table, text
from kdump.host.config import Config, Retention
from kdump.targets.retention import first_to_go
from kdump.units import duration_text, size_text

FOREIGN: Final = "no manifest"
DAMAGED: Final = "damaged"  # its manifest cannot be used
UNREADABLE: Final = "unreadable"
FULL_REPORT: Final = "report-full.json"  # written by `kdump collect`; the capture kernel's own is short
_FIRST: Final = 1577836800  # Unix time, 2020: a date before is that of a clock that was never set
_AHEAD: Final = 86400  # seconds that a clock may be ahead of this one
_DOOMED: Final = ".deleting-"  # begins the name of a crash that is being deleted
_LOG_END: Final = 256 << 10  # bytes at the end of a log in which the panic is looked for


_REPORT: Final[Schema] = {"verdict": table({"title": text(1024), "signature": text(64)})}


@dataclass(frozen=True)
class Crash:
    """One stored crash. `size` in bytes on disk; `when` Unix time of the panic, 0 if no believable clock told it;
    crashes of one `signature` have one cause, as far as can be told; `problem` is why its files cannot be used;
    `foreign` why it may not be what the capture kernel wrote: somebody but root could have changed it.

    `status`: "complete", "degraded", "incomplete", "no manifest", "damaged" (its manifest) or "unreadable".
    """

    path: Path
    status: str
    when: float
    size: int
    host: str
    release: str
    title: str
    signature: str
    problem: str = ""
    foreign: str = ""

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


def scan(places: Iterable[Path], failed: Callable[[KdumpError], None] | None = None) -> list[Crash]:
    """The crashes in these directories, newest first.

    A directory that exists but cannot be read is told to `failed`; without that, KdumpError is raised.
    """
    found: list[Crash] = []
    for place in places:
        try:
            with Directory.open(place) as parent:
                found += _scan(parent)
        except FileNotFoundError:
            continue
        except OSError as error:
            remedy = "run as root" if isinstance(error, PermissionError) else ""
            problem = KdumpError(f"{place} cannot be read", why=error.strerror or str(error), remedy=remedy)
            if failed is None:
                raise problem from None
            failed(problem)
    return sorted(found, key=_age, reverse=True)


def _age(crash: Crash) -> tuple[float, str]:
    return crash.when, crash.name


def named(places: Iterable[Path], failed: Callable[[KdumpError], None]) -> list[Crash]:
    """The crashes that a person names: each place is the directory of a crash, or one of crashes. Newest first.

    A place that does not exist is told to `failed`, too.
    """
    found, parents = [], []
    for place in places:
        if crash := crash_in(place):
            found.append(crash)
        elif os.path.lexists(place):
            parents.append(place)
        else:
            failed(KdumpError(f"{place}: no such directory"))
    return sorted(found + scan(parents, failed), key=_age, reverse=True)


def _scan(parent: Directory) -> Iterator[Crash]:
    for name in parent.names():
        if name.startswith("."):
            continue
        try:
            with parent.enter(name) as directory:
                if _is_crash(directory):
                    yield look(directory)
        except (NotADirectoryError, FileNotFoundError):  # a link does not count as a directory here
            continue
        except OSError as error:
            yield _unreadable(Path(parent.path, name), error)


def read(path: Path) -> Crash:
    """The crash in a directory; whatever is wrong with it is in its status. Never raises."""
    try:
        with Directory.open(path.parent) as parent, parent.enter(path.name) as directory:
            return look(directory)
    except OSError as error:
        return _unreadable(path, error)


def crash_in(place: Path) -> Crash | None:
    """The crash whose directory a person names; None if it is not one, or cannot be read."""
    with suppress(OSError), Directory.open(place) as directory:
        if _is_crash(directory):
            return look(directory)
    return None


def look(directory: Directory) -> Crash:
    """As `read`, of a directory that is open."""
    try:
        return _read(directory)
    except Exception as error:  # noqa: BLE001 -- one bad crash must not hide the others
        return _unreadable(Path(directory.path), error, directory.foreign)


def _unreadable(path: Path, error: Exception, foreign: str = "") -> Crash:
    return Crash(path, UNREADABLE, 0, 0, "", "", "", "", f"cannot be examined: {describe(error)}", foreign)


def _read(directory: Directory) -> Crash:
    known, problem = _manifest(directory)
    files = dict(directory.files())
    # The capture kernel writes its manifest last: with its files but without that, it did not finish.
    partial = any(name.endswith(SUFFIX) for name in files) or VMCORE not in files
    if known:
        status = str(known.get("status", INCOMPLETE))
    else:
        status = INCOMPLETE if partial else DAMAGED if problem else FOREIGN
    title, signature = title_and_signature(directory)
    claims = [known[name] for name in ("panic_time", "saved_time") if known.get(name)]
    return Crash(
        path=Path(directory.path),
        status=status,
        when=believable(*(claims or [directory.state.st_mtime])),
        size=sum(state.st_blocks * 512 for state in files.values()),
        host=known.get("host", ""),
        release=known.get("kernel", {}).get("release", ""),
        title=title,
        signature=signature,
        problem=problem,
        foreign=directory.foreign,
    )


def believable(*times: float) -> float:
    """The first of some Unix times that a clock which was set can have told by now; 0 if absent.

    A clock without a battery begins in 1970, or when its firmware was made; a date in the future, forged or not, would
    keep a crash for ever at the cost of the others.
    """
    latest = time.time() + _AHEAD
    return next((each for each in times if _FIRST <= each <= latest), 0.0)


def manifest(path: Path) -> dict[str, Any]:
    """The manifest of the crash in a directory; empty if it has none, or one that cannot be used."""
    try:
        with Directory.open(path) as directory:
            return _manifest(directory)[0]
    except OSError:
        return {}


def _manifest(directory: Directory) -> tuple[dict[str, Any], str]:
    """The manifest, and why it cannot be used ("" if it can, or if there is none)."""
    try:
        return manifest_schema.parse(directory.read(MANIFEST), f"{directory.path}/{MANIFEST}"), ""
    except FileNotFoundError:
        return {}, ""
    except (OSError, KdumpError) as error:
        return {}, f"its manifest cannot be used: {describe(error)}"


def title_and_signature(directory: Directory) -> tuple[str, str]:
    """Title and signature of a crash: from the report's verdict, or else from the log."""
    told = ("", "")
    for report in (FULL_REPORT, REPORT_JSON):
        try:
            verdict = load_object(directory.read(report), report, _REPORT).get("verdict", {})
        except (OSError, KdumpError):
            continue
        if verdict.get("title"):
            told = verdict["title"], verdict.get("signature", "")
            break
    from kdump.report.signature import is_current

    if told[0] and is_current(told[1]):
        return told
    # Without a report, or with the signature of an earlier version: the log gives this version's.
    for log in (DMESG, DMESG + SUFFIX):
        if directory.has_file(log):
            title, signature = judged(directory.read_end(log, _LOG_END).decode("utf-8", "replace"))
            return (told[0] or title, signature) if title else told
    return told


def judged(log: str) -> tuple[str, str]:
    """Title and signature of a kernel log; empty if it has no crash."""
    from kdump.report.context import Context
    from kdump.report.logtext import from_text
    from kdump.report.verdict import judge

    verdict = judge(Context(None, from_text(log)))
    return ("", "") if verdict.kind == "none" else (verdict.title, verdict.signature)


def victims(crashes: Sequence[Crash], rules: Retention, free: int, now: float | None = None) -> list[Victim]:
    """The crashes to delete, in order. `free`: bytes that are free on the file system.

    The newest crash always stays, by the dates that are believable. Of the others, those whose signature another
    remaining crash has that is as whole go first, the oldest of them first; the last one of a signature goes only if no
    such crash is left. Crashes of other tools stay, those that cannot be read and those that others could have changed;
    they do not count either.
    """
    moment = time.time() if now is None else now
    remaining = [crash for crash in crashes if crash.status not in (FOREIGN, UNREADABLE) and not crash.foreign]
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
        while drop(reason, [crash for crash in remaining if crash.when and moment - crash.when > rules.max_age]):
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


def prune(
    config: Config, *, dry_run: bool = False, failed: Callable[[KdumpError], None] | None = None
) -> Iterator[Victim]:
    """Apply retention to each directory of crashes; yields each victim after it is gone.

    A directory that cannot be read and a crash that cannot be deleted are told to `failed`; without that, KdumpError is
    raised.
    """
    for place in directories(config):
        if not dry_run:
            _finish_removing(place)
        crashes = scan([place], failed)
        if not crashes:
            continue
        for victim in victims(crashes, config.retention, shutil.disk_usage(place).free):
            try:
                if not dry_run:
                    remove(victim.crash)
            except KdumpError as error:
                if failed is None:
                    raise
                failed(error)
                continue
            yield victim


def remove(crash: Crash) -> None:
    """Delete a stored crash. It loses its name first, so that one half deleted is never taken for a whole one."""
    doomed = f"{_DOOMED}{crash.name}"
    try:
        with Directory.open(crash.path.parent) as parent:
            with parent.enter(crash.name) as directory:
                if directory.foreign:  # since it was looked at
                    raise KdumpError(f"{crash.path} is not deleted", why=f"it is {directory.foreign}")
            os.rename(crash.name, doomed, src_dir_fd=parent.fd, dst_dir_fd=parent.fd)
            parent.remove(doomed)
    except OSError as error:
        raise KdumpError(f"{crash.path} cannot be deleted", why=error.strerror or str(error)) from None


def _finish_removing(place: Path) -> None:
    """Delete what a prune that was killed has begun to."""
    with suppress(OSError), Directory.open(place) as parent:
        for name in parent.names():
            if name.startswith(_DOOMED):
                with suppress(OSError), parent.enter(name) as directory:
                    if not directory.foreign:
                        parent.remove(name)


def _next(remaining: Sequence[Crash], choose_from: Sequence[Crash]) -> Crash | None:
    if len(remaining) < 2:
        return None
    newest = max(remaining, key=lambda crash: (crash.when, crash.name))
    return first_to_go(remaining, (crash for crash in choose_from if crash is not newest))


def _is_crash(directory: Directory) -> bool:
    names = (MANIFEST, VMCORE, DMESG)
    return any(directory.look(name + suffix) for name in names for suffix in ("", SUFFIX))
