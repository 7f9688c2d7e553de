"""libkdump.so: loops in C (`*.c` here), where the package was built with a C compiler. Who calls it can do without."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

__capture_files__ = ("libkdump.so",)

LIBRARY = Path(__file__).with_name("libkdump.so")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The functions of libkdump.so; None where it was not built, or of another source than this."""
    try:
        return _declared(ctypes.CDLL(str(LIBRARY)))
    except (OSError, AttributeError):
        return None


def _declared(found: ctypes.CDLL) -> ctypes.CDLL:
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    found.kdump_pack.argtypes = [pointer, pointer, size, pointer, pointer]
    found.kdump_pack_file.argtypes = [pointer, number, pointer, size, size, pointer, pointer]
    found.kdump_pack.restype = found.kdump_pack_file.restype = ctypes.c_long
    found.kdump_write.argtypes = [number, pointer, size, ctypes.c_int64, size]
    found.kdump_zeros.argtypes = [pointer, size, size, pointer]
    found.kdump_noise.argtypes = [pointer, size, pointer, size, pointer]
    found.kdump_heads.argtypes = [pointer, pointer, pointer, size, pointer, pointer, pointer]
    found.kdump_zeros.restype = found.kdump_noise.restype = found.kdump_heads.restype = None
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
    found.kdump_checksum.argtypes = [pointer, size]
    found.kdump_checksum.restype = ctypes.c_uint64
    found.kdump_deflate_work.restype = found.kdump_lz_work.restype = size
    return found
