"""Numbers, sizes and durations as people write and read them. Every reader has bounds and names them in its error."""

from __future__ import annotations

import re

from kdump.errors import UsageError

LARGEST_SIZE = (1 << 63) - 1  # bytes: no file offset is larger (loff_t)
LONGEST = 36500 * 86400  # seconds: a century

# ASCII digits, and few of them: int() takes the digits of any script, and time that grows with their square.
_WHOLE = re.compile(r"\s*([+-]?[0-9]{1,20})\s*")
_SIZE = re.compile(r"\s*([0-9]{1,20})\s*([KMGTPE]?)(?:i?B)?\s*", re.IGNORECASE)
_STEPS = "KMGTPE"
_DURATION = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*(s|sec|min|m|h|d|)\s*")
_SECONDS = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_SIZES = ((1 << 60, "E"), (1 << 50, "P"), (1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"))
_DURATIONS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def whole_number(text: str, low: int, high: int) -> int:
    """A whole number in bounds, both included. Raises ValueError that says what is expected."""
    found = _WHOLE.fullmatch(text)
    if not found or not low <= int(found[1]) <= high:
        raise ValueError(f"a whole number from {low} to {high}")
    return int(found[1])


def integer(text: str) -> int | None:
    """The whole number that a text is, of at most 20 ASCII digits with or without a sign; None for other text."""
    found = _WHOLE.fullmatch(text)
    return int(found[1]) if found else None


def parse_size(text: str, low: int = 0, high: int = LARGEST_SIZE) -> int:
    """Bytes meant by "512M", "2 GiB", "4096": powers of 1024, as the kernel's memparse() reads them.

    Raises UsageError for what is not a size from `low` to `high` bytes.
    """
    found = _SIZE.fullmatch(text)
    if not found:
        raise UsageError(f"{text!r} is not a size", remedy="write a whole number with K, M, G or T, for example 512M")
    number, suffix = found.groups()
    size = int(number) << (10 * (_STEPS.index(suffix.upper()) + 1) if suffix else 0)
    if not low <= size <= high:
        raise UsageError(f"{text!r} is out of bounds", remedy=f"write a size {size_bounds(low, high)}")
    return size


def parse_duration(text: str, low: float = 0, high: float = LONGEST) -> float:
    """Seconds meant by "90", "1.5s", "5min", "2h", "30d". Raises ValueError that says what is expected."""
    found = _DURATION.fullmatch(text)
    seconds = float(found[1]) * _SECONDS[found[2]] if found else -1.0
    if not low <= seconds <= high:
        raise ValueError(f'seconds, or a duration such as "90s", "5min", "2h", "30d", {duration_bounds(low, high)}')
    return seconds


def size_bounds(low: int, high: int) -> str:
    """Bounds of a size, in words: "from 1M to 8T"; the largest size of all goes without saying."""
    return f"from {exact_size(low)}" + (f" to {exact_size(high)}" if high < LARGEST_SIZE else " up")


def duration_bounds(low: float, high: float) -> str:
    """Bounds of a duration, in words: "from 1s to 1h"."""
    return f"from {exact_duration(low)} to {exact_duration(high)}"


def exact_size(size: int) -> str:
    """A size as `parse_size` reads it, without loss: "2G", "1500"."""
    return next((f"{size // step}{unit}" for step, unit in _SIZES if size and size % step == 0), str(size))


def exact_duration(seconds: float) -> str:
    """A duration as `parse_duration` reads it, without loss: "90s", "2h", "0.5s"."""
    whole = ((step, unit) for step, unit in _DURATIONS if seconds and seconds % step == 0)
    return next((f"{int(seconds) // step}{unit}" for step, unit in whole), f"{seconds:g}s")


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
