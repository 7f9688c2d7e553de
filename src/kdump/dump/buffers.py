"""Memory for batches of pages, used again once nothing refers to it."""

from __future__ import annotations

import threading
import weakref

import numpy as np
from numpy.typing import NDArray


class Buffers:
    """A pool that grows to what is in use at a time; threads may share it.

    The kernel must zero new memory, which takes a tenth of all CPU time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[tuple[NDArray[np.uint8], weakref.ref[NDArray[np.uint8]]]] = []

    def __len__(self) -> int:
        """The number of buffers, in use or free."""
        return len(self._all)

    def take(self, size: int) -> NDArray[np.uint8]:
        """At least that many bytes that nothing else refers to. They are not reused while views of them exist."""
        with self._lock:
            held = [each for each in self._all if len(each[0]) >= size or each[1]() is not None]
            number = next((i for i, (each, user) in enumerate(held) if len(each) >= size and user() is None), None)
            buffer = np.empty(size, np.uint8) if number is None else held.pop(number)[0]
            user = buffer[:]  # views of what it is filled with keep this object, and nothing else does
            self._all = [*held, (buffer, weakref.ref(user))]
            return user
