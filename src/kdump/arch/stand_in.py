"""The stand-in for a library of linear algebra in the capture image: an architecture's part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

MESSAGE: Final = b"kdump: the capture image has no linear algebra library (BLAS), and something called it\n"


class StandIn(NamedTuple):
    """Machine code of one architecture: of dot products by BLAS's letter for the type, of what makes their integers 64
    bits wide first, of what writes MESSAGE, which stands behind it, and ends the process; and the largest page.
    """

    dot: Mapping[str, bytes]
    widen: bytes
    die: bytes
    page: int
