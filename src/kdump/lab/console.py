"""A guest's serial console: every line with the time it came, waited on by pattern, kept in a file."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import IO

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f]")


class Console:
    """Reads a byte stream in a thread until it ends.

    `lines` holds (time.monotonic() when the line was complete, text without escapes); the bytes go to `log`.
    """

    def __init__(self, stream: IO[bytes], log: Path) -> None:
        self.lines: list[tuple[float, str]] = []
        self.ended = False
        self._changed = threading.Condition()
        self._stream = stream
        self._log = log
        self._next = 0
        self._thread = threading.Thread(target=self._read, name="console", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        pending = b""
        with self._log.open("wb", buffering=0) as log:
            while chunk := self._stream.read1(65536):  # type: ignore[attr-defined]  # a buffered pipe has read1
                log.write(chunk)
                *complete, pending = (pending + chunk).split(b"\n")
                self._add(complete)
        with self._changed:
            if pending:
                self.lines.append((time.monotonic(), self._clean(pending)))
            self.ended = True
            self._changed.notify_all()

    def _add(self, complete: list[bytes]) -> None:
        if complete:
            now = time.monotonic()
            with self._changed:
                self.lines.extend((now, self._clean(line)) for line in complete)
                self._changed.notify_all()

    @staticmethod
    def _clean(line: bytes) -> str:
        return _ESCAPES.sub("", line.decode("utf-8", "replace"))

    def wait_for(self, pattern: re.Pattern[str], timeout: float) -> re.Match[str] | None:
        """The first match in lines not yet passed by an earlier wait; None at the end of the stream or of `timeout`."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                while self._next < len(self.lines):
                    found = pattern.search(self.lines[self._next][1])
                    self._next += 1
                    if found:
                        return found
                left = deadline - time.monotonic()
                if self.ended or left <= 0:
                    return None
                self._changed.wait(left)

    def search(self, pattern: str) -> tuple[float, re.Match[str]] | None:
        """The first line that matches, whatever was waited for, and when it came: for timelines."""
        compiled = re.compile(pattern)
        for when, text in list(self.lines):
            if found := compiled.search(text):
                return when, found
        return None

    def tail(self, count: int = 15) -> list[str]:
        """The last lines that say something."""
        return [text for _, text in self.lines if text.strip()][-count:]

    def finish(self, timeout: float = 5.0) -> None:
        """Wait until everything the guest wrote has been read (after it has ended)."""
        self._thread.join(timeout)
