"""The client side of SFTP version 3, as much as saving a dump takes, with writes in flight.

Source: draft-ietf-secsh-filexfer-02; OpenSSH's PROTOCOL for the extensions posix-rename, fsync and statvfs.
"""

from __future__ import annotations

import errno
import os
import select
import struct
import time
from collections.abc import Callable
from math import inf

from kdump.errors import KdumpError

_INIT, _VERSION, _OPEN, _CLOSE, _READ, _WRITE, _OPENDIR, _READDIR, _REMOVE, _MKDIR, _RMDIR, _STAT, _RENAME = (
    1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 17, 18,
)  # fmt: skip
_STATUS, _HANDLE, _NAME, _ATTRS, _EXTENDED, _EXTENDED_REPLY = 101, 102, 104, 105, 200, 201
_OK, _EOF, _NO_SUCH_FILE, _DENIED = 0, 1, 2, 3
_FOR_READING = 0x01  # SSH_FXF_READ
_FOR_WRITING = 0x02 | 0x08 | 0x10  # SSH_FXF_WRITE | CREAT | TRUNC
_MODE = 0x04  # SSH_FILEXFER_ATTR_PERMISSIONS
_BLOCK = 32 << 10  # bytes a write: every server takes that much
_LARGE_BLOCK = 224 << 10  # as much as OpenSSH's server takes, or less
_IN_FLIGHT = 2 << 20  # bytes
_SMALL = 256 << 10  # bytes
_NAMES = 1 << 20  # in a directory


class SftpError(KdumpError):
    """The server refused; `code` is SFTP's status."""

    def __init__(self, what: str, code: int, message: str) -> None:
        super().__init__(what, why=message or f"SFTP status {code}")
        self.code = code


