"""Where a machine's kernel command line is written: one module per boot loader, each proposing an `Edit`.

A boot loader says whether it is there (`found`) and what has to change so that kernels boot with given crashkernel=
parameters (`edit`). Nothing is changed here; see `kdump.host.changes`.
"""

from __future__ import annotations

from pathlib import Path

from kdump.host.bootloaders.base import BootLoader
from kdump.host.bootloaders.extlinux import Extlinux
from kdump.host.bootloaders.grub import Grub, Grubby
from kdump.host.bootloaders.kernel_install import KernelInstall
from kdump.host.bootloaders.ostree import Bootc, RpmOstree
from kdump.host.bootloaders.uki import UkiAddon

_IMAGES: tuple[BootLoader, ...] = (RpmOstree(), Bootc())  # write the files of the others, from the image's own


def loaders() -> tuple[BootLoader, ...]:
    """All that are known."""
    return (*_IMAGES, Grubby(), Grub(), KernelInstall(), Extlinux(), UkiAddon())


def detect(root: Path = Path("/")) -> list[BootLoader]:
    """Those that the machine uses; more than one is possible (kernel-install feeds GRUB as well as systemd-boot)."""
    images = [loader for loader in _IMAGES if loader.found(root)]
    return images or [loader for loader in loaders() if loader.found(root)]
