"""Packages that only some commands need: a message at first use when one is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kdump.errors import KdumpError


@contextmanager
def extra(name: str, purpose: str) -> Iterator[None]:
    """Imports inside need linux-kdump's extra `name`; `purpose` is the subject of the message: "kdump shell".

    Raises `KdumpError` that says which package is missing and how to install it. A module of kdump itself that does not
    import is a fault of kdump, and stays an `ImportError`.
    """
    try:
        yield
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "kdump"):
            raise
        raise KdumpError(
            f"{purpose} needs a package that is not installed",
            why=f"{missing} is missing",
            remedy=f"install it, or all that such commands need: pip install 'linux-kdump[{name}]'",
        ) from None
