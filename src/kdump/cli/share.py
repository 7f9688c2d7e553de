"""Files below share/ for man and the shells: made when the wheel is built, and by `kdump setup` where man looks."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kdump.cli import completion, roff
from kdump.cli.parsers import pages
from kdump.files.drafts import replace_file
from kdump.host.changes import Command, Edit
from kdump.host.units import executable

SHARE: Final = Path("/usr/local/share")  # an administrator's, on the search path of man and of every shell


def files() -> Mapping[str, str]:
    """Paths below share/ and their texts."""
    known = list(pages())
    texts = {f"man/man8/kdump-{page.command.name}.8": roff.manual(page) for page in known}
    return texts | {
        "man/man8/kdump.8": roff.overview(known),
        "man/man5/kdump.toml.5": roff.configuration(),
        "bash-completion/completions/kdump": completion.bash(known),
        "zsh/site-functions/_kdump": completion.zsh(known),
        "fish/vendor_completions.d/kdump.fish": completion.fish(known),
    }


def write(share: Path) -> int:
    """Put the files below `share`; returns how many there are."""
    texts = files()
    for name, text in texts.items():
        (share / name).parent.mkdir(parents=True, exist_ok=True)
        replace_file(share / name, text.encode(), mode=0o644)
    return len(texts)


def remove(share: Path) -> int:
    """Take the files away, and directories that are empty then (but man's own); returns how many there were."""
    count = 0
    for name in files():
        path = share / name
        if path.exists():
            path.unlink()
            count += 1
        with contextlib.suppress(OSError):  # something else is in it, or it is gone already
            path.parent.rmdir()
            if path.parent.parent != share / "man":
                path.parent.parent.rmdir()
    return count


def edit() -> Edit:
    """The edit that puts the files where man and the shells look, unless they are there already."""
    texts = files()
    for share in (SHARE, Path("/usr/share")):
        if all(
            (share / name).exists() and (share / name).read_text(encoding="utf-8") == text
            for name, text in texts.items()
        ):
            return Edit()
    command = (executable(), "man")
    return Edit((), (Command((*command, "--install"), undo=(*command, "--remove")),))
