"""Writing to files as the kernel allows: a write may take only part of what it is given."""

from __future__ import annotations

import os


def pwrite_all(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> int:
    """Write all of `data` at `offset` (bytes), in as many calls as it takes; its size. Raises OSError."""
    rest = memoryview(data).cast("B")
    size = len(rest)
    while rest:
        done = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[done:], offset + done
    return size
