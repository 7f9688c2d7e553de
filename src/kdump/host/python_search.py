"""The search for Python's part of the capture image: it takes longest, and is begun before anything else is done."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from kdump.host.home import STATE
from kdump.image.closure import Search
from kdump.image.made import Made
from kdump.image.python import search

MADE: Final = "build.cache"
ENTRY: Final = "kdump.capture"  # what the image runs


def python_search(state: Path | None = STATE) -> Search:
    """The search, with what parts of the last image were made of; without it for None."""
    return search(ENTRY, Made(state / MADE) if state else None)
