"""Where the pieces of a new kernel go: free space inside the allowed ranges, handed out from the top or the bottom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdump.errors import KdumpError
from kdump.kexec.memory_map import merge, subtract
from kdump.memory.protocol import Range
from kdump.units import size_text

PAGE = 4096


class Space:
    """Free physical memory for segments. `free` are the ranges still free, sorted.

    Everything handed out has whole units of `unit` bytes to itself.
    """

    def __init__(self, allowed: Iterable[Range], taken: Iterable[Range] = (), unit: int = PAGE) -> None:
        self.unit = unit
        self.total: Sequence[Range] = merge(allowed)
        self.free: Sequence[Range] = subtract(self.total, taken)

    def take(
        self, what: str, size: int, *, align: int = 0, low: int = 0, high: int = 1 << 64, top_down: bool = True
    ) -> int:
        """Reserve `size` bytes (rounded up to units) at a multiple of `align` inside [low, high); returns the address.

        Raises KdumpError, naming `what`, if no free range is large enough.
        """
        size = -(-size // self.unit) * self.unit
        align = max(align, self.unit)
        for part in reversed(self.free) if top_down else self.free:
            start, end = max(part.start, low), min(part.end, high)
            address = (end - size) // align * align if top_down else -(-start // align) * align
            if address >= start and address + size <= end:
                self.free = subtract(self.free, [Range(address, address + size)])
                return address
        raise KdumpError(
            f"no room for the {what} ({size_text(size)})",
            why=f"of {size_text(sum(part.size for part in self.total))}, the largest free piece "
            f"is {size_text(max((part.size for part in self.free), default=0))}",
            remedy="reserve more (crashkernel=) or use a smaller image",
        )

    def take_at(self, what: str, place: Range) -> None:
        """Reserve exactly `place`. Raises KdumpError if any of it is not free."""
        if subtract([place], self.free):
            raise KdumpError(f"no room for the {what} at {place.start:#x}-{place.end - 1:#x}")
        self.free = subtract(self.free, [place])


def pages(size: int) -> int:
    """`size` rounded up to whole pages."""
    return -(-size // PAGE) * PAGE
