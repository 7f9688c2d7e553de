"""The segments of a new kernel that is told of its machine by a device tree.

The kernel gets the tree that the running one was started with, except /chosen: command line, image, and for a panic
which memory is its own and where the dead kernel's core headers lie. On a machine with ACPI the tree holds nothing but
/chosen, and that leads to EFI's memory map.
Source: Documentation/arch/arm64/booting.rst, Documentation/arch/riscv/boot.rst; the devicetree schema chosen.yaml;
drivers/of/kexec.c, drivers/of/fdt.c.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from kdump import arch
from kdump.errors import KdumpError
from kdump.kexec import devicetree, elfcore
from kdump.kexec.cmdline import option_name, split
from kdump.kexec.devicetree import DeviceTree
from kdump.kexec.formats.kernel_image import KernelImage
from kdump.kexec.load_plan import Placed, Plan, main_reservation, region, reset_after
from kdump.kexec.memory_map import read_memory_map, subtract
from kdump.kexec.placement import Space
from kdump.kexec.purgatory import Entry, aarch64, riscv64
from kdump.kexec.wishes import Wishes
from kdump.memory.protocol import Range


class Purgatory(Protocol):
    """The module of one architecture's purgatory."""

    SIZE: int

    def for_machine(self, entry: Entry, tree: DeviceTree, root: Path = ...) -> bytes:
        """The bytes to load on the machine that `tree` describes, whose sys is below `root`."""


PURGATORIES: Final[dict[arch.Architecture, Purgatory]] = {each.ARCHITECTURE: each for each in (aarch64, riscv64)}
UNIT = 1 << 16  # the largest page that a kernel may have: segments are whole pages to the old kernel and to the new one
TREE = Path("sys/firmware/fdt")
SEED, RNG_SEED = 8, 64  # bytes
# What the boot loader told the running kernel, and what an earlier load told it: nothing of that holds for the next.
_STALE = (
    "linux,elfcorehdr", "linux,usable-memory-range", "linux,initrd-start", "linux,initrd-end", "kaslr-seed", "rng-seed",
    "linux,booted-from-kexec", "linux,ima-kexec-buffer", "linux,stdout-path",
)  # fmt: skip


def plan_panic(
    kernel: KernelImage,
    initrd: memoryview | None,
    cmdline: str,
    *,
    wishes: Wishes | None = None,
    root: Path = Path("/"),
) -> Plan:
    """Segments of a panic kernel. Raises KdumpError if something does not fit or the machine hides what is needed."""
    memory_map = read_memory_map(root)
    wishes = wishes or Wishes()
    space = Space(wishes.bound([main_reservation(memory_map)]), unit=UNIT)
    mappings = elfcore.read_mappings(memory_map, root)
    architecture, tree = arch.by_machine(kernel.machine), read_tree(root)
    if architecture.guarded_firmware:  # the capture kernel would die of a look at it
        guarded = [Range(at, at + size) for at, size in tree.set_aside()]
        memory_map = memory_map._replace(ram=subtract(memory_map.ram, guarded))
    headers = elfcore.core_headers(memory_map, elfcore.read_notes(root), mappings, Range(0, 0), 0)
    packed = elfcore.pack(headers, architecture.elf_machine)
    base = _take_kernel(space, kernel)
    headers_at = space.take("core headers", len(packed))
    core = Placed("core headers", headers_at, _units(len(packed)), packed)
    # The first range is where the kernel looks for its memory; the low part of a reservation in two comes second.
    own = [(part.start, part.size) for part in reversed(memory_map.reservation)]
    told = {
        "linux,elfcorehdr": tree.cells((headers_at, core.size)),
        "linux,usable-memory-range": tree.cells(*own),
    }
    plan = _plan(
        kernel, initrd, cmdline, base, tree=tree, told=told, space=space, first=[core], wishes=wishes, root=root
    )
    return plan._replace(core_headers=tuple(headers))


def plan_reboot(
    kernel: KernelImage,
    initrd: memoryview | None,
    cmdline: str,
    *,
    wishes: Wishes | None = None,
    root: Path = Path("/"),
) -> Plan:
    """Segments of a kernel to reboot into: anywhere in RAM that nobody has reserved. Raises KdumpError."""
    memory_map = read_memory_map(root)
    wishes = wishes or Wishes()
    free = memory_map.free_ram
    space = Space(wishes.bound(free), unit=UNIT)
    base = _take_kernel(space, kernel)
    return _plan(
        kernel, initrd, cmdline, base, tree=read_tree(root), told={}, space=space, first=[], wishes=wishes, root=root
    )


def read_tree(root: Path = Path("/")) -> DeviceTree:
    """The tree that the running kernel was started with. Raises KdumpError."""
    path = root / TREE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KdumpError(
            f"cannot read the device tree {path}", why=error.strerror or str(error), remedy="run it as root"
        ) from None
    return devicetree.parse(data, str(path))


def _take_kernel(space: Space, kernel: KernelImage) -> int:
    return space.take("kernel", kernel.span, align=kernel.align, low=kernel.lowest, top_down=False)


def _plan(
    kernel: KernelImage,
    initrd: memoryview | None,
    cmdline: str,
    base: int,
    *,
    tree: DeviceTree,
    told: dict[str, bytes],
    space: Space,
    first: Sequence[Placed],
    wishes: Wishes,
    root: Path,
) -> Plan:
    segments = list(first)
    for part in kernel.parts:
        segments.append(Placed("kernel", base + part.offset, _units(part.size), part.data))
    if initrd is not None:
        at = space.take("image", len(initrd))
        segments.append(Placed("image", at, _units(len(initrd)), initrd))
        told = {**told, "linux,initrd-start": _quad(at), "linux,initrd-end": _quad(at + len(initrd))}
    _tell(tree, cmdline, told)
    blob = tree.pack()
    tree_at = space.take("device tree", len(blob))
    segments.append(Placed("device tree", tree_at, _units(len(blob)), blob))
    purgatory = PURGATORIES[arch.by_machine(kernel.machine)]
    purgatory_at = space.take("purgatory", purgatory.SIZE)
    checked = [region(placed) for placed in segments if wishes.check]
    code = purgatory.for_machine(Entry(base + kernel.entry, tree_at, reset_after(cmdline), checked), tree, root)
    segments.append(Placed("purgatory", purgatory_at, UNIT, code, checked=False))
    ordered = tuple(sorted(segments, key=lambda placed: placed.address))
    return Plan(purgatory_at, ordered, tuple(space.total), (), cmdline, ())


def _tell(tree: DeviceTree, cmdline: str, told: dict[str, bytes]) -> None:
    """Write /chosen anew."""
    properties = tree.chosen().properties
    for name in _STALE:
        properties.pop(name, None)
    properties["bootargs"] = cmdline.encode() + b"\0"
    if "nokaslr" not in (option_name(option) for option in split(cmdline)):
        properties["kaslr-seed"] = os.urandom(SEED)
    properties["rng-seed"] = os.urandom(RNG_SEED)
    properties.update(told)


def _units(size: int) -> int:
    return -(-size // UNIT) * UNIT


def _quad(value: int) -> bytes:
    return value.to_bytes(8, "big")
