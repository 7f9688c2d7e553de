"""extlinux and U-Boot's copy of its format: APPEND lines, or Debian's u-boot-update that writes them.

Sources: SYSLINUX documentation (APPEND), U-Boot doc/README.distro, Debian's u-boot-menu (/etc/default/u-boot).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kdump.host.bootloaders import with_parameters
from kdump.host.changes import Command, Edit, file_change

MENU: Final = "/boot/extlinux/extlinux.conf"
DEFAULTS: Final = "/etc/default/u-boot"
_APPEND: Final = re.compile(r"(\s*append\s+)(.*)", re.IGNORECASE)
_PARAMETERS: Final = re.compile(r"U_BOOT_PARAMETERS=([\"']?)(.*)\1\s*")


class Extlinux:
    """A menu in extlinux's format."""

    name = "extlinux"

    def found(self, root: Path) -> bool:
        """There is a menu."""
        return (root / MENU.lstrip("/")).exists()

    def edit(self, root: Path, parameters: Sequence[str]) -> Edit:
        """u-boot-update's defaults where it writes the menu, else the menu itself."""
        if (root / "usr/sbin/u-boot-update").exists():
            defaults = root / DEFAULTS.lstrip("/")
            before = defaults.read_text() if defaults.exists() else ""
            given = next((found[2] for line in before.splitlines() if (found := _PARAMETERS.fullmatch(line))), "")
            kept = [line for line in before.splitlines() if not _PARAMETERS.fullmatch(line)]
            line = f'U_BOOT_PARAMETERS="{with_parameters(given, parameters)}"'
            files = file_change(DEFAULTS, "\n".join([*kept, line]) + "\n", root)
            return Edit(files, (Command(("u-boot-update",), again=True),) if files else ())
        text = (root / MENU.lstrip("/")).read_text()
        return Edit(file_change(MENU, edit_menu(text, parameters), root))


def edit_menu(text: str, parameters: Sequence[str]) -> str:
    """The menu with the parameters at the end of each APPEND line."""
    lines = []
    for line in text.splitlines():
        found = _APPEND.fullmatch(line)
        lines.append(found[1] + with_parameters(found[2], parameters) if found else line)
    return "\n".join(lines) + "\n"
