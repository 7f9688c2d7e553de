"""Starts systemd's own journald in a lab machine and gives it messages, which it writes to a file in memory.

A script for the machine's Python, as secrets_guest.py. journald stays: its file is still open when the kernel dies.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

JOURNALD = "/usr/lib/systemd/systemd-journald"
SOCKET = "/run/systemd/journal/socket"
MESSAGES = 1500
PATIENCE = 60.0  # seconds


def wait(what: str, found: Callable[[], bool], end: float) -> None:
    """Until `found()`; raises TimeoutError."""
    while not found():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.05)


def message(number: int) -> bytes:
    """One message: of all lengths up to where journald would compress it."""
    return b"message %d %s" % (number, b"x" * (number % 300))


def arrived() -> bool:
    """Whether the last message is in the journal."""
    files = Path("/run/log/journal").glob("*/system.journal")
    return any(message(MESSAGES - 1) in path.read_bytes() for path in files)


def main() -> None:
    end = time.monotonic() + PATIENCE
    if not os.fork():
        os.setsid()
        os.execv(JOURNALD, [JOURNALD])
    wait("its socket", Path(SOCKET).exists, end)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        for number in range(MESSAGES):
            peer.sendto(b"MESSAGE=%s\nPRIORITY=5\nKDUMP_NUMBER=%d\n" % (message(number), number), SOCKET)
    wait("its file", arrived, end)


if __name__ == "__main__":
    main()
