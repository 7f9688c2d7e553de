"""Files that hold secrets (tokens, keys, passwords): nobody but their owner may read them."""

from __future__ import annotations

import os
import stat
from typing import Final

from kdump.errors import KdumpError, reason

LIMIT: Final = 1 << 20  # bytes of such a file


def read_secret(path: str | os.PathLike[str], what: str = "", remedy: str = "") -> str:
    """The text of a secret file, at most LIMIT bytes of UTF-8. Errors call it `what`, with `remedy` if it is missing.

    Raises KdumpError if it is missing, larger, not text, or if others may read it.
    """
    what = f"{what} in {path}" if what else str(path)
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(LIMIT + 1)
        if len(data) > LIMIT:
            raise ValueError("it is larger than 1 MiB")
        text = data.decode()
    except (OSError, ValueError) as error:
        raise KdumpError(f"{what} cannot be read", why=reason(error), remedy=remedy) from None
    if mode & 0o077:
        raise KdumpError(f"{path} may be read by others", why=f"its mode is {mode:04o}", remedy=f"chmod 600 {path}")
    return text
