"""Other tools that load a capture kernel: found, disabled so that none replaces kdump's, and enabled again by undoing.

Nothing of theirs is deleted. Units are masked, which keeps whether they are enabled; udev rules and kernel-install
plugins are shadowed by files of the same name below /etc; hooks lose their executable bits.
Sources: the file lists of Debian's kdump-tools, Fedora's and RHEL's kdump-utils, SUSE's kdump.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from kdump.host.changes import Command, Edit, below, file_change

UNITS: Final = ("usr/lib/systemd/system", "lib/systemd/system", "etc/systemd/system")
RULES: Final = ("usr/lib/udev/rules.d", "lib/udev/rules.d")
PLUGINS: Final = "usr/lib/kernel/install.d"
SHADOW: Final = "# By `kdump setup`: hides the file of {} with this name, until `kdump setup --undo`.\n"


class Neighbour(NamedTuple):
    """A tool, and what of it loads a capture kernel or changes crashkernel= by itself. Hooks are absolute paths."""

    name: str
    units: tuple[str, ...]
    rules: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()


NEIGHBOURS: Final = (
    Neighbour(
        "Debian's kdump-tools",
        units=("kdump-tools.service",),
        rules=("50-kdump-tools.rules",),
        hooks=("/etc/kernel/postinst.d/kdump-tools", "/etc/kernel/postrm.d/kdump-tools"),
    ),
    # Fedora's, RHEL's and SUSE's have units of the same name.
    Neighbour(
        "the distribution's kdump",
        units=("kdump.service", "kdump-early.service", "kdump-commandline.service"),
        rules=("98-kexec.rules", "70-kdump.rules"),
        plugins=("60-kdump.install", "92-crashkernel.install"),
    ),
)


def installed(root: Path) -> list[Neighbour]:
    """Those that this machine has a unit of."""
    return [each for each in NEIGHBOURS if any(_unit(root, unit) for unit in each.units)]


def awake(root: Path, neighbour: Neighbour) -> list[str]:
    """Its units that are started at boot: enabled, and not masked."""
    wants = list((root / "etc/systemd/system").glob("*.wants"))
    return [
        unit
        for unit in neighbour.units
        if any((each / unit).is_symlink() for each in wants) and not _masked(root, unit)
    ]


def edit(root: Path) -> Iterator[Edit]:
    """The edit that disables each."""
    for neighbour in installed(root):
        shadows = [f"/etc/udev/rules.d/{name}" for name in neighbour.rules if _in(root, RULES, name)]
        shadows += [f"/etc/kernel/install.d/{name}" for name in neighbour.plugins if _in(root, (PLUGINS,), name)]
        text = SHADOW.format(neighbour.name)
        files = tuple(change for path in shadows for change in file_change(path, text, root))
        yield Edit(files, (*_mask(root, neighbour), *_unhook(root, neighbour)))


def _mask(root: Path, neighbour: Neighbour) -> Iterator[Command]:
    for unit in neighbour.units:
        if _unit(root, unit) and not _masked(root, unit):
            yield Command(("systemctl", "mask", "--now", unit), undo=("systemctl", "unmask", unit))


def _unhook(root: Path, neighbour: Neighbour) -> Iterator[Command]:
    for hook in neighbour.hooks:
        path = below(root, hook)
        mode = stat.S_IMODE(path.stat().st_mode) if path.is_file() else 0
        if mode & 0o111:
            yield Command(("chmod", "a-x", hook), undo=("chmod", f"{mode:o}", hook), needs=(hook,))


def _unit(root: Path, unit: str) -> bool:
    return _in(root, UNITS, unit)


def _in(root: Path, places: tuple[str, ...], name: str) -> bool:
    return any((root / place / name).is_file() for place in places)


def _masked(root: Path, unit: str) -> bool:
    link = root / "etc/systemd/system" / unit
    return link.is_symlink() and str(link.readlink()) == "/dev/null"
