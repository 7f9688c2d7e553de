"""Pages of ftrace's ring buffer: time stamps, paddings, lengths, and damage. Whole buffers are compared in the lab."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest

from kdump.errors import KdumpError
from kdump.kernel.ftrace import Field, Tracer, _Type

KIND = _Type(
    "wake",
    [
        Field("comm", "char[8]", 8, 8, False),
        Field("prio", "int", 16, 4, True),
        Field("name", "__data_loc char[]", 20, 4, False),
    ],
)


class Page:
    """A struct buffer_data_page at address 0."""

    def __init__(self, data: bytes, stamp: int = 1000, size: int | None = None) -> None:
        self.data = data
        self.time_stamp = stamp
        self.commit = SimpleNamespace(a=SimpleNamespace(counter=(1 << 31) | (len(data) if size is None else size)))

    def __int__(self) -> int:
        return 0


def tracer(page: Page) -> Tracer:
    found = Tracer.__new__(Tracer)
    kernel = SimpleNamespace(
        virtual=SimpleNamespace(read=lambda address, size: page.data[address - 16 : address - 16 + size]),
        vmcoreinfo=SimpleNamespace(page_size=4096),
    )
    types = SimpleNamespace(struct=lambda _: SimpleNamespace(offset=lambda _: 16))
    objects: Any = SimpleNamespace(kernel=kernel, types=types, has=lambda *_: True)
    found._objects = objects
    found._types = {7: KIND, 8: None}
    found._calls = {-1: objects}  # no type has this number
    return found


def events(data: bytes, **options: Any) -> list[Any]:
    page = Page(data, **options)
    return list(tracer(page)._events(3, SimpleNamespace(page=page)))  # type: ignore[arg-type]


def head(kind: int, delta: int) -> bytes:
    return struct.pack("<I", delta << 5 | kind)


def entry(pid: int, number: int = 7) -> bytes:
    """36 bytes: nine words."""
    return struct.pack("<HBBi8siI", number, 0, 0, pid, b"first\0xx", -5, 5 << 16 | 24) + b"seco\0".ljust(12, b"\0")


def test_stamps_and_fields() -> None:
    data = head(9, 5) + entry(1)  # nine words
    data += head(30, 3) + struct.pack("<I", 2)  # time extend
    data += head(0, 1) + struct.pack("<I", 40) + entry(2)  # length in the next word, itself included
    data += head(29, 9) + struct.pack("<I", 8) + bytes(4)  # a discarded event
    data += head(31, 4) + struct.pack("<I", 1)  # absolute time
    data += head(9, 6) + entry(3, 8)
    first, second, third = events(data)
    assert first == (1005, 3, 1, "wake", {"comm": "first", "prio": -5, "name": "seco"})
    assert second.nanoseconds == 1005 + 3 + (2 << 27) + 1 and second.pid == 2
    assert (third.nanoseconds, third.name) == ((1 << 27) + 4 + 6, "event type 8")


def test_the_rest_of_a_page_and_damage() -> None:
    assert len(events(head(9, 0) + entry(1) + head(29, 0) + b"garbage....")) == 1
    assert events(head(28, 0) + bytes(4)) == []  # longer than the page
    assert events(head(0, 0) + struct.pack("<I", 2)) == []  # shorter than its own length
    with pytest.raises(KdumpError, match="damaged"):
        events(b"", size=(1 << 20) - 1)
