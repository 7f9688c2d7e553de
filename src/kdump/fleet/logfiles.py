"""Files with more than one crash in them: logs that many machines write (syslog, netconsole), and pstore's records.

A log is divided by the host that a syslog's header names, then by boot ("Linux version", or a clock that goes back);
each boot in which the kernel died is a crash. pstore keeps a log's end in parts, the newest first, each headed
"Panic#1 Part2"; they are put together again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from kdump.report.known import crash_in
from kdump.report.logtext import decode

# RFC 3164 ("Nov 29 12:00:00 web1 kernel:"), the same with ISO 8601's time (rsyslog, journalctl), RFC 5424.
_HOST = re.compile(
    r"(?:<\d{1,3}>)?(?:1 )?(?:[A-Z][a-z]{2} [ \d]\d [\d:]{8}|\d{4}-\d\d-\d\dT[\d:.,]+(?:Z|[+-]\d\d:?\d\d)?)"
    r" (?P<host>[A-Za-z0-9][A-Za-z0-9._-]{0,127}) kernel(?:\[\d+\])?(?::| )"
)
_BOOT = re.compile(r"\bLinux version \d+\.\d+")
_STAMP = re.compile(r"\[ *(\d{1,9}\.\d{6})\]")
_BACK = 5  # seconds that stamps of one boot may go back, for CPUs print at the same time
_PART: Final = re.compile(r"(?P<reason>[A-Z][A-Za-z]+)#(?P<number>\d{1,9}) Part(?P<part>\d{1,9})\n")
_PSTORE: Final = re.compile(r"dmesg-[a-z0-9_]+-\d+")


@dataclass(frozen=True)
class Boot:
    """The log of one machine's kernel in one boot, in which it died. `name` is the same whenever it is read."""

    host: str
    name: str
    log: str


def crashes(text: str, host: str = "") -> Iterator[Boot]:
    """Every boot in a log in which the kernel died; `host` is that of lines that name none."""
    for own, lines in _by_host(text.splitlines(), host).items():
        for log in _boots(lines):
            verdict = crash_in(log)
            if verdict is None or not verdict.fatal:
                continue
            said = f"{verdict.headline}\0{verdict.panic}\0{verdict.uptime}\0{verdict.signature}"
            yield Boot(own, hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()[:12], log)


def _by_host(lines: Iterable[str], host: str) -> dict[str, list[str]]:
    """Lines of each host in their order. A line without a header belongs to the host before it."""
    found: dict[str, list[str]] = {}
    now = host
    for line in lines:
        if said := _HOST.match(line):
            now = said["host"]
        found.setdefault(now, []).append(line)
    return found


def _boots(lines: Iterable[str]) -> Iterator[str]:
    boot: list[str] = []
    last = 0.0
    for line in lines:
        stamp = _STAMP.search(line)
        back = stamp is not None and float(stamp[1]) + _BACK < last
        if boot and (back or (_BOOT.search(line) and last > 0)):
            yield "\n".join(boot) + "\n"
            boot, last = [], 0.0
        boot.append(line)
        last = max(last, float(stamp[1])) if stamp else last
    if boot:
        yield "\n".join(boot) + "\n"


def is_record(name: str) -> bool:
    """Whether a file is named as pstore names a part of a log ("dmesg-efi-…", "dmesg-erst-…", "dmesg-ramoops-0")."""
    return _PSTORE.match(name) is not None and not name.endswith(".z")


def pstore(records: Iterable[tuple[str, bytes]]) -> str:
    """The log that pstore's parts, by name, make: the oldest record first, each from its last part to its first."""
    parts: list[tuple[int, int, str, str]] = []
    for name, content in records:
        text = decode(content)
        head = _PART.match(text)
        number, part = (int(head["number"]), int(head["part"])) if head else (0, 0)
        parts.append((number, -part, name, text[head.end() :] if head else text))
    return "".join(text if text.endswith("\n") else text + "\n" for *_, text in sorted(parts))
