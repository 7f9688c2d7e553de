"""The layer below a disk: the state of its SCSI device, NVMe controller, device mapper table or MD array.

The table of operations of a disk shows its driver. Types are the kernel's own or those of the driver's module.

Sources: include/scsi/scsi_device.h and scsi_host.h (`request_queue.queuedata` is the device), drivers/nvme/host/nvme.h,
drivers/md/dm-core.h, dm-mpath.c, drivers/md/md.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kdump.kernel import btf
from kdump.kernel.btf import Btf
from kdump.kernel.objects import Struct
from kdump.report.context import Context
from kdump.report.logtext import clean

_MAX_TARGETS = 64
_DMF_SUSPENDED = 1  # bit of mapped_device.flags, drivers/md/dm-core.h


class Below(NamedTuple):
    """A driver's state of its disk; `bad` if I/O may not get through."""

    driver: str
    state: str
    detail: str = ""
    bad: bool = False


def below(context: Context, disk: Struct) -> Below | None:
    """The layer below a disk; None for another driver. Raises the errors of reading damaged memory."""
    symbol = context.kernel.symbolizer.at(int(disk.fops))
    reader = _READERS.get(symbol.name) if symbol is not None else None
    return reader(context, disk) if reader else None


def in_flight(context: Context, disk: Struct) -> int:
    """I/O that the disk has started and not finished, as /proc/diskstats counts it, also for disks without requests."""
    objects = context.objects
    stats = disk.part0.bd_stats
    offset = objects.types.struct("disk_stats").offset("in_flight")
    places = [objects.at_cpu(stats, cpu) + offset for cpu in objects.cpus("possible")]
    return max(sum(objects.signed(place + 8 * way, 8) for place in places for way in (0, 1)), 0)


def _enumerator(types: Btf, name: str, value: int) -> str:
    found = types.find(name, btf.ENUM, btf.ENUM64)
    names = {number: each for each, number in found.enumerators().items()} if found is not None else {}
    return names.get(value, str(value))


def _scsi(context: Context, disk: Struct) -> Below:
    device = context.struct("scsi_device", int(disk.queue.queuedata))
    host = context.struct("Scsi_Host", int(device.host))
    types = context.types_of("scsi_device")
    state = _enumerator(types, "scsi_device_state", int(device.sdev_state)).removeprefix("SDEV_").lower()
    above = _enumerator(types, "scsi_host_state", int(host.shost_state)).removeprefix("SHOST_").lower()
    sent, done, failed = (int(getattr(device, f"io{name}_cnt").counter) for name in ("request", "done", "err"))
    text = f"host {int(host.host_no)} {above}; {sent} sent, {done} done, {failed} failed"
    recovering = int(host.host_failed)
    if recovering:
        text += f"; {recovering} in error recovery"
    return Below("scsi", state, text, state not in ("created", "running") or above != "running" or bool(recovering))


def _nvme(context: Context, disk: Struct) -> Below:
    namespace = context.struct("nvme_ns", int(disk.private_data))
    return _of_controller(context, context.struct("nvme_ctrl", int(namespace.ctrl)))


def _of_controller(context: Context, controller: Struct, more: str = "") -> Below:
    types = context.types_of("nvme_ctrl")
    state = _enumerator(types, "nvme_ctrl_state", int(controller.state)).removeprefix("NVME_CTRL_").lower()
    return Below("nvme", state, f"controller nvme{int(controller.instance)}{more}", state != "live")


def _nvme_head(context: Context, disk: Struct) -> Below:
    """A namespace that is reached by several controllers."""
    head = context.struct("nvme_ns_head", int(disk.private_data))
    kind = context.types_of("nvme_ns").struct("nvme_ns")
    found = []
    for node in context.objects.nodes(context.objects.address(head.list), _MAX_TARGETS, "list of NVMe paths"):
        path = Struct(context.objects, kind, node - kind.offset("siblings"))
        found.append(_of_controller(context, context.struct("nvme_ctrl", int(path.ctrl))))
    live = sum(path.state == "live" for path in found)
    return Below("nvme", f"{live} of {len(found)} paths live", "; ".join(path.detail for path in found), not live)


def _mapper(context: Context, disk: Struct) -> Below:
    objects = context.objects
    device = context.struct("mapped_device", int(disk.private_data))
    state = "suspended" if int(device.flags) >> _DMF_SUSPENDED & 1 else "active"
    bad = state == "suspended"
    parts = []
    table = int(device.map)
    if table:
        table_ = context.struct("dm_table", table)
        targets = table_.targets
        for number in range(min(int(table_.num_targets), _MAX_TARGETS)):
            target = targets[number]
            name = clean(objects.string(target.type.name))
            if name == "multipath":
                paths = int(context.struct("multipath", int(target.private)).nr_valid_paths.counter)
                name += f" with {paths} valid paths"
                bad = bad or not paths
            parts.append(name)
    return Below("device mapper", state, ", ".join(dict.fromkeys(parts)), bad)


def _md(context: Context, disk: Struct) -> Below:
    array = context.struct("mddev", int(disk.private_data))
    degraded = int(array.degraded)
    state = "degraded" if degraded > 0 else "clean" if int(array.in_sync) else "active"
    if int(array.suspended.counter if context.objects.has(array, "suspended.counter") else array.suspended):
        state += ", suspended"
    text = f"level {int(array.level)}, {int(array.raid_disks)} disks"
    return Below(
        "md",
        state,
        text + (f", {degraded} missing" if degraded > 0 else ""),
        "active" not in state and state != "clean",
    )


_READERS: dict[str, Callable[[Context, Struct], Below]] = {
    "sd_fops": _scsi,
    "sr_bdops": _scsi,
    "nvme_bdev_ops": _nvme,
    "nvme_bdev_fops": _nvme,
    "nvme_ns_head_ops": _nvme_head,
    "dm_blk_dops": _mapper,
    "dm_rq_blk_dops": _mapper,
    "md_fops": _md,
}
