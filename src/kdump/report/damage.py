"""Errors from damaged memory or an unknown kernel, distinguished from faults of ours."""

from __future__ import annotations

import traceback
from pathlib import Path

from kdump.errors import KdumpError

# A missing symbol or type is a LookupError, a missing member a KdumpError (`objects.MissingMemberError`), and nonsense
# values bring about the others. Reports note them and go on. TypeError and AttributeError are not among them: these are
# faults of kdump, and a report must not blame the dump for them.
DAMAGE = (KdumpError, LookupError, ArithmeticError, ValueError, RecursionError)


def fault(error: Exception) -> str:
    """A sentence about an error of kdump itself."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" at {Path(frame.filename).name}:{frame.lineno}" for frame in last)
    return f"a fault of kdump, not of the dump, please report it: {type(error).__name__}: {error}{where}"
