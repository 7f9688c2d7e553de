"""Crashes that lie in directories: our own, those of other kdumps in /var/crash, and files with kernel logs.

What is imported is what a host would have reported: manifest and report if they are there, else the log, which a worker
reads. A directory is a crash if it holds a manifest, a log or a dump; dumps stay where they are. A crash's name is its
directory's, or made of what the kernel said when it died, so that importing again changes nothing. A file may hold the
logs of many hosts and boots: see `logfiles`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kdump.errors import KdumpError, describe, reason
from kdump.files.directory import Directory
from kdump.fleet import evidence, ingest, logfiles
from kdump.fleet.service import Service
from kdump.foreign import load_object
from kdump.memory import DUMPS
from kdump.report.logtext import decode
from kdump.units import size_text

LOGS: Final = ("vmcore-dmesg.txt", "dmesg.txt", "vmcore-dmesg-incomplete.txt", "dmesg")
LARGEST: Final = 8 << 20  # bytes of a log's end that are read
_DUMP: Final = re.compile(r"(?:vmcore|dump)(?:[.-].*)?")
_START: Final = 4096  # bytes that tell a dump from a log
_ENDLESS: Final = 1 << 30  # bytes of a pipe after which it is no log
_DEEPEST: Final = 6


class _NoCrashError(ValueError):
    """There is no crash in a log."""


@dataclass
class Done:
    """The result: `left` are paths and why they were left out, `empty` directories without a crash."""

    new: int = 0
    known: int = 0
    left: list[tuple[Path, str]] = field(default_factory=list)
    empty: list[Path] = field(default_factory=list)


def bring(service: Service, paths: Sequence[Path], host: str = "") -> Done:
    """Import every crash below the paths. What is wrong with one keeps none of the others out."""
    done = Done()
    for path in paths:
        try:
            if not path.exists():
                done.left.append((path, "it does not exist"))
            elif path.is_dir():
                _below(service, path, host, done)
            else:
                _bring(service, path, lambda path=path: _of_log(path, host), done)  # type: ignore[misc]
        except OSError as error:
            done.left.append((path, reason(error)))
    return done


def _below(service: Service, path: Path, host: str, done: Done) -> None:
    before = len(done.left)
    crashes = 0
    with Directory.open(path) as top:
        for crash in _crashes(top, done):
            _bring(service, Path(crash.path), lambda crash=crash: _of_directory(crash, host), done)  # type: ignore[misc]
            crashes += 1
        if not crashes and len(done.left) == before and top.names():
            done.empty.append(path)


def _bring(service: Service, path: Path, envelopes: Callable[[], Iterable[bytes]], done: Done) -> None:
    try:
        for text in envelopes():
            again = store(service, text)
            done.known += again
            done.new += not again
    except (KdumpError, OSError, ValueError) as error:
        done.left.append((path, describe(error) if isinstance(error, OSError) else str(error)))


def store(service: Service, text: bytes) -> bool:
    """Keep the crash in an envelope; whether it was known. Raises `RefusedError`."""
    pair = (evidence.read(text), evidence.pack(text))
    (answer,) = service.database.run(lambda session: ingest.store(session, [pair], time.time(), None))
    return answer.again


def _crashes(directory: Directory, done: Done, depth: int = 0) -> Iterator[Directory]:
    """Directories that are crashes, open: nobody can put another in their way."""
    names = directory.names()
    if (
        any(map(logfiles.is_record, names))
        or "manifest.json" in names
        or set(LOGS) & set(names)
        or any(name.startswith("dmesg.") for name in names)
    ):
        yield directory
        return
    if any(_DUMP.fullmatch(name) and directory.has_file(name) for name in names):
        why = "it holds a dump, but no report and no log; `kdump dmesg DUMP > dmesg.txt` in it makes the log"
        done.left.append((Path(directory.path), why))
    for name in names if depth < _DEEPEST else ():
        try:
            inner = directory.enter(name)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):  # a file, a link
                done.left.append((Path(directory.path, name), describe(error)))
            continue
        with inner:
            yield from _crashes(inner, done, depth + 1)


def _of_directory(crash: Directory, host: str) -> Iterable[bytes]:
    records = [name for name in crash.names() if logfiles.is_record(name) and crash.has_file(name)]
    if records and not crash.foreign:
        log = logfiles.pstore((name, crash.read(name, LARGEST)) for name in records)
        return _of_text(log, host)
    return [_envelope(crash, host)]


def _of_text(log: str, host: str) -> Iterable[bytes]:
    """Envelopes of all crashes in a log. Raises `_NoCrashError` if it has none."""
    found = list(logfiles.crashes(log, host))
    if not found:
        raise _NoCrashError("no kernel died in this log")
    for boot in found:
        own = boot.host or "imported"
        made = {"host": own, "crash": f"{own}-log-{boot.name}", "status": "imported"}
        yield evidence.compose(made, b"", boot.log)


def _envelope(crash: Directory, host: str) -> bytes:
    if crash.foreign:
        raise KdumpError(f"its directory is {crash.foreign}: the crash may be forged")
    manifest: dict[str, Any] = {}
    if crash.has_file("manifest.json"):
        manifest = load_object(crash.read("manifest.json"), "its manifest")
    report = crash.read("report.json", evidence.UNPACKED) if crash.has_file("report.json") else b""
    others = [name for name in crash.names() if name.startswith("dmesg.")]
    log = next((name for name in (*LOGS, *others) if crash.has_file(name)), None)
    text = crash.read_end(log, LARGEST).decode("utf-8", "replace") if log else ""
    if not report and not text:
        raise ValueError("there is no report and no log in it")
    name = Path(crash.path).name
    made = _made_up(text, host or _host_of(name), name)
    return evidence.compose({**made, **{key: value for key, value in manifest.items() if value}}, report, text)


def _of_log(path: Path, host: str) -> Iterable[bytes]:
    with path.open("rb") as file:
        start = file.read(_START)
        if start.startswith(DUMPS):
            raise ValueError("it is a dump, not a log: name the directory of its crash, with log or report in it")
        if file.seekable():
            size = file.seek(0, 2)
            file.seek(max(0, size - LARGEST))
            end = file.read(LARGEST)
        else:
            size, end = len(start), start
            while more := file.read(LARGEST):
                size, end = size + len(more), (end + more)[-LARGEST:]
                if size > _ENDLESS:
                    raise ValueError(f"it has no end within {size_text(_ENDLESS)}")
    if size <= LARGEST:
        yield from _of_text(decode(end), host)
        return
    with contextlib.suppress(_NoCrashError):
        yield from _of_text(decode(end), host)
    raise ValueError(f"only its last {size_text(LARGEST)} were read; divide it by host or by day to import the rest")


def _host_of(name: str) -> str:
    """The host in the name of a directory as other kdumps make them: "127.0.0.1-2026-11-29-…", "web1-2026…"."""
    found = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*?)-(?:20\d\d)", name)
    return found[1] if found else ""


def _made_up(log: str, host: str, name: str) -> dict[str, Any]:
    """A manifest for a crash that has none. Without a host's name the crash stands for a host called "imported"."""
    digest = hashlib.sha256(log.encode("utf-8", "replace")).hexdigest()[:12]
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("._-")[:100]
    return {"host": host or "imported", "crash": f"{plain or 'crash'}-{digest}", "status": "imported"}
