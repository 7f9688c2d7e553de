"""Python's part of an image: what its two stages import."""

from __future__ import annotations

from collections.abc import Iterable

from kdump.image.closure import Closure, Search
from kdump.image.made import Made

STAGE0 = "kdump.image.stage0"


def search(entry: str, made: Made | None = None) -> Search:
    """The search for all that an image for `entry` imports, the first stage before the rest."""
    return Search(entry, "runpy", first=STAGE0, made=made)


def python_modules(entry: str, imports: Iterable[str] = (), made: Made | None = None) -> Closure:
    """Python's part of an image for `entry`. `imports` are modules that it imports by name, as the plan says."""
    return search(entry, made).find(*imports)
