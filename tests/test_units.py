"""Sizes and durations."""

from __future__ import annotations

import pytest

from kdump.errors import UsageError
from kdump.units import duration_text, parse_size, size_text


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("512M", 512 << 20), ("2 GiB", 2 << 30), ("1k", 1024), ("3TB", 3 << 40)],
)
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5G", "12X"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a size"):
        parse_size(text)


def test_size_text() -> None:
    assert [size_text(size) for size in (0, 1023, 1024, 10 << 20, 1023 << 20, 1 << 60)] == [
        "0 B", "1023 B", "1.00 KiB", "10.0 MiB", "1.00 GiB", "1.00 EiB",
    ]  # fmt: skip


def test_duration_text() -> None:
    assert [duration_text(s) for s in (0.421, 12.34, 247, 7500, 273600)] == [
        "0.42 s", "12.3 s", "4 min 07 s", "2 h 05 min", "3 d 04 h",
    ]  # fmt: skip
