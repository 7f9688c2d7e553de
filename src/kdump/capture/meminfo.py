"""How much memory the capture kernel had and what used it: what the size of the reservation is learned from.

Sources: /proc/meminfo (Documentation/filesystems/proc.rst), /proc/self/status (VmHWM).
"""

from __future__ import annotations

import threading
from typing import TypedDict

REPORT_NEEDS = 64 << 20  # bytes available before the report is tried: it takes up to 48 MiB, NumPy included
_INTERVAL = 0.25  # seconds between two samples


def meminfo(path: str = "/proc/meminfo") -> dict[str, int]:
    """Every line of /proc/meminfo that is a size, in bytes."""
    found = {}
    with open(path, encoding="ascii") as lines:
        for line in lines:
            name, _, rest = line.partition(":")
            number, _, unit = rest.strip().partition(" ")
            if unit == "kB":
                found[name] = int(number) << 10
    return found


def peak_resident(path: str = "/proc/self/status") -> int:
    """VmHWM of this process in bytes: the most memory it ever had resident."""
    with open(path, encoding="ascii") as lines:
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


def ram(path: str = "/proc/iomem") -> int:
    """Bytes of RAM that this kernel was given, its own code and data included; 0 if it hides that."""
    size = 0
    with open(path, encoding="ascii") as lines:
        for line in lines:
            place, _, name = line.rstrip("\n").partition(" : ")
            if name == "System RAM":  # what is indented lies within
                first, _, last = place.partition("-")
                size += int(last, 16) + 1 - int(first, 16)
    return size if size > 1 << 20 else 0


class MemoryUse(TypedDict):
    """Bytes. `ram` is the reservation, as the capture kernel sees it, and `total` what it had of that for use.

    `at_lowest` is what used the memory when the least was available.
    """

    ram: int
    total: int
    lowest_available: int
    peak_used: int
    peak_resident: int
    at_lowest: dict[str, int]


class Sampler:
    """Watches MemAvailable from a thread of its own."""

    _KEPT = ("MemFree", "Cached", "AnonPages", "Mapped", "Shmem", "Slab", "SUnreclaim", "KernelStack", "PageTables")

    def __init__(self) -> None:
        self._lowest = meminfo()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL):
            self._sample()

    def _sample(self) -> None:
        now = meminfo()
        if now["MemAvailable"] < self._lowest["MemAvailable"]:
            self._lowest = now

    def result(self) -> MemoryUse:
        """The measurements so far."""
        self._sample()
        lowest = self._lowest
        return {
            "ram": ram(),
            "total": lowest["MemTotal"],
            "lowest_available": lowest["MemAvailable"],
            "peak_used": lowest["MemTotal"] - lowest["MemAvailable"],
            "peak_resident": peak_resident(),
            "at_lowest": {name: lowest[name] for name in self._KEPT if name in lowest},
        }

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()
