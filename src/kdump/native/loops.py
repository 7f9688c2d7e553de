"""Loops over pages of a dump, and over the tables of a kernel in it, in C where libkdump.so was built.

Every caller can do without, slower.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdump import fileio
from kdump.native.library import library

__all__ = ["address", "find_noise", "heads", "library", "names", "pwrite_all", "types", "zero_pages"]

_PIECE = 16  # bytes for each token in what kdump_heads takes


def address(array: NDArray[Any]) -> int:
    """Where an array's first byte is."""
    return int(array.__array_interface__["data"][0])


def pwrite_all(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> int:
    """As `fileio.pwrite_all`, but Python's lock is not taken again for each piece, while other threads want it too."""
    size = memoryview(data).nbytes
    if size <= fileio.PIECE or not (loops := library()):
        return fileio.pwrite_all(descriptor, data, offset)
    error = loops.kdump_write(descriptor, address(np.frombuffer(data, np.uint8)), size, offset, fileio.PIECE)
    if error:
        raise OSError(error, os.strerror(error))
    return size


def zero_pages(pages: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """Which rows of `pages` (shape (n, page size), contiguous) hold nothing but zeros; None without libkdump.so."""
    if not (loops := library()):
        return None
    zero = np.empty(len(pages), np.bool_)
    loops.kdump_zeros(pages.ctypes.data, pages.shape[1], len(pages), zero.ctypes.data)
    return zero


def find_noise(pages: NDArray[np.uint8], rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which of pages[rows] no codec will make smaller; see loops.c. All are false without libkdump.so."""
    rows = np.ascontiguousarray(rows, np.int64)
    noise = np.zeros(len(rows), np.bool_)
    if loops := library():
        loops.kdump_noise(pages.ctypes.data, pages.shape[1], rows.ctypes.data, len(rows), noise.ctypes.data)
    return noise


def names(raw: NDArray[np.uint8], count: int, *, wide: bool) -> NDArray[np.int64] | None:
    """Where each of `count` names of kallsyms begins in `raw`, and where the last one ends; None without libkdump.so.

    They are fewer if `raw` ends before. `wide`: lengths from 128 on take two bytes.
    """
    if not (loops := library()):
        return None
    places = np.empty(min(count, len(raw)) + 1, np.int64)
    return places[: loops.kdump_names(raw.ctypes.data, len(raw), count, wide, places.ctypes.data)]


def heads(
    raw: NDArray[np.uint8], begins: NDArray[np.int64], ends: NDArray[np.int64], pieces: list[bytes]
) -> NDArray[np.uint64] | None:
    """The first eight bytes of each name behind its first one, as a little-endian number; None without libkdump.so.

    Names are the tokens raw[begin:end], which must lie in `raw`; `pieces` the strings that the 256 tokens stand for.
    """
    if not (loops := library()):
        return None
    if len(ends) and int(ends.max()) > len(raw):
        raise ValueError("a name lies outside")
    found = np.empty(len(begins), np.uint64)
    table = np.frombuffer(b"".join(piece[:_PIECE].ljust(_PIECE, b"\0") for piece in pieces), np.uint8)
    sizes = np.array([min(len(piece), _PIECE) for piece in pieces], np.uint8)
    begins, ends = np.ascontiguousarray(begins), np.ascontiguousarray(ends)
    loops.kdump_heads(
        raw.ctypes.data, begins.ctypes.data, ends.ctypes.data, len(found), table.ctypes.data, sizes.ctypes.data,
        found.ctypes.data,
    )  # fmt: skip
    return found


def types(words: NDArray[np.uint32], fixed: NDArray[np.int64], each: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Where each BTF type begins in `words`, and where the last one ends; None without libkdump.so.

    A type of kind k and n elements has fixed[k] + each[k] * n words, three or more; 0 stands for kinds that cannot be.
    If one is, or less than three words are left, it is the last place.
    """
    if not (loops := library()):
        return None
    fixed, each = np.ascontiguousarray(fixed, np.int64), np.ascontiguousarray(each, np.int64)
    words = np.require(words, np.uint32, ["C", "A"])
    places = np.empty(len(words) // 3 + 2, np.int64)
    count = loops.kdump_types(
        words.ctypes.data, len(words), fixed.ctypes.data, each.ctypes.data, places.ctypes.data
    )  # fmt: skip
    return places[:count]
