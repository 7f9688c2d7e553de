"""The directory in which this machine's images and records are kept, and the move to it from the one of before.

Until 2026-11 it was /var/lib/kdump, which belongs to Debian's kdump-tools as well: purging that package removed ours.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from kdump.files.drafts import replace_file

STATE: Final = Path("/var/lib/linux-kdump")  # not /boot, which may be read-only, small or FAT
BEFORE: Final = Path("/var/lib/kdump")
_OURS: Final = ("setup.json", "rehearsal.json", "rehearsals", "drill.json", "seen.json", "build.cache")
_RECORD: Final = "image.json"  # a directory with one is an image's


def below(root: Path) -> Path:
    """The directory on the machine whose files are below `root`."""
    return root / STATE.relative_to("/")


def move_in(state: Path = STATE, before: Path = BEFORE) -> list[str]:
    """Bring what is ours from the directory of before; returns the names of what was moved, and leaves the rest there.

    What the new directory has already is not replaced. Does nothing without the right to. Raises OSError.
    """
    if not before.is_dir() or not os.access(before, os.W_OK):
        return []
    moved = []
    for entry in sorted(before.iterdir()):
        image = entry.is_dir() and (entry / _RECORD).is_file()
        if (image or entry.name in _OURS) and not entry.is_symlink() and not (state / entry.name).exists():
            state.mkdir(parents=True, exist_ok=True)
            shutil.move(entry, state / entry.name)
            moved.append(entry.name)
            if image:
                _say_where(state / entry.name / _RECORD, entry, state / entry.name)
    with suppress(OSError):  # somebody else's things are in it
        before.rmdir()
    return moved


def _say_where(record: Path, old: Path, new: Path) -> None:
    """An image's record names the image by its path. One that cannot be read is left: it counts as none."""
    with suppress(ValueError, KeyError, TypeError):
        content = json.loads(record.read_bytes())
        content["image"] = str(new / Path(content["image"]).relative_to(old))
        replace_file(record, (json.dumps(content, indent=1) + "\n").encode())


def settled() -> Path:
    """The directory, after what is left in the one of before was moved in: where commands begin."""
    move_in()
    return STATE
