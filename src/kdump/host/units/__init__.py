"""Units, rules and hooks as they are installed, and where each goes. "@KDUMP@" stands for the command's path."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Final, NamedTuple

from kdump.errors import KdumpError
from kdump.host.carried import named
from kdump.host.changes import Command, Edit, FileChange, file_change
from kdump.host.config import Config


class Installed(NamedTuple):
    """A file of this package, where it goes, its mode, the directory without which it is of no use.

    `networked`: it is of use only if a target is across the network; `fleet`: only if one is a collector.
    """

    name: str
    path: str
    mode: int = 0o644
    needs: str = "/run/systemd/system"
    networked: bool = False
    fleet: bool = False


FILES: Final = (
    Installed("linux-kdump.service", "/etc/systemd/system/linux-kdump.service"),
    Installed("linux-kdump-reload.service", "/etc/systemd/system/linux-kdump-reload.service"),
    Installed("linux-kdump-reload.path", "/etc/systemd/system/linux-kdump-reload.path"),
    Installed("linux-kdump-collect.service", "/etc/systemd/system/linux-kdump-collect.service"),
    Installed("network.conf", "/etc/systemd/system/linux-kdump-collect.service.d/network.conf", networked=True),
    Installed("linux-kdump-inventory.service", "/etc/systemd/system/linux-kdump-inventory.service", fleet=True),
    Installed("linux-kdump-inventory.timer", "/etc/systemd/system/linux-kdump-inventory.timer", fleet=True),
    Installed("kdump.rules", "/etc/udev/rules.d/98-kdump.rules", needs="/etc/udev"),
    Installed("kernel-postinst", "/etc/kernel/postinst.d/zz-kdump", 0o755, "/etc/kernel/postinst.d"),
    Installed("kernel-postrm", "/etc/kernel/postrm.d/zz-kdump", 0o755, "/etc/kernel/postrm.d"),
    Installed("kernel.install", "/etc/kernel/install.d/95-kdump.install", 0o755, "/etc/kernel/install.d"),
)
LOCAL: Final = "/etc/systemd/system/linux-kdump-collect.service.d/local.conf"
WATCHED: Final = "/etc/systemd/system/linux-kdump-reload.path.d/local.conf"
OWN: Final = "/etc/kdump"  # linux-kdump-reload.path watches all of it
FETCHED: Final = "/var/crash"  # where `kdump collect` puts what it fetches; linux-kdump-collect.service names it
SPOOLS: Final = ("/var/spool", "/var/log", "/var/lib")  # where mail programs keep what they are to send
# Undone last to first: nothing may reload the capture kernel while it is unloaded.
ENABLED: Final = ("linux-kdump.service", "linux-kdump-collect.service", "linux-kdump-reload.path")
INVENTORY: Final = "linux-kdump-inventory.timer"  # enabled where a target is a collector


def text(name: str, command: str) -> str:
    """A file of this package with the command's path in its place."""
    return (files(__name__) / name).read_text().replace("@KDUMP@", command)


def local(config: Config) -> str | None:
    """Additional permissions of linux-kdump-collect.service on this machine, as a drop-in, or None.

    The unit itself may write below /var/crash only.
    """
    places = [url.removeprefix("file://") for url in config.targets if url.startswith("file://")]
    paths = [place for place in places if place != FETCHED]
    paths += SPOOLS if config.notify.mail else ()
    lines = [f"ReadWritePaths={_quoted(path)}" for path in paths]
    if config.notify.command:
        lines += ["# What the command of [notify] writes to is not known here.", "ProtectSystem=full", "ProtectHome=no"]
    if not lines:
        return None
    return "\n".join(["# By `kdump setup`, from kdump.toml.", "[Service]", *lines]) + "\n"


def watched(config: Config) -> str | None:
    """Additional paths of linux-kdump-reload.path, as a drop-in, or None."""
    paths = [path for path in dict.fromkeys(named(config)) if Path(path).parent != Path(OWN)]
    if not paths:
        return None
    lines = (f"PathChanged={path.replace('%', '%%')}" for path in paths)
    return "\n".join(["# By `kdump setup`, from kdump.toml.", "[Path]", *lines]) + "\n"


def edit(
    root: Path,
    command: str | None = None,
    *,
    networked: bool = False,
    fleet: bool = False,
    allowed: str | None = None,
    watch: str | None = None,
) -> Edit:
    """The edit that installs the files and enables the units that are not enabled.

    `allowed` is what `local` says, `watch` what `watched` says.
    """
    changes = tuple(_changes(root, command or executable(), networked=networked, fleet=fleet))
    if (root / "run/systemd/system").is_dir():
        changes += (*file_change(LOCAL, allowed, root), *file_change(WATCHED, watch, root))
    if not (root / "run/systemd/system").is_dir():
        return Edit(changes)
    units = (*ENABLED, INVENTORY) if fleet else ENABLED
    enable = tuple(_enable(unit) for unit in units if not _enabled(root, unit))
    reload = Command(("systemctl", "daemon-reload"), again=True)
    return Edit(changes, (reload, *enable)) if changes or enable else Edit()


def executable() -> str:
    """The installed `kdump` command, as units must name it. Raises KdumpError if there is none."""
    beside = Path(sys.prefix) / "bin/kdump"
    found = str(beside) if beside.exists() else shutil.which("kdump")
    if not found:
        raise KdumpError("the kdump command is not installed", remedy="pip install linux-kdump")
    return found


def _changes(root: Path, command: str, *, networked: bool, fleet: bool) -> Iterator[FileChange]:
    for each in FILES:
        if (each.networked and not networked) or (each.fleet and not fleet):
            yield from file_change(each.path, None, root)
        elif (root / each.needs.lstrip("/")).is_dir():
            yield from file_change(each.path, text(each.name, command), root, each.mode)


def _quoted(path: str) -> str:
    """A path as systemd reads it, to be left out if it does not exist (systemd.syntax(7), systemd.exec(5))."""
    plain = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"-{plain}"'


def _enable(unit: str) -> Command:
    """Enable a unit. It is stopped so that a reload that is asked for meanwhile does not cancel the stop."""
    disable = ("systemctl", "disable", "--now", "--job-mode=replace-irreversibly", unit)
    needs = tuple(each.path for each in FILES if each.name == unit)
    return Command(("systemctl", "enable", unit), undo=disable, needs=needs)


def _enabled(root: Path, unit: str) -> bool:
    wants = (root / "etc/systemd/system").glob("*.target.wants")
    return any((each / unit).is_symlink() for each in wants)
