"""The checksum by which purgatory knows whether a segment is as it was loaded; purgatory.S computes the same."""

from __future__ import annotations

import ctypes

from kdump.kexec.syscalls import buffer_of
from kdump.native.library import library

WORD = 8  # bytes
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # SplitMix64's
_BATCH = 1 << 17  # bytes at a time: what is worked out of them stays in the processor's cache


def checksum(data: bytes | bytearray | memoryview) -> int:
    """The sum, modulo 2^64, of mix(w(i) + i * step) over the 64-bit words of `data`; zeros fill up the last one."""
    view = memoryview(data).cast("B")
    count = len(view) // WORD
    total = _words(view[: count * WORD])
    if len(view) % WORD:
        total += _mix(int.from_bytes(view[count * WORD :], "little"), count + 1)
    return total % (1 << 64)


def _mix(word: int, number: int) -> int:
    word = (word + number * _STEP) % (1 << 64)
    word = (word ^ word >> 30) * _FIRST % (1 << 64)
    word = (word ^ word >> 27) * _SECOND % (1 << 64)
    return word ^ word >> 31


def _words(view: memoryview) -> int:
    compiled = library()  # not by way of `engine`, which needs NumPy: importing that takes as long as all of this
    if compiled is None:
        return _words_in_numpy(view)
    buffer, size = buffer_of(view)
    result: int = compiled.kdump_checksum(ctypes.addressof(buffer), size // WORD)
    return result


def _words_in_numpy(view: memoryview) -> int:
    import numpy as np

    total, done = 0, 0
    for at in range(0, len(view), _BATCH):
        words = np.frombuffer(view[at : at + _BATCH], "<u8")
        numbers = np.arange(done + 1, done + 1 + len(words), dtype=np.uint64)
        words = words + numbers * np.uint64(_STEP)
        words = (words ^ words >> np.uint64(30)) * np.uint64(_FIRST)
        words = (words ^ words >> np.uint64(27)) * np.uint64(_SECOND)
        total += int((words ^ words >> np.uint64(31)).sum(dtype=np.uint64))
        done += len(words)
    return total
