"""Which foreign configurations a machine has, and which reader each of them needs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kdump.errors import KdumpError, reason
from kdump.host.importers import Draft, debian, fedora, suse

# Where each of them keeps its configuration; Fedora's and RHEL's sysconfig goes with kdump.conf.
FEDORA: Final = "/etc/kdump.conf"
SYSCONFIG: Final = "/etc/sysconfig/kdump"
DEBIAN: Final = "/etc/default/kdump-tools"
_LARGEST: Final = 64 << 10  # characters of a foreign configuration


def detect(root: Path = Path("/")) -> list[Path]:
    """The foreign configurations that this machine has."""
    return [path for path in (root / each.lstrip("/") for each in (FEDORA, DEBIAN, SYSCONFIG)) if path.exists()]


def read(paths: list[Path], draft: Draft | None = None) -> Draft:
    """Foreign files added to `draft` (default: a new one), each read as its contents say. Raises KdumpError."""
    if not paths:
        raise KdumpError("no configuration of another kdump is here", remedy=f"name one, such as {FEDORA}")
    draft = draft or Draft()
    for path in paths:
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read(_LARGEST + 1)
        except (OSError, UnicodeDecodeError) as error:
            why = reason(error) if isinstance(error, OSError) else "it is not text in UTF-8"
            raise KdumpError(f"{path} cannot be read", why=why) from None
        if len(text) > _LARGEST:
            raise KdumpError(
                f"{path} is larger than {_LARGEST >> 10} KiB", why="configuration files of kdump are never that large"
            )
        reader: Callable[[str, str, Draft], None]
        if re.search(r"^\s*(KDUMP_SAVEDIR|KDUMP_DUMPLEVEL|KDUMP_KEEP_OLD_DUMPS)=", text, re.MULTILINE):
            reader = suse.read
        elif re.search(r"^\s*(USE_KDUMP|KDUMP_COREDIR|MAKEDUMP_ARGS|KDUMP_KEXEC_ARGS)=", text, re.MULTILINE):
            reader = debian.read
        elif re.search(r"^\s*#?\s*KDUMP_\w+=", text, re.MULTILINE):
            reader = fedora.read_sysconfig
        else:
            reader = fedora.read
        reader(text, str(path), draft)
    return draft
