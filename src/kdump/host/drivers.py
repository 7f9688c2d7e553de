"""Which kernel modules the capture kernel needs: those of the way to the targets, and those it may ask for there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from kdump.image.kernel_tree import KernelTree, canonical
from kdump.image.module_aliases import normalised
from kdump.targets.protocol import Spec

FILESYSTEM_MODULES: Final = {
    "ext2": "ext4",
    "ext3": "ext4",
    "nfs": "nfsv3",
    "nfs4": "nfsv4",
}  # others are called like the file system
# What request_module() is called with by those who need a module only for some data or some devices: crypto/api.c,
# fs/nls/nls_base.c, drivers/scsi/scsi_dh.c, drivers/md/{md,dm-table}.c, net/sunrpc/{auth,svcauth}.c, fs/nfs/pnfs.c.
_ON_REQUEST: Final = ("crypto_", "nls_", "scsi_dh_", "md_", "dm_", "rpc_", "nfs_")

Drivers = tuple[Iterable[str], Iterable[str]]  # modules in use, modaliases of the same devices


def modules_for(specs: Iterable[Spec], hardware: Iterable[Drivers], tree: KernelTree) -> dict[str, None]:
    """Names of the modules that the targets need, in the order of first need, as a dict's keys.

    For the running kernel, the drivers in use; for another one, those whose aliases match the devices.
    """
    modules: dict[str, None] = {}
    running = tree.release == os.uname().release
    loaded = {name.replace("-", "_") for name in loaded_modules()} if running else set()
    for drivers, modaliases in hardware:
        for name in drivers:
            if ":" in name:  # a device's: of all the modules that could drive it, those that are there
                fitting = tree.module_index.matching(name)
                modules.update((each, None) for each in fitting if not running or each.replace("-", "_") in loaded)
                continue
            modules.update(dict.fromkeys(tree.module_index.matching(name) if "-" in name else [name]))
        for modalias in () if running else modaliases:
            modules.update(dict.fromkeys(tree.module_index.matching(modalias)))
    for spec in specs:
        if fstype := spec.facts.get("fstype"):
            modules[FILESYSTEM_MODULES.get(fstype, fstype)] = None
    known = tree.module_index
    if not running:
        # A driver that is a module here may be called differently there: its alias has found it.
        return {name: None for name in modules if known.get(name) or name in known.builtin}
    return modules


def loaded_modules(root: Path = Path("/")) -> list[str]:
    """Names of the modules that the running kernel has loaded."""
    try:
        lines = (root / "proc/modules").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []  # a kernel without modules
    return [line.split(" ", 1)[0] for line in lines]


def asked_for_at_run_time(tree: KernelTree, root: Path = Path("/")) -> list[str]:
    """Modules that the running kernel has loaded and that others ask for by name or alias: `tree` will ask, too.

    Which of them serve the targets cannot be told: who uses an algorithm or a character set is not recorded.
    """
    index = tree.module_index
    loaded = (index.get(canonical(name)) for name in loaded_modules(root))
    return [
        module.name
        for module in loaded
        if module and any(normalised(word).startswith(_ON_REQUEST) for word in (module.name, *module.aliases))
    ]


def notes(tree: KernelTree, modules: Iterable[str]) -> tuple[str, ...]:
    """Notes on lines of modprobe.d that kdump does not understand or does not apply, for an image with these
    modules."""
    commands = tree.conf.install
    carried = [module.name for module in tree.module_index.closure(modules) if module.name in commands]
    return (
        *tree.conf.problems,
        *(f"`install {name} {commands[name]}` of modprobe.d is not run: {name} is loaded instead" for name in carried),
    )
