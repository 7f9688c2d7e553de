"""Records of rehearsals and captures: did it work, and how much memory did it take?"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from kdump.errors import FormatError
from kdump.files.drafts import replace_file
from kdump.foreign import LATEST, Schema, boolean, items, load_object, number, text, whole
from kdump.units import LARGEST_SIZE

NAME: Final = "rehearsal.json"
_SIZE: Final = whole(0, LARGEST_SIZE)
_REHEARSAL: Final[Schema] = {
    "when": number(0, LATEST), "passed": boolean, "release": text(255), "reserved": _SIZE, "peak": _SIZE,
    "proved": items(text()),
}  # fmt: skip


@dataclass(frozen=True)
class Rehearsal:
    """The last rehearsal: Unix time, whether it passed, the kernel; `reserved`: bytes of its reservation, `peak`: how
    much of that was in use at most (0: unknown); `proved`: what it showed.
    """

    when: float
    passed: bool
    release: str
    reserved: int = 0
    peak: int = 0
    proved: tuple[str, ...] = ()


def last(state: Path) -> Rehearsal | None:
    """The last rehearsal recorded under the state directory, or None."""
    try:
        content = load_object((state / NAME).read_bytes(), state / NAME, _REHEARSAL)
        return Rehearsal(**{**content, "proved": tuple(content.get("proved", ()))})
    except (OSError, FormatError, TypeError):  # the last: keys of another version
        return None


def record(rehearsal: Rehearsal, state: Path) -> None:
    """Make it the last rehearsal."""
    state.mkdir(parents=True, exist_ok=True)
    replace_file(state / NAME, (json.dumps(asdict(rehearsal), indent=1) + "\n").encode(), mode=0o644)
