"""Flattened dumps (makedumpfile -F, QEMU's kdump-zlib and similar): a dump as a stream of records, put together again.

Source: makedumpfile's makedumpfile.h (struct makedumpfile_header, makedumpfile_data_header), checked on real dumps. All
numbers are big-endian. A header block of 4096 bytes, then records {offset, size, data} in any order until (-1, -1).
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right

import numpy as np

from kdump.errors import FormatError
from kdump.memory.source import Source

MAGIC = b"makedumpfile\0\0\0\0"
HEADER = struct.Struct(">16sqq")  # signature, type, version
HEADER_SIZE = 4096
RECORD = struct.Struct(">qq")  # offset, size
END = -1
HOLES_LIMIT = 256 << 20  # bytes between records that any dump may have: nobody who writes one leaves much out


class FlattenedSource:
    """The file inside a flattened one. Gaps between records read as zeros, as they do in a file written with holes.

    Opening reads the record headers, one small read each. `incomplete` is set if the end marker is missing: what was
    read until there is kept. A record for the very bytes of an earlier one replaces it (makedumpfile -E writes its
    headers twice). Raises `FormatError` if records overlap otherwise, leave most of the file out or are malformed.
    """

    wrapping = "flattened+"

    def __init__(self, source: Source) -> None:
        self.path = source.path
        self._source = source
        if source.size < HEADER_SIZE:
            raise FormatError(f"only {source.size} bytes: no room for a header", path=source.path)
        magic, kind, version = HEADER.unpack(source.view(0, HEADER.size))
        if magic != MAGIC:
            raise FormatError("not a flattened dump", path=source.path, offset=0, field="signature")
        if kind != 1 or version != 1:
            raise FormatError(f"type {kind}, version {version}", path=source.path, offset=16, field="version")
        self._index()

    def _index(self) -> None:
        """Find every record. 24 bytes of memory for each, which has 17 bytes in the file at least."""
        starts, sizes, places = array("q"), array("q"), array("q")
        at, end = HEADER_SIZE, self._source.size
        self.incomplete = True
        while at + RECORD.size <= end:
            start, size = RECORD.unpack(self._source.view(at, RECORD.size))
            if start == END:
                self.incomplete = False
                break
            if start < 0 or size <= 0 or start + size >= 1 << 63:
                raise FormatError(
                    f"a record of {size} bytes for offset {start}", path=self.path, offset=at, field="record"
                )
            place = at + RECORD.size
            starts.append(start)
            sizes.append(min(size, end - place))
            places.append(place)
            at = place + size
        order = np.argsort(np.frombuffer(starts, np.int64), kind="stable") if starts else np.empty(0, np.int64)
        sorted_starts, sorted_sizes, sorted_places = (
            np.frombuffer(each, np.int64)[order] if each else order for each in (starts, sizes, places)
        )
        kept = np.ones(len(order), np.bool_)  # but of a header that was written anew the last one counts
        kept[:-1] = (sorted_starts[1:] != sorted_starts[:-1]) | (sorted_sizes[1:] != sorted_sizes[:-1])
        sorted_starts, sorted_sizes, sorted_places = sorted_starts[kept], sorted_sizes[kept], sorted_places[kept]
        stops = sorted_starts + sorted_sizes
        clashes = np.flatnonzero(stops[:-1] > sorted_starts[1:])
        if len(clashes):
            first = int(clashes[0])
            raise FormatError(
                f"two records hold the bytes at {int(sorted_starts[first + 1]):#x} of the dump",
                path=self.path,
                offset=int(sorted_places[first + 1]) - RECORD.size,
                field="record",
            )
        self._starts = array("q", sorted_starts.tobytes())
        self._sizes = array("q", sorted_sizes.tobytes())
        self._places = array("q", sorted_places.tobytes())
        self.size = int(stops[-1]) if len(stops) else 0
        held = int(sorted_sizes.sum())
        if self.size - held > max(HOLES_LIMIT, held):
            raise FormatError(
                f"records for {held:#x} of {self.size:#x} bytes",
                path=self.path,
                offset=int(sorted_places[-1]) - RECORD.size,
                field="record",
                why="the rest would have to be holes, and no dump has so many",
            )

    def view(self, offset: int, size: int) -> memoryview:
        """See `Source.view`; without a copy inside one record."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise FormatError(
                f"{size:#x} bytes are wanted there but the file ends at {self.size:#x}", path=self.path, offset=offset
            )
        index = bisect_right(self._starts, offset) - 1
        if index >= 0 and offset + size <= self._starts[index] + self._sizes[index]:
            return self._source.view(self._places[index] + offset - self._starts[index], size)
        data = bytearray(size)
        index = max(index, 0)
        while index < len(self._starts) and self._starts[index] < offset + size:
            start = max(self._starts[index], offset)
            end = min(self._starts[index] + self._sizes[index], offset + size)
            if start < end:
                part = self._source.view(self._places[index] + start - self._starts[index], end - start)
                data[start - offset : end - offset] = part
            index += 1
        return memoryview(data).toreadonly()

    def close(self) -> None:
        """See `Source.close`."""
        self._source.close()
