"""Kernel releases compared as the kernel's own versions, whatever a distribution adds behind them."""

from __future__ import annotations

import re
from typing import Final

_VERSION: Final = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,6}))?(?:-rc(\d{1,3}))?")
_DEBIAN: Final = re.compile(r"\b(\d{1,4}\.\d{1,4}\.\d{1,6})-\d")

Version = tuple[int, int, int, int]


def version(release: str) -> Version | None:
    """(major, minor, patch, candidate) of a release; 6.12-rc3 is before 6.12. None if it is not a release."""
    found = _VERSION.search(release)
    if not found:
        return None
    major, minor, patch, candidate = found.groups()
    return int(major), int(minor), int(patch or 0), int(candidate) if candidate else 1 << 16


def has_fix(release: str, fixed_in: str) -> bool | None:
    """Whether a kernel is at or past one of the versions in `fixed_in` ("6.1.120, 6.12.41, 6.17").

    A fix in a stable branch counts for that branch, the highest version for everything after it. None: not known.
    """
    own = version(release)
    fixes = [found for word in re.split(r"[,\s]+", fixed_in) if (found := version(word))]
    if own is None or not fixes:
        return None
    for fix in fixes:
        if fix[:2] == own[:2]:
            return own >= fix
    return own >= max(fixes)
