"""Unified kernel images: their command line is sealed, but systemd-stub adds that of addons beside the loader.

Sources: systemd-stub(7) (addons in /loader/addons), ukify(1), the efivars that systemd-stub sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kdump.host.changes import Command, Edit

STUB: Final = "sys/firmware/efi/efivars/StubInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
ESP: Final = ("efi", "boot/efi", "boot")
ADDON: Final = "loader/addons/kdump.addon.efi"
UKIFY: Final = ("usr/bin/ukify", "usr/lib/systemd/ukify")


class UkiAddon:
    """A machine that booted a unified kernel image, with ukify installed."""

    name = "unified kernel image (addon)"

    def found(self, root: Path) -> bool:
        """Booted by systemd-stub, a system partition is mounted, and ukify is installed."""
        return (root / STUB).exists() and _esp(root) is not None and _ukify(root) is not None

    def edit(self, root: Path, parameters: Sequence[str]) -> Edit:
        """An addon with just these parameters. With Secure Boot it has to be signed: see ukify(1)."""
        addon = f"/{_esp(root)}/{ADDON}"
        build = ("/" + str(_ukify(root)), "build", f"--cmdline={' '.join(parameters)}", f"--output={addon}")
        directory = Command(("mkdir", "-p", addon.rpartition("/")[0]))
        return Edit((), (directory, Command(build, undo=("rm", "-f", addon))))


def _esp(root: Path) -> str | None:
    return next((place for place in ESP if (root / place / "EFI").is_dir()), None)


def _ukify(root: Path) -> str | None:
    return next((place for place in UKIFY if (root / place).exists()), None)
