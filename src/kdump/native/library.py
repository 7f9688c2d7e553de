"""libkdump.so: opened if it was built, and refused if it was built from other sources than these."""

from __future__ import annotations

import binascii
import ctypes
import functools
import os
from pathlib import Path

from kdump.errors import KdumpError

__capture_files__ = ("libkdump.so",)

HERE = os.path.dirname(__file__)  # noqa: PTH120 -- no pathlib in the capture kernel's first moments
LIBRARY = Path(HERE, "libkdump.so")


def source_digest(directory: str | os.PathLike[str] | None = None) -> int | None:
    """CRC-32 of the C sources in a directory (None: this one), names and all; None without, as in the capture image."""
    directory = HERE if directory is None else directory
    names = sorted(name for name in os.listdir(directory) if name.endswith((".c", ".h")))  # noqa: PTH208
    digest = 0
    for name in names:
        with open(os.path.join(directory, name), "rb") as file:
            digest = binascii.crc32(file.read(), binascii.crc32(name.encode(), digest))
    return digest if names else None


@functools.cache
def library() -> ctypes.CDLL | None:
    """The functions of libkdump.so; None where it was not built.

    Raises `KdumpError` if it was built from other sources: functions called with another's arguments overwrite memory.
    """
    try:
        found = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    sources = source_digest()
    if sources is not None and _built_from(found) != sources:
        raise KdumpError(
            f"{LIBRARY} does not belong to this kdump",
            why="it was built from other C sources",
            remedy="build it again: in a checkout tools/bootstrap does so, pip install elsewhere",
        )
    return _declared(found)


def _built_from(found: ctypes.CDLL) -> int | None:
    try:
        return ctypes.c_uint32.in_dll(found, "kdump_sources").value
    except ValueError:  # it is older than the digest
        return None


def _declared(found: ctypes.CDLL) -> ctypes.CDLL:
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    found.kdump_pack.argtypes = [pointer, pointer, size, pointer, pointer]
    found.kdump_pack_file.argtypes = [pointer, number, pointer, size, size, pointer, pointer]
    found.kdump_pack.restype = found.kdump_pack_file.restype = ctypes.c_long
    found.kdump_write.argtypes = [number, pointer, size, ctypes.c_int64, size]
    found.kdump_zeros.argtypes = [pointer, size, size, pointer]
    found.kdump_heads.argtypes = [pointer, pointer, pointer, size, pointer, pointer, pointer]
    found.kdump_zeros.restype = found.kdump_heads.restype = None
    found.kdump_names.argtypes = [pointer, size, size, number, pointer]
    found.kdump_types.argtypes = [pointer, size, pointer, pointer, pointer]
    found.kdump_names.restype = found.kdump_types.restype = size
    found.kdump_marks.argtypes = [pointer, pointer, size, pointer, pointer]
    found.kdump_marks.restype = ctypes.c_uint
    found.kdump_tails.argtypes = [
        pointer, pointer, size, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_ubyte, pointer, pointer,
    ]  # fmt: skip
    found.kdump_tails.restype = size
    found.kdump_fates.argtypes = [pointer, pointer, size, pointer, pointer, pointer, pointer]
    found.kdump_fates.restype = None
    found.kdump_unpack.argtypes = [pointer, pointer, pointer, pointer, pointer, size, pointer, pointer]
    found.kdump_unpack_file.argtypes = [
        pointer, number, pointer, pointer, pointer, size, pointer, size, pointer, pointer,
    ]  # fmt: skip
    found.kdump_unpack.restype = found.kdump_unpack_file.restype = None
    found.kdump_schedules.argtypes = [pointer, size, pointer]
    found.kdump_words.argtypes = [pointer, pointer, size, pointer]
    found.kdump_schedules.restype = found.kdump_words.restype = size
    found.kdump_search_file.argtypes = [pointer, number, pointer, size]
    found.kdump_search_file.restype = number
    found.kdump_checksum.argtypes = [pointer, size]
    found.kdump_checksum.restype = ctypes.c_uint64
    found.kdump_deflate_work.restype = found.kdump_lz_work.restype = size
    return found
