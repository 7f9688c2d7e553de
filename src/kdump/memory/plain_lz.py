"""LZO1X and snappy in plain Python, for dumps of `makedumpfile -l` and `-p` where no library of theirs is installed.

A page takes about a millisecond. Output is bounded by the page; damage raises ValueError or IndexError.
Source: the kernel's Documentation/staging/lzo.rst; snappy's format_description.txt.
"""

from __future__ import annotations

from typing import Final

_END: Final = 0x4000  # the distance that ends an LZO stream


class _Output(bytearray):
    """What was unpacked so far."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def put(self, data: memoryview, size: int) -> None:
        """Append the first `size` bytes of `data`."""
        if size > len(data) or len(self) + size > self._limit:
            raise ValueError("literals beyond the end")
        self += data[:size]

    def repeat(self, distance: int, size: int) -> None:
        """Append `size` bytes of what lies `distance` back; it may overlap itself."""
        if not 0 < distance <= len(self) or len(self) + size > self._limit:
            raise ValueError("a match outside of the page")
        start = len(self) - distance
        while size > 0:
            piece = self[start : start + size]
            self += piece
            size -= len(piece)


def lzo(data: memoryview, limit: int) -> bytes:
    """What LZO1X packed, `limit` bytes at most."""
    out, at, state = _Output(limit), 0, 0
    if data[0] > 17:  # begins with literals
        size = data[0] - 17
        out.put(data[1:], size)
        at, state = 1 + size, min(size, 4)
    while True:
        code = data[at]
        at += 1
        if code < 16 and state == 0:
            size, at = _length(data, at, code, 15)
            out.put(data[at:], size + 3)
            at, state = at + size + 3, 4
            continue
        if code < 16:
            distance = (data[at] << 2) + (code >> 2) + (2049 if state == 4 else 1)
            size, state = 3 if state == 4 else 2, code & 3
            at += 1
        elif code < 64:
            low = 31 if code >= 32 else 7
            size, at = _length(data, at, code & low, low)
            word = data[at] | data[at + 1] << 8
            distance = (word >> 2) + (1 if code >= 32 else _END + ((code & 8) << 11))
            size, state, at = size + 2, word & 3, at + 2
            if distance == _END and code < 32:
                return bytes(out)
        else:
            distance = (data[at] << 3) + (code >> 2 & 7) + 1
            size, state = (code >> 5) + 1 if code >= 128 else 3 + (code >> 5 & 1), code & 3
            at += 1
        out.repeat(distance, size)
        out.put(data[at:], state)
        at += state


def _length(data: memoryview, at: int, size: int, low: int) -> tuple[int, int]:
    """A length that may go on: `low` and 255 for each zero byte, and the byte behind them. Also where it ends."""
    if size:
        return size, at
    size = low
    while not data[at]:
        size, at = size + 255, at + 1
    return size + data[at], at + 1


def snappy(data: memoryview, limit: int) -> bytes:
    """What snappy packed, `limit` bytes at most."""
    size = shift = at = 0
    while True:
        size |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 0x80:
            break
    if size > limit:
        raise ValueError(f"claims {size} bytes")
    out = _Output(size)
    while at < len(data):
        tag = data[at]
        at += 1
        if tag & 3 == 0:
            count = tag >> 2
            if count >= 60:
                wide = count - 59
                count = int.from_bytes(data[at : at + wide], "little")
                at += wide
            out.put(data[at:], count + 1)
            at += count + 1
        elif tag & 3 == 1:
            out.repeat((tag >> 5) << 8 | data[at], (tag >> 2 & 7) + 4)
            at += 1
        else:
            wide = 2 if tag & 3 == 2 else 4
            out.repeat(int.from_bytes(data[at : at + wide], "little"), (tag >> 2) + 1)
            at += wide
    if len(out) != size:
        raise ValueError(f"{len(out)} bytes, not {size}")
    return bytes(out)
