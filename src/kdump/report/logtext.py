"""Kernel log lines from wherever they come: printk ring, dmesg, syslog, journal, serial line, netconsole, pstore.

Everything that a transport puts in front of a message is taken off (`kdump.report.transports`); the time since boot and
the caller are kept where there are any.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from kdump.report import transports

if TYPE_CHECKING:
    from kdump.kernel.printk import Log

LONGEST_LOG = 256 << 20  # bytes of a log that is read: a console of months has a tenth of that
_LONGEST = 2048  # characters of a line; printk's own limit is half of that
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Line(NamedTuple):
    """One line: seconds since boot (None if the transport dropped them), the message itself, and who printed it.

    `caller` is "T" and a pid or "C" and a CPU where the kernel says so (CONFIG_PRINTK_CALLER), else empty.
    """

    seconds: float | None
    text: str
    caller: str = ""


def decode(raw: bytes) -> str:
    """The text of a log's file: UTF-8, or UTF-16 as some serial consoles of Windows write it; NUL bytes are dropped."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", "replace")
    for place, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        half = raw[place:4096:2]
        if len(half) > 8 and half.count(0) > 0.9 * len(half):
            return raw.decode(name, "replace")
    return raw.decode("utf-8", "replace").replace("\0", "")


def from_text(text: str) -> list[Line]:
    """Lines of a text log; what its transport put in front of the messages is taken off."""
    lines = (clean(line.rstrip("\r")) for line in text.split("\n"))
    return [Line(found.seconds, found.text, found.caller) for found in transports.strip(lines)]


def from_log(log: Log) -> list[Line]:
    """Lines of the printk ring; a record of several lines gives several."""
    return [
        Line(record.timestamp / 1e9, clean(line), record.caller_name)
        for record in log.records
        for line in record.text.decode("utf-8", "replace").split("\n")
    ]


def clean(text: str) -> str:
    """Text without terminal escapes and control characters, fit to be printed; tabs become spaces, excess is cut."""
    return _CONTROL.sub("", text[:_LONGEST].replace("\t", " ")) if text else text


def stamped(lines: Iterable[Line]) -> list[str]:
    """Lines as dmesg prints them."""
    return [line.text if line.seconds is None else f"[{line.seconds:12.6f}] {line.text}" for line in lines]
