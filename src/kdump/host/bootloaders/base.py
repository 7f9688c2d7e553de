"""Common parts of the boot loaders: their protocol, and crashkernel= parameters of a command line."""

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
        """The edit that gives every kernel these crashkernel= parameters ("crashkernel=256M") and no others."""


def crashkernels(cmdline: str) -> list[str]:
    """The crashkernel= parameters of a command line."""
    return [word for word in cmdline.split() if word.startswith("crashkernel=")]


def with_parameters(cmdline: str, parameters: Sequence[str]) -> str:
    """A command line with these crashkernel= parameters and no others: as it is if it has them, else they end it."""
    if crashkernels(cmdline) == list(parameters):
        return cmdline
    kept = [word for word in cmdline.split() if not word.startswith("crashkernel=")]
    return " ".join([*kept, *parameters])
