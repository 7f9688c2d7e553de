"""The segments of a new kernel, made in user space for kexec_load(2): what goes where, and what purgatory checks.

This is x86's way, with boot_params; kernels that take a device tree are `tree_segments`'.
For a panic everything lies inside the crash reservation, core headers and backup region at its bottom; for a reboot
anywhere in RAM. The order of placing is the order of need: what is tied to an alignment first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdump import arch
from kdump.kexec import boot_params, elfcore, purgatory
from kdump.kexec.formats.kernel_image import KernelImage
from kdump.kexec.load_plan import Placed, Plan, main_reservation, region, reset_after
from kdump.kexec.memory_map import Entry, MemoryMap, capture_e820, read_memory_map
from kdump.kexec.placement import Space, pages
from kdump.kexec.wishes import Wishes
from kdump.memory.protocol import Range

LOW_MEMORY_END = 0xA0000  # the first 640 KiB: the capture kernel starts its CPUs there, so the dead kernel's is saved
BELOW_4G = 1 << 32
ABOVE_LOW = 1 << 20


def plan_panic(
    kernel: KernelImage,
    initrd: memoryview | None,
    cmdline: str,
    *,
    elfcorehdr_size: int | None = None,
    wishes: Wishes | None = None,
    root: Path = Path("/"),
) -> Plan:
    """Segments of a panic kernel. `elfcorehdr_size` is the room the running kernel wants for updating the core headers
    itself; None if it does not. Raises KdumpError if something does not fit or the machine hides its addresses.
    """
    if arch.by_machine(kernel.machine).handover == arch.DEVICE_TREE:
        from kdump.kexec import tree_segments

        return tree_segments.plan_panic(kernel, initrd, cmdline, wishes=wishes, root=root)
    memory_map = read_memory_map(root)
    reservation = main_reservation(memory_map)
    wishes = wishes or Wishes()
    space = Space(wishes.bound([reservation]))
    backup = low_memory(memory_map)
    backup_at = space.take("backup of low memory", backup.size, top_down=False)
    mappings = elfcore.read_mappings(memory_map, root)
    headers = elfcore.core_headers(memory_map, elfcore.read_notes(root), mappings, backup, backup_at)
    packed = elfcore.pack(headers, arch.by_machine(kernel.machine).elf_machine)
    room = pages(max(len(packed), elfcorehdr_size or 0))
    headers_at = space.take("core headers", room, top_down=False)
    e820 = capture_e820(
        memory_map, [Range(backup_at, backup_at + pages(backup.size)), Range(headers_at, headers_at + room)]
    )
    core = Placed("core headers", headers_at, room, packed, checked=elfcorehdr_size is None)
    save = purgatory.Parameters(
        0, 0, backup_from=backup.start, backup_to=backup_at, backup_size=-(-backup.size // 8) * 8
    )
    line = f"elfcorehdr={headers_at:#x} {cmdline}"
    plan = _plan(
        kernel, initrd, line, space=space, e820=e820, segments=[core], parameters=save, wishes=wishes, root=root
    )
    held = Placed("backup of low memory", backup_at, pages(backup.size), b"", checked=False)
    return plan._replace(
        segments=tuple(sorted([held, *plan.segments], key=lambda placed: placed.address)), core_headers=tuple(headers)
    )


def plan_reboot(
    kernel: KernelImage,
    initrd: memoryview | None,
    cmdline: str,
    *,
    wishes: Wishes | None = None,
    root: Path = Path("/"),
) -> Plan:
    """Segments of a kernel to reboot into: RAM from 1 MiB to 4 GiB unless wished otherwise. Raises KdumpError."""
    if arch.by_machine(kernel.machine).handover == arch.DEVICE_TREE:
        from kdump.kexec import tree_segments

        return tree_segments.plan_reboot(kernel, initrd, cmdline, wishes=wishes, root=root)
    memory_map = read_memory_map(root)
    wishes = wishes or Wishes()
    space = Space(wishes.bound(memory_map.ram, ABOVE_LOW, BELOW_4G))
    e820 = list(memory_map.firmware)
    parameters = purgatory.Parameters(0, 0)
    return _plan(
        kernel, initrd, cmdline, space=space, e820=e820, segments=[], parameters=parameters, wishes=wishes, root=root
    )


def _plan(
    kernel: KernelImage,
    initrd: memoryview | None,
    cmdline: str,
    *,
    space: Space,
    e820: Sequence[Entry],
    segments: list[Placed],
    parameters: purgatory.Parameters,
    wishes: Wishes,
    root: Path,
) -> Plan:
    base = space.take("kernel", kernel.span, align=kernel.align, low=kernel.lowest, top_down=False)
    for index, part in enumerate(kernel.parts):
        name = "kernel" if len(kernel.parts) == 1 else f"kernel, part {index + 1}"
        segments.append(Placed(name, base + part.offset, pages(part.size), part.data))
    image = None
    if initrd is not None:
        image = Range(at := space.take("image", len(initrd)), at + len(initrd))
        segments.append(Placed("image", at, pages(len(initrd)), initrd))
    platform = boot_params.read_platform(root)
    size = len(boot_params.build(0, kernel, cmdline, initrd=image, e820=e820, platform=platform))
    params_at = space.take("boot parameters", size)
    block = boot_params.build(params_at, kernel, cmdline, initrd=image, e820=e820, platform=platform)
    segments.append(Placed("boot parameters", params_at, pages(size), block))
    purgatory_at = space.take("purgatory", purgatory.SIZE)
    code = purgatory.make(
        parameters._replace(
            kernel_entry=base + kernel.entry,
            boot_params=params_at,
            serial_port=purgatory.serial_port(cmdline) if wishes.serial_port is None else wishes.serial_port,
            reset_after=reset_after(cmdline),
            regions=[region(placed) for placed in segments if placed.checked and wishes.check],
        )
    )
    segments.append(Placed("purgatory", purgatory_at, purgatory.SIZE, code, checked=False))
    ordered = tuple(sorted(segments, key=lambda placed: placed.address))
    return Plan(purgatory_at, ordered, tuple(space.total), tuple(e820), cmdline, ())


def low_memory(memory_map: MemoryMap) -> Range:
    """RAM in the first 640 KiB, from its first byte to its last; empty if absent."""
    parts = [Range(part.start, min(part.end, LOW_MEMORY_END)) for part in memory_map.ram if part.start < LOW_MEMORY_END]
    return Range(parts[0].start, parts[-1].end) if parts else Range(0, 0)
