"""A stream that encrypts to age recipients whatever is written to it and passes the ciphertext on.

Works for any order that `Stream` allows: the chunks of the gap at the front are made when the gap is filled.
"""

from __future__ import annotations

from collections.abc import Sequence

from kdump.files.digest import Pieces
from kdump.targets.age import CHUNK, Sealer
from kdump.targets.protocol import Stream


class EncryptedStream:
    """Encrypts into `below`. `pieces` has the plaintext's digests, `below` sees nothing but ciphertext."""

    def __init__(self, below: Stream, recipients: Sequence[str]) -> None:
        self.name = below.name
        self.pieces = Pieces()
        self._below = below
        self._sealer = Sealer(recipients)
        self._gap = bytearray()  # the plaintext of all chunks that the gap at the front touches
        self._filled = 0  # how much of `_gap` belongs to the gap itself and the body behind it
        self._pending = bytearray()  # plaintext that does not fill a chunk yet
        self._number = 0  # the next chunk of the body
        self._started = False
        self._end = 0

    def skip(self, size: int) -> None:
        """The first `size` bytes come later."""
        self._gap = bytearray(-(-size // CHUNK) * CHUNK)
        self._filled = self._end = size
        self._number = len(self._gap) // CHUNK

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Encrypt and pass on every chunk that is full and not the last."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        self.pieces.add(self._end, rest)
        self._end += size
        if room := min(len(self._gap) - self._filled, size):
            self._gap[self._filled : self._filled + room] = rest[:room]
            self._filled += room
            rest = rest[room:]
        self._pending += rest
        full = (len(self._pending) - 1) // CHUNK * CHUNK  # the last chunk must be marked as such: always keep something
        if full > 0:
            self._start()
        for at in range(0, full, CHUNK):
            self._below.write(self._sealer.seal(self._number, bytes(self._pending[at : at + CHUNK]), last=False))
            self._number += 1
        if full > 0:
            del self._pending[:full]
        return size

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Fill the gap; it is encrypted on `seal`."""
        raw = memoryview(data).cast("B")
        if offset + len(raw) > len(self._gap):
            raise ValueError("outside the gap at the front")
        self.pieces.add(offset, raw)
        self._gap[offset : offset + len(raw)] = raw
        return len(raw)

    def seal(self) -> None:
        """The last chunk, the gap's chunks, then the file below."""
        body = bool(self._pending) or not self._gap
        chunks = [bytes(self._gap[at : min(at + CHUNK, self._filled)]) for at in range(0, self._filled, CHUNK)]
        last = None if body else len(chunks) - 1
        head = [self._sealer.seal(number, chunk, last=number == last) for number, chunk in enumerate(chunks)]
        front = self._sealer.header + b"".join(head)
        if body:
            self._start()
            self._below.write(self._sealer.seal(self._number, bytes(self._pending), last=True))
        else:
            self._below.skip(len(front))  # the body ended within the gap's last chunk, so nothing went out yet
        if self._gap:
            self._below.pwrite(front, 0)
        self._below.seal()

    def abort(self) -> None:
        """Abort the file below; without its head it cannot be decrypted, and is not meant to be."""
        self._below.abort()

    def _start(self) -> None:
        """Before the first ciphertext: the header, or room for it and the gap's chunks."""
        if self._started:
            return
        self._started = True
        if self._gap:
            self._below.skip(self._sealer.offset(len(self._gap) // CHUNK))
        else:
            self._below.write(self._sealer.header)
