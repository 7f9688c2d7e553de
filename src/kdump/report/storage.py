"""Disks and the requests that were in flight on them, for the section and for the chain behind a hang.

Sources: include/linux/blk-mq.h (tags, request states), include/linux/blk_types.h (operations, bios), block/bdev.c (all
devices are inodes of one pseudo file system).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kdump.kernel.objects import Objects, Pointer, Struct
from kdump.report.logtext import clean

SECTOR = 512
_OP_MASK = 0xFF
_MAX_QUEUES, _MAX_TAGS, _MAX_BIOS, _MAX_PAGES = 4096, 1 << 16, 4096, 1024


class Request(NamedTuple):
    """A struct request in flight: `sector` in 512 bytes from the disk's start, `size` in bytes, `age` in seconds."""

    struct: Struct
    disk: int
    name: str
    operation: str
    sector: int
    size: int
    age: float | None


def disks(objects: Objects) -> list[Struct]:
    """struct gendisk of every disk that has a size."""
    block = objects.unsigned(objects.symbols.address("blockdev_superblock"))
    seen: dict[int, Struct] = {}
    for inode in objects.list(objects.struct("super_block", block).s_inodes, "inode", "i_sb_list"):
        disk = objects.container(inode, "bdev_inode", "vfs_inode").bdev.bd_disk
        if disk and int(disk) not in seen and int(disk.part0.bd_nr_sectors):
            seen[int(disk)] = objects.struct("gendisk", disk)
    return list(seen.values())


def name_of(objects: Objects, disk: Struct | Pointer) -> str:
    """A disk's name."""
    return clean(objects.string(disk.disk_name))


def in_flight(objects: Objects, disk: Struct, now: int) -> list[Request]:
    """Requests that were with the disk's driver; `now` is the scheduler's clock in nanoseconds."""
    busy = objects.types.enumerator("MQ_RQ_IN_FLIGHT")
    found: dict[int, Request] = {}
    queue = disk.queue
    for context in _contexts(objects, queue):
        tags = context.tags
        if not tags:
            continue
        for tag in range(min(int(tags.nr_tags), _MAX_TAGS)):
            request = tags.rqs[tag]
            # Tags may be shared between queues, and a slot keeps its last request.
            if request and request.q == int(queue) and int(request.state) == busy:
                found[int(request)] = _describe(objects, disk, objects.struct("request", request), now)
    return list(found.values())


def bios(request: Request) -> Iterator[Pointer]:
    """The struct bio of a request."""
    bio = request.struct.bio
    for _ in range(_MAX_BIOS):
        if not bio:
            return
        yield bio
        bio = bio.bi_next


def holds_page(objects: Objects, request: Request, first: int, end: int) -> bool:
    """Whether a request reads or writes one of the pages whose struct page lie in [first, end)."""
    for bio in bios(request):
        vectors = bio.bi_io_vec
        for index in range(min(int(bio.bi_vcnt), _MAX_PAGES)):
            if first <= int(vectors[index].bv_page) < end:
                return True
    return False


def _contexts(objects: Objects, queue: Struct) -> list[Struct]:
    """struct blk_mq_hw_ctx of a request queue: an array of pointers before 5.18 and from 7.x on, an xarray between."""
    if objects.has(queue, "hctx_table"):
        found = [address for _, address in objects.xarray(queue.hctx_table, _MAX_QUEUES)]
    else:
        found = [int(queue.queue_hw_ctx[index]) for index in range(min(int(queue.nr_hw_queues), _MAX_QUEUES))]
    return [objects.struct("blk_mq_hw_ctx", address) for address in found if address]


def _describe(objects: Objects, disk: Struct, request: Struct, now: int) -> Request:
    started = int(request.start_time_ns)
    size = int(getattr(request, "__data_len")) if objects.has(request, "__data_len") else 0
    return Request(
        request,
        objects.address(disk),
        name_of(objects, disk),
        _operation(objects, int(request.cmd_flags)),
        int(getattr(request, "__sector")),
        size,
        max(now - started, 0) / 1e9 if started else None,
    )


def _operation(objects: Objects, flags: int) -> str:
    names = {value: name for name, value in objects.types.enum("req_op").items()}
    return names.get(flags & _OP_MASK, f"operation {flags & _OP_MASK}").removeprefix("REQ_OP_").lower()
