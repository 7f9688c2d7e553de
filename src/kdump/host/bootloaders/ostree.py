"""Systems that are images: rpm-ostree keeps the kernel arguments of deployments, bootc takes them out of the image.

Sources: rpm-ostree(1) (kargs), ostree's boot loader entries, bootc's documentation (kargs.d). Neither tool is available
to the tests, which call programs of the same names that check the arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kdump.errors import KdumpError
from kdump.host.bootloaders.base import crashkernels
from kdump.host.changes import Command, Edit, file_change, text_of

BOOTED: Final = "run/ostree-booted"  # made by ostree's initramfs
ENTRIES: Final = "boot/loader/entries"
KARGS: Final = "/usr/lib/bootc/kargs.d/50-kdump.toml"


class RpmOstree:
    """Fedora CoreOS, Silverblue, RHEL for Edge: each change is a new deployment, booted next."""

    name = "rpm-ostree"

    def found(self, root: Path) -> bool:
        """Booted from a deployment, with rpm-ostree installed."""
        return (root / BOOTED).exists() and (root / "usr/bin/rpm-ostree").exists()

    def edit(self, root: Path, parameters: Sequence[str]) -> Edit:
        """One call that takes the old parameters away and adds the new ones; undoing is the call the other way."""
        before = _deployed(root)
        if before == list(parameters):
            return Edit()
        return Edit((), (Command(_kargs(before, parameters), undo=_kargs(parameters, before)),))


class Bootc:
    """An image that bootc deploys: the kernel arguments are files in it."""

    name = "bootc (kargs.d)"

    def found(self, root: Path) -> bool:
        """There is bootc and no rpm-ostree that could do it on the running machine."""
        return (root / "usr/bin/bootc").exists() and not RpmOstree().found(root)

    def edit(self, root: Path, parameters: Sequence[str]) -> Edit:
        """A file in the image, while it is built. Raises KdumpError on a machine that runs the image."""
        listed = ", ".join(f'"{each}"' for each in parameters)
        files = file_change(KARGS, f"# Written by `kdump setup`.\nkargs = [{listed}]\n", root)
        if files and (root / BOOTED).exists():
            raise KdumpError(
                "the kernel command line comes from the image that this machine runs",
                why=f"bootc takes it from {KARGS.rpartition('/')[0]}, and /usr cannot be written here",
                remedy=f"put kargs = [{listed}] into {KARGS} where the image is built",
            )
        return Edit(files)


def _kargs(old: Sequence[str], new: Sequence[str]) -> tuple[str, ...]:
    gone = (f"--delete-if-present={each}" for each in old if each not in new)
    return ("rpm-ostree", "kargs", *gone, *(f"--append-if-missing={each}" for each in new))


def _deployed(root: Path) -> list[str]:
    """The crashkernel= parameters of the deployment that is booted next: the entry with the highest version."""
    found = {}
    for entry in sorted((root / ENTRIES).glob("ostree-*.conf")):
        fields = dict(line.split(maxsplit=1) for line in (text_of(entry) or "").splitlines() if len(line.split()) > 1)
        version = fields.get("version", "")
        found[int(version) if version.isdecimal() else 0] = crashkernels(fields.get("options", ""))
    return found[max(found)] if found else []
