"""Pages out of a kdump-compressed dump, by the codec bit of their descriptor.

A page must come out at exactly the block size; nothing larger is ever allocated, whatever the data claims. Codecs that
few dumps use (lzo, snappy) come from the system's libraries or optional packages (the extra `codecs`), and are plain
Python where neither is there; the capture path never needs them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from kdump.errors import FormatError, KdumpError
from kdump.memory.codecs import CODECS, LZO, SNAPPY, ZLIB, ZSTD
from kdump.memory.pieces import Pieces

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kdump.memory.unpack import Unpacker

__capture_omits__ = ("lzallright", "cramjam")  # 5 MB that a capture image need not carry

NAMES = {each.flag: each.name for each in CODECS.values() if each.flag}

Codec = Callable[[memoryview], bytes]


class Decompressor:
    """Decompresses pages of `page_size` bytes. Thread-safe: each thread has its own contexts."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._local = threading.local()
        self._shared: dict[int, Unpacker | None] = {}

    def __call__(self, data: memoryview, codec: int, path: str, offset: int) -> memoryview:
        """The page in `data`. Raises `FormatError` (naming `path` and `offset`) if it is damaged."""
        decode = getattr(self._local, NAMES.get(codec, "unknown"), None)
        if decode is None:
            decode = self._codec(codec, path, offset)
            setattr(self._local, NAMES[codec], decode)
        try:
            page = decode(data)
        except KdumpError:
            raise
        except Exception as error:  # noqa: BLE001 - each codec has its own exceptions; all of them mean this
            raise FormatError(
                f"a page does not decompress ({NAMES[codec]})", path=path, offset=offset, why=str(error)
            ) from None
        if len(page) != self._page_size:
            raise FormatError(
                f"a page decompresses to {len(page)} bytes, not {self._page_size} ({NAMES[codec]})",
                path=path,
                offset=offset,
            )
        return memoryview(page)

    def many(
        self, pieces: Pieces, codec: int, pages: NDArray[np.uint8], rows: NDArray[np.intp], path: str
    ) -> NDArray[np.bool_]:
        """Unpack pieces of the file `path` to `pages[rows]`; which of them are whole pages now.

        `codec` 0 stands for pages that are not compressed.
        """
        native = self._native(codec)
        if native is not None:
            return native(pieces, pages, rows)
        _, offsets, sizes = pieces
        import numpy as np

        done = np.zeros(len(rows), np.bool_)
        for index, (offset, size, row) in enumerate(zip(offsets.tolist(), sizes.tolist(), rows.tolist(), strict=True)):
            piece = pieces.piece(offset, size)
            try:
                page = self(piece, codec, path, offset) if codec else piece
            except FormatError:
                continue
            if len(page) == self._page_size:
                pages[row] = np.frombuffer(page, np.uint8)
                done[index] = True
        return done

    def _native(self, codec: int) -> Unpacker | None:
        """Unpacks in C; None where libkdump.so or the codec's library is not there."""
        if codec not in self._shared:
            from kdump.memory.unpack import Shared

            try:
                self._shared[codec] = Shared(codec, self._page_size)
            except LookupError:
                self._shared[codec] = None
        return self._shared[codec]

    def _codec(self, codec: int, path: str, offset: int) -> Codec:
        make = {ZLIB: _zlib, ZSTD: _zstd, LZO: _lzo, SNAPPY: _snappy}.get(codec)
        if make is None:
            raise FormatError(f"no such compression: {codec:#x}", path=path, offset=offset, field="page_desc.flags")
        return make(self._page_size)


def _zlib(page_size: int) -> Codec:
    from isal import isal_zlib

    def decode(data: memoryview) -> bytes:
        page: bytes = isal_zlib.decompressobj().decompress(data, page_size + 1)
        return page

    return decode


def _zstd(page_size: int) -> Codec:
    import zstandard

    context = zstandard.ZstdDecompressor()

    def decode(data: memoryview) -> bytes:
        claimed = zstandard.frame_content_size(data)
        if claimed not in (-1, page_size):  # the library would allocate whatever is claimed
            return bytes(0)
        return context.decompress(data, max_output_size=page_size)

    return decode


def _lzo(page_size: int) -> Codec:
    try:
        from lzallright import LZOCompressor
    except ImportError:
        from kdump.memory import plain_lz

        return partial(plain_lz.lzo, limit=page_size)
    context = LZOCompressor()

    def decode(data: memoryview) -> bytes:
        # Its output grows past the hint, but LZO expands 255 times at most and a descriptor names a page at most.
        page: bytes = context.decompress(data, page_size)
        return page

    return decode


def _snappy(page_size: int) -> Codec:
    try:
        from cramjam import snappy
    except ImportError:
        from kdump.memory import plain_lz

        return partial(plain_lz.snappy, limit=page_size)

    def decode(data: memoryview) -> bytes:
        page = bytearray(page_size)
        return bytes(page) if snappy.decompress_raw_into(data, page) == page_size else b""

    return decode