class Sftp:
    """A conversation over two file descriptors: `send` to the server, `receive` from it.

    `lost()` gives the words for a connection that ended; `seconds` is the time for all of it. All methods raise
    `KdumpError`, whatever the server sends.
    """

    def __init__(self, send: int, receive: int, lost: Callable[[], KdumpError], seconds: float = inf) -> None:
        self._end = time.monotonic() + seconds
        self._send = send
        self._receive = receive
        self._lost = lost
        self._number = 0
        self._flying: dict[int, str] = {}  # writes that were not answered: request number → path
        self._block = _BLOCK
        self._put(bytes([_INIT]) + struct.pack(">I", 3))
        answer = self._get()
        if answer[:1] != bytes([_VERSION]):
            raise KdumpError("the server does not speak SFTP")
        self.extensions: set[str] = set()
        rest = answer[5:]
        while rest:
            name, rest = _take(rest)
            _, rest = _take(rest)
            self.extensions.add(name.decode("ascii", "replace"))
        if "limits@openssh.com" in self.extensions:
            answer = self._ask(_EXTENDED, _string("limits@openssh.com"), "the server does not tell its limits")
            _packet, _read, write = _numbers(">QQQ", answer, 5)
            self._block = max(_BLOCK, min(write, _LARGE_BLOCK))

    def make_directory(self, path: str, mode: int = 0o700) -> None:
        """Make it; fine if it exists."""
        try:
            self._ask(_MKDIR, _string(path) + struct.pack(">II", _MODE, mode), f"{path} cannot be made")
        except SftpError:
            self._ask(_STAT, _string(path), f"{path} cannot be made")  # it exists: that is all that is wanted

    def open(self, path: str, mode: int = 0o600) -> bytes:
        """A handle for writing to a new or emptied file."""
        body = _string(path) + struct.pack(">III", _FOR_WRITING, _MODE, mode)
        return _take(self._ask(_OPEN, body, f"{path} cannot be opened")[5:])[0]

    def write(self, handle: bytes, path: str, data: memoryview, offset: int) -> None:
        """Send a write of any size; its failure may show in a later call."""
        for at in range(0, len(data), self._block):
            piece = data[at : at + self._block]
            while len(self._flying) * self._block >= _IN_FLIGHT:
                self._settle_one()
            self._number += 1
            self._flying[self._number] = path
            head = bytes([_WRITE]) + struct.pack(">I", self._number) + _string(handle)
            self._put(head + struct.pack(">QI", offset + at, len(piece)), piece)

    def sync(self, handle: bytes, path: str) -> None:
        """All writes are answered, and durable if the server can do that."""
        self.settle()
        if "fsync@openssh.com" in self.extensions:
            self._ask(_EXTENDED, _string("fsync@openssh.com") + _string(handle), f"{path} cannot be made durable")

    def close(self, handle: bytes, path: str) -> None:
        """Close a handle."""
        self._ask(_CLOSE, _string(handle), f"{path} cannot be closed")

    def rename(self, old: str, new: str) -> None:
        """Atomically, over `new` if the server can do that."""
        if "posix-rename@openssh.com" in self.extensions:
            self._ask(_EXTENDED, b"".join(map(_string, ("posix-rename@openssh.com", old, new))), f"{old}: no rename")
        else:
            self._ask(_RENAME, _string(old) + _string(new), f"{old} cannot be renamed")

    def read(self, path: str) -> bytes:
        """A small file: as much of it as the server gives at once, 32 KiB at least."""
        body = _string(path) + struct.pack(">II", _FOR_READING, 0)
        handle = _take(self._ask(_OPEN, body, f"{path} cannot be opened")[5:])[0]
        try:
            wanted = _string(handle) + struct.pack(">QI", 0, _SMALL)
            return _take(self._ask(_READ, wanted, f"{path} cannot be read")[5:])[0]
        finally:
            self.close(handle, path)

    def listing(self, path: str) -> list[str]:
        """Names in a directory."""
        handle = _take(self._ask(_OPENDIR, _string(path), f"{path} cannot be listed")[5:])[0]
        found: list[str] = []
        while True:
            try:
                answer = self._ask(_READDIR, _string(handle), f"{path} cannot be listed")
            except SftpError as error:
                self.close(handle, path)
                if error.code == _EOF:
                    return [name for name in found if name not in (".", "..")]
                raise
            (count,) = _numbers(">I", answer, 5)
            rest = answer[9:]
            for _ in range(count):
                name, rest = _take(rest)
                _, rest = _take(rest)
                rest = _skip_attributes(rest)
                text = name.decode("utf-8", "surrogateescape")
                if "/" not in text and "\0" not in text:  # no entry of a directory has these
                    found.append(text)
            if not count or len(found) > _NAMES:
                raise KdumpError(f"{path} cannot be listed", why="the server's list has no end")

    def remove(self, path: str) -> None:
        """Delete a file."""
        self._ask(_REMOVE, _string(path), f"{path} cannot be removed")

    def remove_directory(self, path: str) -> None:
        """Delete an empty directory."""
        self._ask(_RMDIR, _string(path), f"{path} cannot be removed")

    def free(self, path: str) -> int | None:
        """Bytes that may still be written below `path`; None if the server cannot tell."""
        if "statvfs@openssh.com" not in self.extensions:
            return None
        answer = self._ask(_EXTENDED, _string("statvfs@openssh.com") + _string(path), f"{path} is not there")
        _, size, _, _, available = _numbers(">QQQQQ", answer, 5)
        return min(size * available, (1 << 63) - 1)

    def settle(self) -> None:
        """Wait for the answers to all writes; raises the first failure when all are in."""
        failure: SftpError | None = None
        while self._flying:
            try:
                self._settle_one()
            except SftpError as error:
                failure = failure or error
        if failure:
            raise failure

    def _settle_one(self) -> None:
        answer = self._get()
        (number,) = _numbers(">I", answer, 1)
        if number not in self._flying:
            raise KdumpError("the server does not speak SFTP", why="it answers requests that were not made")
        path = self._flying.pop(number)
        self._check(answer, f"{path} cannot be written")

    def _ask(self, kind: int, body: bytes, problem: str) -> bytes:
        """One request and its answer, after those of the writes before it."""
        self.settle()
        self._number += 1
        self._put(bytes([kind]) + struct.pack(">I", self._number) + body)
        answer = self._get()
        if _numbers(">I", answer, 1) != (self._number,):
            raise KdumpError("the server does not speak SFTP", why="it answers requests that were not made")
        self._check(answer, problem)
        return answer

    def _check(self, answer: bytes, problem: str) -> None:
        if answer[0] != _STATUS:
            return
        (code,) = _numbers(">I", answer, 5)
        if code == _OK:
            return
        message = _take(answer[9:])[0][:200].decode("utf-8", "replace") if len(answer) >= 13 else ""
        raise SftpError(problem, code, message)

    def _put(self, head: bytes, data: memoryview | bytes = b"") -> None:
        head = struct.pack(">I", len(head) + len(data)) + head
        try:
            # In one call: the client makes a packet of what it finds in the pipe, even a few bytes.
            pieces = [memoryview(head), memoryview(data)]
            while pieces:
                sent = os.writev(self._send, pieces)
                while pieces and sent >= len(pieces[0]):
                    sent -= len(pieces.pop(0))
                if pieces:
                    pieces[0] = pieces[0][sent:]
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET):
                raise self._lost() from None
            raise

    def _get(self) -> bytes:
        (size,) = struct.unpack(">I", self._exactly(4))
        if not 1 <= size <= 1 << 20:
            raise KdumpError("the server does not speak SFTP", why=f"a packet of {size} bytes")
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            self._wait()
            piece = os.read(self._receive, size - len(found))
            if not piece:
                raise self._lost()
            found += piece
        return bytes(found)

    def _wait(self) -> None:
        """Until the server says something. In the capture kernel its own deadlines end that."""
        if self._end == inf:
            return
        left = self._end - time.monotonic()
        if left <= 0 or not select.select([self._receive], [], [], left)[0]:
            raise KdumpError("the server does not answer in time")


def _string(text: str | bytes) -> bytes:
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return struct.pack(">I", len(raw)) + raw


def _numbers(form: str, data: bytes, at: int = 0) -> tuple[int, ...]:
    """Numbers at a place of a packet. Raises KdumpError where it ends before."""
    if len(data) < at + struct.calcsize(form):
        raise KdumpError("the server does not speak SFTP", why="a packet ends early")
    return struct.unpack_from(form, data, at)


def _take(data: bytes) -> tuple[bytes, bytes]:
    (size,) = _numbers(">I", data)
    if 4 + size > len(data):
        raise KdumpError("the server does not speak SFTP", why="a string ends beyond its packet")
    return data[4 : 4 + size], data[4 + size :]


def _skip_attributes(data: bytes) -> bytes:
    (flags,) = _numbers(">I", data)
    at = 4 + 8 * bool(flags & 1) + 8 * bool(flags & 2) + 4 * bool(flags & 4) + 8 * bool(flags & 8)
    data = data[at:]
    if flags & 0x80000000:
        (count,) = _numbers(">I", data)
        data = data[4:]
        for _ in range(2 * count):
            _, data = _take(data)
    return data
