"""Kernel log lines from wherever they come: printk ring, dmesg, syslog, journal, serial line, netconsole, pstore.

Everything that a transport puts in front of a message is taken off; the time since boot is kept where there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kdump.kernel.printk import Log

_PREFIXES = (
    re.compile(r"<\d{1,3}>"),  # syslog priority: dmesg -r, pstore, serial consoles
    re.compile(r"\d+,\d+,(?P<usec>\d+),[^;]{0,200};"),  # extended netconsole, /dev/kmsg
    re.compile(r"[a-z0-9]+ *:[a-z]+ *: (?=\[)"),  # dmesg -x: facility and level
    re.compile(
        r"(?:[A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d|\d{4}-\d\d-\d\d[T ][0-9:.,+Z-]+) (?:\S+ )?kernel: ?"
    ),  # syslog, journal
    re.compile(r"\[ *(?P<seconds>\d+\.\d+)\](?:\[ *[TC]\d+\])? ?"),
    re.compile(r"\[[A-Z][a-z]{2} [A-Z][a-z]{2} +\d+ [\d:]{8} \d{4}\] ?"),  # dmesg -T
    re.compile(r"\[ *[TC]\d+\] "),
)
_LONGEST = 2048  # characters of a line; printk's own limit is half of that
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Line(NamedTuple):
    """One line: seconds since boot (None if the transport dropped them) and the message itself."""

    seconds: float | None
    text: str


def from_text(text: str) -> list[Line]:
    """Lines of a text log."""
    return [_strip(line) for line in text.splitlines()]


def from_log(log: Log) -> list[Line]:
    """Lines of the printk ring; a record of several lines gives several."""
    return [
        Line(record.timestamp / 1e9, clean(line))
        for record in log.records
        for line in record.text.decode("utf-8", "replace").split("\n")
    ]


def clean(text: str) -> str:
    """Text without terminal escapes and control characters, fit to be printed; tabs become spaces, excess is cut."""
    return _CONTROL.sub("", text[:_LONGEST].replace("\t", " "))


def stamped(lines: Iterable[Line]) -> list[str]:
    """Lines as dmesg prints them."""
    return [line.text if line.seconds is None else f"[{line.seconds:12.6f}] {line.text}" for line in lines]


def _strip(line: str) -> Line:
    seconds: float | None = None
    line = clean(line.rstrip("\r\n"))
    for _ in range(4):  # a transport in a transport: journal of a netconsole listener
        for pattern in _PREFIXES:
            found = pattern.match(line)
            if found:
                stamp = found.groupdict()
                if stamp.get("seconds"):
                    seconds = float(stamp["seconds"])
                elif stamp.get("usec"):
                    seconds = int(stamp["usec"]) / 1e6
                line = line[found.end() :]
                break
        else:
            break
    return Line(seconds, line)
