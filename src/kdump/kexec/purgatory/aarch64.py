"""Purgatory with a device tree: the code between two kernels, and the block of parameters it reads.

aarch64.S is the source and says what it does; code_aarch64.py carries its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from kdump.arch.aarch64 import AARCH64
from kdump.kexec.devicetree import WORD, DeviceTree
from kdump.kexec.purgatory import HEAD_AT, Entry, Region, filled
from kdump.kexec.purgatory.code_aarch64 import CODE

ARCHITECTURE: Final = AARCH64
SIZE = len(CODE)
MAGIC = b"KDUMPPA1"
# kernel_entry, device_tree, uart, conduit, reset_after, resets, region_count
HEAD = struct.Struct("<7Q")
REGIONS_AT = HEAD_AT + HEAD.size
CONDUITS = {"smc": 1, "hvc": 2}  # how PSCI is called (Arm DEN0022)


class Parameters(NamedTuple):
    """The parameters of purgatory. Addresses are physical; `uart` is that of a PL011, 0 if absent.

    `conduit` is a value of CONDUITS, 0 where the firmware has no PSCI; `reset_after` in seconds, 0 stops for good.
    """

    kernel_entry: int
    device_tree: int
    uart: int = 0
    conduit: int = 0
    reset_after: int = 10
    regions: Sequence[Region] = ()


def make(parameters: Parameters) -> bytes:
    """The bytes to load, at any page-aligned address; its first byte is the entry point."""
    p = parameters
    resets = bool(p.conduit and p.reset_after)
    return filled(
        CODE, HEAD, p.kernel_entry, p.device_tree, p.uart, p.conduit, p.reset_after, resets, regions=p.regions
    )


def for_machine(entry: Entry, tree: DeviceTree, root: Path = Path("/")) -> bytes:
    """The bytes to load on the machine that `tree` describes, whose sys is below `root`."""
    return make(
        Parameters(
            entry.kernel,
            entry.device_tree,
            uart=uart(tree),
            conduit=conduit(tree, root),
            reset_after=entry.reset_after,
            regions=entry.regions,
        )
    )


def uart(tree: DeviceTree) -> int:
    """Physical address of the PL011 that /chosen names as the console; 0 if it is another device, or none."""
    path = tree.chosen().text("stdout-path").partition(":")[0]
    aliases = tree.find("/aliases")
    if path and not path.startswith("/") and aliases:
        path = aliases.text(path)
    node = tree.find(path) if path.startswith("/") else None
    if node is None or b"arm,pl011" not in node.properties.get("compatible", b"").split(b"\0"):
        return 0
    if path.count("/") > 1:  # on a bus with addresses of its own
        return 0
    width = tree.root.cell("#address-cells", 2) * WORD
    return int.from_bytes(node.properties.get("reg", b"")[:width], "big")


def conduit(tree: DeviceTree, root: Path = Path("/")) -> int:
    """How PSCI is called on this machine, a value of CONDUITS; 0 if absent.

    With ACPI the fixed description table tells it. Source: Arm DEN0022; ACPI 6.5, 5.2.9 (ARM_BOOT_ARCH at 129).
    """
    node = tree.find("/psci")
    if node:
        return CONDUITS.get(node.text("method"), 0)
    try:
        flags = (root / "sys/firmware/acpi/tables/FACP").read_bytes()[129:131]
    except OSError:
        return 0
    compliant, hvc = int.from_bytes(flags, "little") & 1, int.from_bytes(flags, "little") >> 1 & 1
    return CONDUITS["hvc" if hvc else "smc"] if compliant else 0
