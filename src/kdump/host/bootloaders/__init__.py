"""Where a machine's kernel command line is written: one module per boot loader, each proposing an `Edit`.

A boot loader says whether it is there (`found`) and what has to change so that kernels boot with given crashkernel=
parameters (`edit`). Nothing is changed here; see `kdump.host.changes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from kdump.host.changes import Edit


class BootLoader(Protocol):
    """One way in which machines keep their kernel command line; `root` is where the machine's files are."""

    name: str

    def found(self, root: Path) -> bool:
        """Whether the machine uses it."""

    def edit(self, root: Path, parameters: Sequence[str]) -> Edit:
        """What gives every kernel these crashkernel= parameters ("crashkernel=256M") and no others."""


def loaders() -> tuple[BootLoader, ...]:
    """All that are known."""
    from kdump.host.bootloaders.extlinux import Extlinux
    from kdump.host.bootloaders.grub import Grub, Grubby
    from kdump.host.bootloaders.kernel_install import KernelInstall
    from kdump.host.bootloaders.uki import UkiAddon

    return (Grubby(), Grub(), KernelInstall(), Extlinux(), UkiAddon())


def detect(root: Path = Path("/")) -> list[BootLoader]:
    """Those that the machine uses; more than one is possible (kernel-install feeds GRUB as well as systemd-boot)."""
    return [loader for loader in loaders() if loader.found(root)]


def crashkernels(cmdline: str) -> list[str]:
    """The crashkernel= parameters of a command line."""
    return [word for word in cmdline.split() if word.startswith("crashkernel=")]


def with_parameters(cmdline: str, parameters: Sequence[str]) -> str:
    """A command line with these crashkernel= parameters and no others: as it is if it has them, else they end it."""
    if crashkernels(cmdline) == list(parameters):
        return cmdline
    kept = [word for word in cmdline.split() if not word.startswith("crashkernel=")]
    return " ".join([*kept, *parameters])
