"""Block devices, and the I/O that was in flight on them.

Sources: include/linux/blk-mq.h (tags, request states), include/linux/blk_types.h (operations), block/bdev.c (all
devices are inodes of one pseudo file system).
"""

from __future__ import annotations

from kdump.kernel.objects import Objects, Struct
from kdump.report.context import DAMAGE, Context
from kdump.report.logtext import clean
from kdump.report.model import Column, Finding, Section, Table, Value
from kdump.units import duration_text

TITLE = "Block devices"
NEEDS_DUMP = True
_SECTOR = 512
_OP_MASK = 0xFF
_MAX_QUEUES, _MAX_TAGS = 4096, 1 << 16
_SHOWN = 100
_LONG = 30.0  # seconds that no request should take


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    objects = context.objects
    busy = objects.types.enumerator("MQ_RQ_IN_FLIGHT")
    rows: list[tuple[Value, ...]] = []
    requests: list[tuple[Value, ...]] = []
    for disk in _disks(objects):
        name = clean(objects.string(disk.disk_name))
        size = int(disk.part0.bd_nr_sectors) * _SECTOR
        try:
            found = _in_flight(objects, disk, busy)
        except DAMAGE as error:
            section.notes.append(f"requests of {name}: {error}")
            found = []
        rows.append((name, size, len(found)))
        for request in found:
            age = max(context.now - int(request.start_time_ns), 0) / 1e9 if int(request.start_time_ns) else None
            size = int(request.__data_len if objects.has(request, "__data_len") else 0)
            requests.append(
                (name, _operation(objects, int(request.cmd_flags)), int(objects_sector(request)), size, age)
            )
    section.blocks.append(
        Table(
            "disks",
            "",
            [Column("disk", "Disk"), Column("size", "Size", "bytes"), Column("in_flight", "In flight")],
            rows,
        )
    )
    requests.sort(key=lambda row: -(row[4] if isinstance(row[4], float) else 0.0))
    if requests:
        columns = [
            Column("disk", "Disk"), Column("operation", "Operation"), Column("sector", "Sector"),
            Column("size", "Size", "bytes"), Column("age", "Age", "seconds"),
        ]  # fmt: skip
        section.blocks.append(
            Table("requests", "Requests in flight", columns, requests[:_SHOWN], max(0, len(requests) - _SHOWN))
        )
        oldest = requests[0][4]
        if isinstance(oldest, float) and oldest > _LONG:
            text = f"{requests[0][1]} on {requests[0][0]} was in flight for {duration_text(oldest)}"
            section.findings.append(Finding("warning", text))


def objects_sector(request: Struct) -> int:
    """First sector of a request (its member's name begins with two underscores)."""
    return int(getattr(request, "__sector"))


def _operation(objects: Objects, flags: int) -> str:
    names = {value: name for name, value in objects.types.enum("req_op").items()}
    return names.get(flags & _OP_MASK, f"operation {flags & _OP_MASK}").removeprefix("REQ_OP_").lower()


def _disks(objects: Objects) -> list[Struct]:
    """struct gendisk of every disk that has a size."""
    block = objects.unsigned(objects.symbols.address("blockdev_superblock"))
    seen: dict[int, Struct] = {}
    for inode in objects.list(objects.struct("super_block", block).s_inodes, "inode", "i_sb_list"):
        disk = objects.container(inode, "bdev_inode", "vfs_inode").bdev.bd_disk
        if disk and int(disk) not in seen and int(disk.part0.bd_nr_sectors):
            seen[int(disk)] = objects.struct("gendisk", disk)
    return list(seen.values())


def _contexts(objects: Objects, queue: Struct) -> list[Struct]:
    """struct blk_mq_hw_ctx of a request queue: an array of pointers before 5.18 and from 7.x on, an xarray between."""
    if objects.has(queue, "hctx_table"):
        found = [address for _, address in objects.xarray(queue.hctx_table, _MAX_QUEUES)]
    else:
        found = [int(queue.queue_hw_ctx[index]) for index in range(min(int(queue.nr_hw_queues), _MAX_QUEUES))]
    return [objects.struct("blk_mq_hw_ctx", address) for address in found if address]


def _in_flight(objects: Objects, disk: Struct, busy: int) -> list[Struct]:
    found: dict[int, Struct] = {}
    queue = disk.queue
    for context in _contexts(objects, queue):
        tags = context.tags
        if not tags:
            continue
        for tag in range(min(int(tags.nr_tags), _MAX_TAGS)):
            request = tags.rqs[tag]
            # Tags may be shared between queues, and a slot keeps its last request.
            if request and request.q == int(queue) and int(request.state) == busy:
                found[int(request)] = objects.struct("request", request)
    return list(found.values())
