"""Streams that change how a dump goes out: flattened for a pipe."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import BinaryIO

from kdump.dump.kdump_writer import Sink
from kdump.errors import FormatError
from kdump.files.drafts import name_file

Bytes = bytes | bytearray | memoryview

# makedumpfile's flattened format (makedumpfile.h, struct makedumpfile_header), big endian.
SIGNATURE = b"makedumpfile".ljust(16, b"\0")
TYPE, VERSION = 1, 1
HEADER_SIZE = 4096
PIECE = 1 << 20  # bytes read at a time
RECORD = struct.Struct(">qq")  # offset, size; then the data
END = RECORD.pack(-1, -1)


class FlatStream:
    """A `kdump_writer.Sink` that needs no seeking: every write is a record that names its offset.

    `makedumpfile -R`, crash and kdump put the pieces where they belong. Without the end mark of `finish` a reader knows
    that the stream was cut.
    """

    def __init__(self, put: Callable[[Bytes], object]) -> None:
        """`put` takes bytes, in order, all of them."""
        self._put = put
        self._end = 0
        self._put(SIGNATURE + struct.pack(">qq", TYPE, VERSION).ljust(HEADER_SIZE - len(SIGNATURE), b"\0"))

    def skip(self, size: int) -> None:
        """Leave a gap at the front."""
        self._end = size

    def write(self, data: Bytes) -> int:
        """Append."""
        size = self.pwrite(data, self._end)
        self._end += size
        return size

    def pwrite(self, data: Bytes, offset: int) -> int:
        """Put data at an offset: any offset will do."""
        size = memoryview(data).nbytes
        if size:
            self._put(RECORD.pack(offset, size))
            self._put(data)
        return size

    def finish(self) -> None:
        """Write the end mark."""
        self._put(END)


def put_to(descriptor: int) -> Callable[[Bytes], None]:
    """Writes all of what it is given to a file descriptor."""

    def put(data: Bytes) -> None:
        rest = memoryview(data).cast("B")
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except OSError as error:
            name_file(error, descriptor)
            raise

    return put


def unflatten(source: BinaryIO, target: Sink) -> None:
    """Put the records of a flattened dump where they belong. Raises `FormatError` if it is not one, or is cut short."""

    def read(size: int, what: str) -> bytes:
        data = source.read(size)
        if len(data) != size:
            raise FormatError(f"ends within {what}", path="<flattened input>", why="the stream was cut")
        return data

    head = read(HEADER_SIZE, "its header")
    if not head.startswith(SIGNATURE):
        raise FormatError("not a flattened dump", path="<flattened input>", field="signature", offset=0)
    target.skip(0)
    while True:
        offset, size = RECORD.unpack(read(RECORD.size, "a record's header"))
        if (offset, size) == (-1, -1):
            return
        if offset < 0 or size < 0 or offset + size > 1 << 62:
            raise FormatError(f"a record of {size:#x} bytes at {offset:#x}", path="<flattened input>", field="record")
        while size:
            piece = min(size, PIECE)
            target.pwrite(read(piece, "a record"), offset)
            offset, size = offset + piece, size - piece
