"""extlinux and U-Boot's copy of its format: APPEND lines, or Debian's u-boot-update that writes them.

Sources: SYSLINUX documentation (APPEND), U-Boot doc/README.distro, Debian's u-boot-menu: u-boot-update reads
/etc/default/u-boot, then /etc/u-boot-menu/conf.d; without U_BOOT_PARAMETERS it takes /etc/kernel/cmdline or "ro quiet".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kdump.host.bootloaders.base import with_parameters
from kdump.host.bootloaders.kernel_install import CMDLINE
from kdump.host.changes import Command, Edit, FileChange, file_change, text_of

MENU: Final = "/boot/extlinux/extlinux.conf"
DEFAULTS: Final = "/etc/default/u-boot"
DROP_IN: Final = "/etc/u-boot-menu/conf.d/zz-kdump.conf"
BUILT_IN: Final = "ro quiet"
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
        text = text_of(root / MENU.lstrip("/")) or ""
        menu = file_change(MENU, edit_menu(text, parameters), root)
        tool = root / "usr/sbin/u-boot-update"
        if not tool.exists():
            return Edit(menu)
        files: tuple[FileChange, ...] = ()
        defaults = root / DEFAULTS.lstrip("/")
        before = text_of(defaults) or ""
        given = [found[2] for line in before.splitlines() if (found := _PARAMETERS.fullmatch(line))]
        fragments = "u-boot-menu/conf.d" in tool.read_text(errors="replace")
        if not given and (root / CMDLINE.lstrip("/")).exists() and not _fragments(root):
            pass  # it takes kernel-install's line, which is edited as that
        elif fragments:
            words = f"${{U_BOOT_PARAMETERS:-{BUILT_IN}}} {' '.join(parameters)}"
            files = file_change(DROP_IN, f'# Written by `kdump setup`.\nU_BOOT_PARAMETERS="{words}"\n', root)
        else:
            kept = [line for line in before.splitlines() if not _PARAMETERS.fullmatch(line)]
            line = f'U_BOOT_PARAMETERS="{with_parameters(given[-1] if given else BUILT_IN, parameters)}"'
            files = file_change(DEFAULTS, "\n".join([*kept, line]) + "\n", root)
        return Edit(files, (Command(("u-boot-update",), again=True),) if files or menu else ())


def _fragments(root: Path) -> list[Path]:
    """Fragments, ours aside, that set the parameters."""
    places = [root / "usr/share/u-boot-menu/conf.d", root / "etc/u-boot-menu/conf.d"]
    found = [each for place in places for each in sorted(place.glob("*.conf")) if each.name != Path(DROP_IN).name]
    return [each for each in found if "U_BOOT_PARAMETERS=" in (text_of(each) or "")]


def edit_menu(text: str, parameters: Sequence[str]) -> str:
    """The menu with the parameters at the end of each APPEND line."""
    lines = []
    for line in text.splitlines():
        found = _APPEND.fullmatch(line)
        lines.append(found[1] + with_parameters(found[2], parameters) if found else line)
    return "\n".join(lines) + "\n"
