"""Python's part of an image: what its two stages import."""

from __future__ import annotations

from collections.abc import Iterable

from kdump.image.closure import Closure, Search
from kdump.image.made import Made
from kdump.image.platform import NATIVE, Platform

STAGE0 = "kdump.image.stage0"


def search(entry: str, made: Made | None = None, platform: Platform = NATIVE) -> Search:
    """The search for all that an image for `entry` imports, the first stage before the rest."""
    return Search(entry, "runpy", first=STAGE0, made=made, platform=platform)


def python_modules(
    entry: str, imports: Iterable[str] = (), made: Made | None = None, platform: Platform = NATIVE
) -> Closure:
    """Python's part of an image for `entry`. `imports` are modules that it imports by name, as the plan says."""
    return search(entry, made, platform).find(*imports)
