"""Sizes, rates and durations as people read and write them."""

from __future__ import annotations

import re

from kdump.errors import UsageError

_SIZE = re.compile(r"^\s*(\d+)\s*([KMGTPE]?)(?:i?B)?\s*$", re.IGNORECASE)
_STEPS = "KMGTPE"


def parse_size(text: str) -> int:
    """Bytes meant by "512M", "2 GiB", "4096": powers of 1024, as the kernel's memparse() reads them."""
    found = _SIZE.match(text)
    if not found:
        raise UsageError(f"{text!r} is not a size", remedy="write a whole number with K, M, G or T, for example 512M")
    number, suffix = found.groups()
    return int(number) << (10 * (_STEPS.index(suffix.upper()) + 1) if suffix else 0)


def size_text(size: float) -> str:
    """A size in bytes with three significant digits: "0 B", "317 KiB", "1.92 GiB"."""
    if abs(size) < 1024:
        return f"{size:.0f} B"
    for step in _STEPS:
        size /= 1024
        if abs(size) < 999.5 or step == _STEPS[-1]:
            break
    digits = 2 if abs(size) < 9.995 else 1 if abs(size) < 99.95 else 0
    return f"{size:.{digits}f} {step}iB"


def duration_text(seconds: float) -> str:
    """A duration: "0.42 s", "12.3 s", "4 min 07 s", "2 h 05 min", "3 d 04 h"."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"
