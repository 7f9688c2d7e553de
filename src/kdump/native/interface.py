"""The interface of an engine: loops over pages of a dump, over struct pages, and over the tables of a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Take = Callable[[int], NDArray[np.uint8]]  # so many bytes of memory, or more, that nothing else refers to


class Packed(NamedTuple):
    """A batch of compressed pages: their bytes back to back, and each page's size.

    One as large as a page is raw, one of size 0 was left out: it is all zeros.
    """

    data: bytes | memoryview  # read-only
    sizes: NDArray[np.uint32]


class Packer(Protocol):
    """Compresses pages, each by itself; one for each thread."""

    def __call__(self, pages: NDArray[np.uint8], *, drop_zeros: bool) -> Packed:
        """Pack `pages`, of shape (n, page size) and contiguous, all or without those of zeros.

        Raises `KdumpError` if one cannot be compressed.
        """

    def of_file(self, file: int, places: NDArray[np.int64], size: int, *, drop_zeros: bool) -> Packed | None:
        """The same of pages of `size` bytes at these places in a file, a descriptor; None if it cannot do that."""


class PageLayout(NamedTuple):
    """How a struct page is marked. Sizes and offsets are in bytes.

    Bit 0 of the marks stands for a tail (`head` is odd), bit 1 for an anonymous page (`mapping` is odd), bit 6 for a
    head. `of_flags`, shape (n, 256), has the marks of each value of each byte of the flags, from the lowest byte on.
    `types` are at most five page types and their marks, to be compared under `type_mask`; `classes` has the class of
    each combination of marks.
    """

    size: int
    flags: int
    mapping: int
    mapcount: int
    head: int
    of_flags: NDArray[np.uint16]
    type_mask: int
    types: dict[int, int]
    classes: NDArray[np.uint8]


class WordSet(NamedTuple):
    """Words to look for, rising; bit i of `table` (little-endian, 1 << `bits` of them) is set where one's hash is i.

    The hash is the upper `bits` bits of the word times HASH (kdump.native.words).
    """

    words: NDArray[np.uint64]
    table: NDArray[np.uint8]
    bits: int


class FoundWords(NamedTuple):
    """What a search of pages came upon: places of lines, and of words with their values; places in bytes, rising."""

    lines: NDArray[np.int64]
    words: NDArray[np.int64]
    values: NDArray[np.uint64]


class Searcher(Protocol):
    """Looks for words, and for lines of AES key schedules, in pages of a file; one for each thread."""

    def __call__(self, file: int, places: NDArray[np.int64]) -> FoundWords | None:
        """What the pages at `places` in a file, a descriptor, hold; places as if they lay one behind the other.

        None if that cannot be done: not all can be read, or there is more than expected.
        """


Numbers = NDArray[np.int64] | NDArray[np.intp]
# `unpack(data, offsets, sizes, pages, rows)`: which pieces of `data` (a descriptor, or bytes), by rising offsets, are
# whole pages in `pages[rows]` now (dtype bool). For one thread.
Unpacker = Callable[[int | bytes | memoryview, Numbers, Numbers, NDArray[np.uint8], Numbers], NDArray[np.bool_]]

TAIL, ANONYMOUS, HEAD = 1 << 0, 1 << 1, 1 << 6  # marks that every engine knows by these numbers


class StructPages(Protocol):
    """Marks struct pages of one layout."""

    def mark(self, raw: memoryview) -> tuple[NDArray[np.uint16], NDArray[np.uint8], int]:
        """Marks and class of each whole struct page in `raw`, and all marks that there are."""

    def follow_tails(
        self, raw: memoryview, virtual: int, marks: NDArray[np.uint16], classes: NDArray[np.uint8],
        before: tuple[int, int],
    ) -> int:  # fmt: skip
        """Give tails the class of the head they point to: one of these, which lie at `virtual`, or the one before.

        `before`: its address and class. Returns how many tails point to no head; their class becomes 0.
        """


class Fates(NamedTuple):
    """The fates of pages: which are kept (dtype bool), which of these come first; how many each class has."""

    kept: NDArray[np.bool_]
    first: NDArray[np.bool_]
    counts: NDArray[np.int64]


class Engine(Protocol):
    """The loops. An engine is a module: `kdump.native.compiled` or `kdump.native.plain`."""

    @property
    def NAME(self) -> str:
        """ "compiled" or "plain"."""

    def packer(self, codec: str, level: int | None, take: Take) -> Packer:
        """A compressor of "zstd", "zlib", "lzo" or "snappy"; what it packs goes to memory from `take`.

        `level` is zstd's effort (None: 1); the others have none. Raises `KdumpError` where the engine lacks the codec.
        """

    def unpacker(self, codec: int, page_size: int) -> Unpacker | None:
        """Unpacks pages of that size; `codec` is its bit in a descriptor, 0 for raw pages.

        None where the engine, or the codec's library, cannot.
        """

    def pwrite_all(self, descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write all of `data` at `offset` (bytes); its size. Raises OSError."""

    def zero_pages(self, pages: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which rows of `pages` (shape (n, page size), contiguous) hold nothing but zeros."""

    def schedules(self, data: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Places of the lines of 64 bytes in `data` (whole lines, contiguous) that may be in an AES key schedule.

        Words 12 and 13, or 14 and 15, of such a line are each the one before it XOR the one 4, 6 or 8 before it, and
        none of these is 0 (FIPS 197, 5.2).
        """

    def words(self, data: NDArray[np.uint8], wanted: WordSet) -> NDArray[np.int64]:
        """Places of the words of 8 bytes in `data` (whole words, contiguous) that are `wanted`."""

    def searcher(self, page_size: int, wanted: WordSet, *, schedules: bool) -> Searcher:
        """Both searches in pages of a file: for `wanted`, and with `schedules` for those."""

    def struct_pages(self, layout: PageLayout) -> StructPages:
        """The function that marks struct pages of that layout."""

    def find_fates(self, classes: NDArray[np.uint8], held: NDArray[np.bool_], table: NDArray[np.uint8]) -> Fates:
        """`table`, shape (256,): bit 0 if pages of a class are kept, bit 1 if they come first, where they are `held`.

        The counts are of all pages, shape (256,).
        """

    def names(self, raw: NDArray[np.uint8], count: int, *, wide: bool) -> NDArray[np.int64]:
        """Where each of `count` names of kallsyms begins in `raw`, and where the last one ends.

        They are fewer if `raw` ends before. `wide`: lengths from 128 on take two bytes.
        """

    def heads(
        self, raw: NDArray[np.uint8], begins: NDArray[np.int64], ends: NDArray[np.int64], pieces: list[bytes]
    ) -> NDArray[np.uint64]:
        """The first eight bytes of each name behind its first one, as a little-endian number.

        Names are the tokens raw[begin:end]; `pieces` the strings that the 256 tokens stand for. Raises `ValueError` if
        a name does not lie in `raw`.
        """

    def types(self, words: NDArray[np.uint32], fixed: NDArray[np.int64], each: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each BTF type begins in `words`, and where the last one ends.

        A type of kind k and n elements has fixed[k] + each[k] * n words, three or more; 0 stands for kinds that cannot
        be. If one is, or less than three words are left, it is the last place.
        """
