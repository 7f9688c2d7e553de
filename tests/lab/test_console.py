"""The console reader: patterns, order, ends, times and the log file; on pipes."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

import pytest

from kdump.lab.console import Console


class Guest:
    """The other end of a console."""

    def __init__(self, log: Path) -> None:
        reader, self._writer = os.pipe()
        self.console = Console(os.fdopen(reader, "rb"), log)

    def prints(self, text: str) -> None:
        os.write(self._writer, text.encode())

    def ends(self) -> None:
        os.close(self._writer)
        self.console.finish()


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path / "log")


def test_waits_see_each_line_once_and_in_order(guest: Guest, tmp_path: Path) -> None:
    guest.prints("one\r\n\x1b[2J\x1b[01;32mtwo\x1b[0m\r\nhal")
    console = guest.console
    assert console.wait_for(re.compile("t(wo)"), 2)
    assert console.wait_for(re.compile("two"), 0.05) is None  # passed
    threading.Timer(0.1, lambda: guest.prints("f\nthree\n")).start()
    found = console.wait_for(re.compile("^half$"), 2)
    assert found
    assert found.string == "half"
    guest.prints("no newline")
    guest.ends()
    assert console.wait_for(re.compile("no newline"), 2)
    assert [text for _, text in console.lines] == ["one", "two", "half", "three", "no newline"]
    times = [when for when, _ in console.lines]
    assert times == sorted(times)
    assert times[2] - times[1] >= 0.05
    assert (tmp_path / "log").read_bytes().startswith(b"one\r\n\x1b[2J")


def test_the_end_of_the_stream_ends_a_wait(guest: Guest) -> None:
    threading.Timer(0.1, guest.ends).start()
    started = time.monotonic()
    assert guest.console.wait_for(re.compile("never"), 30) is None
    assert time.monotonic() - started < 10
    assert guest.console.ended


def test_search_ignores_what_was_waited_for(guest: Guest) -> None:
    guest.prints("a 1\na 2\n\n\nb\n")
    assert guest.console.wait_for(re.compile("b"), 2)
    found = guest.console.search(r"a (\d)")
    assert found
    assert found[1][1] == "1"
    assert guest.console.search("zebra") is None
    assert guest.console.tail(2) == ["a 2", "b"]
    guest.ends()
