"""A crash on a device without a file system: two header slots, then the files one after the other.

The format is ours, little endian. A slot is 8 KiB; the two are written in turn, so that a power cut leaves one whole:
the one with the higher sequence number and a right checksum counts. Files begin at multiples of 4 KiB.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass, replace

from kdump.errors import FormatError, KdumpError
from kdump.targets.superblock import Content, identify_open

MAGIC = b"KDUMPRAW"
VERSION = 1
SLOT = 8192
SLOTS = (0, SLOT)
START = 64 << 10  # where the first file may begin
ALIGN = 4096
MAX_FILES = 64

EMPTY, WRITING, SAVED, CONSUMED = 0, 1, 2, 3  # states of the whole
OPEN, SEALED, ABORTED = 0, 1, 2  # states of a file

_HEADER = struct.Struct("<8sIIQI128sI")  # magic, version, state, sequence, files, crash, CRC-32 of the slot with 0 here
_FILE = struct.Struct("<64sQQI")  # name, offset, size, state


@dataclass(frozen=True)
class RawFile:
    """A file of the crash: `offset` and `size` in bytes."""

    name: str
    offset: int
    size: int
    state: int


@dataclass(frozen=True)
class RawHeader:
    """The contents of the device."""

    state: int
    crash: str = ""
    files: tuple[RawFile, ...] = ()
    sequence: int = 0

    @property
    def end(self) -> int:
        """Where the next file begins."""
        last = max((file.offset + file.size for file in self.files), default=START)
        return -(-last // ALIGN) * ALIGN

    def pack(self) -> bytes:
        """One slot."""
        files = b"".join(_FILE.pack(f.name.encode(), f.offset, f.size, f.state) for f in self.files)

        def slot(checksum: int) -> bytes:
            fields = VERSION, self.state, self.sequence, len(self.files), self.crash.encode(), checksum
            return (_HEADER.pack(MAGIC, *fields) + files).ljust(SLOT, b"\0")

        return slot(zlib.crc32(slot(0)))


def read_header(descriptor: int, path: str) -> RawHeader:
    """The newest whole header. Raises `FormatError` if the device holds none."""
    found = [header for at in SLOTS if (header := _unpack(os.pread(descriptor, SLOT, at)))]
    if not found:
        raise FormatError(
            "holds no raw dump area", path=path, remedy="`kdump collect --format` makes one and erases the partition"
        )
    return max(found, key=lambda header: header.sequence)


def write_header(descriptor: int, header: RawHeader) -> RawHeader:
    """Write to the older slot, durably; returns it with its new sequence number."""
    header = replace(header, sequence=header.sequence + 1)
    os.pwrite(descriptor, header.pack(), SLOTS[header.sequence % 2])
    os.fsync(descriptor)
    return header


def format_device(descriptor: int, path: str, *, force: bool = False) -> None:
    """Make an empty area. Raises `KdumpError` if something else is on the device, unless `force`."""
    head = os.pread(descriptor, 0x11000, 0)
    if not force and (what := foreign_content(identify_open(descriptor), head)):
        raise KdumpError(f"{path} is not empty", why=f"it holds {what}", remedy="choose another partition")
    known = [header for at in SLOTS if (header := _unpack(head[at : at + SLOT]))]
    newest = max(known, key=lambda header: header.sequence, default=RawHeader(EMPTY))
    if not force and newest.state in (WRITING, SAVED):
        raise KdumpError(
            f"{path} holds the crash {newest.crash}, which nobody fetched",
            remedy="`kdump collect` fetches it and frees the partition; --force erases it",
        )
    for _ in SLOTS:
        write_header(descriptor, RawHeader(EMPTY, sequence=_unpack_sequence(head)))
        head = os.pread(descriptor, 0x11000, 0)


def foreign_content(content: Content | None, head: bytes) -> str:
    """The foreign content of a device (from its content and its first 68 KiB); an empty string if it has none."""
    if content:
        return f"{content.fstype} {content.uuid}"
    if head[510:512] == b"\x55\xaa" or head[512:520] == b"EFI PART":
        return "a partition table"
    if head[4086:4096] == b"SWAPSPACE2":
        return "swap space"
    if any(_unpack(head[at : at + SLOT]) for at in SLOTS) or not any(head):
        return ""
    return "data that kdump does not know"


def _unpack_sequence(head: bytes) -> int:
    return max((header.sequence for at in SLOTS if (header := _unpack(head[at : at + SLOT]))), default=0)


def _unpack(slot: bytes) -> RawHeader | None:
    if len(slot) < SLOT or slot[:8] != MAGIC:
        return None
    _, version, state, sequence, count, crash, checksum = _HEADER.unpack_from(slot)
    at = _HEADER.size - 4
    if version != VERSION or count > MAX_FILES or zlib.crc32(slot[:at] + bytes(4) + slot[at + 4 :]) != checksum:
        return None
    files = []
    for number in range(count):
        name, offset, size, file_state = _FILE.unpack_from(slot, _HEADER.size + number * _FILE.size)
        files.append(RawFile(name.rstrip(b"\0").decode("utf-8", "replace"), offset, size, file_state))
    return RawHeader(state, crash.rstrip(b"\0").decode("utf-8", "replace"), tuple(files), sequence)
