"""The kernel log out of the printk ring buffer (5.10 and later).

Source: kernel/printk/printk_ringbuffer.h and .c (descriptors, logical positions, wrapping data blocks), printk.c (which
members VMCOREINFO gives, how a record is printed). Member offsets come from VMCOREINFO; what it does not give is fixed
by the layout: in struct printk_info `facility` and `flags:5, level:3` follow the 16-bit `text_len`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from kdump.display import shown
from kdump.errors import FormatError, KdumpError, NotPresentError

if TYPE_CHECKING:
    from kdump.arch.architecture import ByteOrder
    from kdump.kernel.kernel import Kernel
    from kdump.kernel.vmcoreinfo import VmCoreInfo
    from kdump.memory.virtual import VirtualMemory

RESERVED, COMMITTED, FINALIZED = 0, 1, 2  # enum desc_state, in the two top bits of prb_desc.state_var
ID_MASK = (1 << 62) - 1
EMPTY_LINE = 0x3  # EMPTY_LINE_LPOS; every other odd position means that the text is lost
MAX_COUNT_BITS = 26  # LOG_BUF_LEN_MAX (2 GiB) in records of 32 bytes
MAX_SIZE_BITS = 31
MAX_STRUCT = 4096  # bytes of any of its structures
PATCH_LIMIT = 64 << 20  # bytes read page by page where some are absent
CALLER_IS_CPU = 1 << 31

LEVELS = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")


class Record(NamedTuple):
    """One printk record. `timestamp` is in nanoseconds since boot; `caller` a thread id, or a CPU if bit 31 is set."""

    sequence: int
    timestamp: int
    level: int
    facility: int
    caller: int
    text: bytes
    subsystem: str
    device: str

    @property
    def caller_name(self) -> str:
        """T123 for thread 123, C1 for CPU 1, as CONFIG_PRINTK_CALLER prints it."""
        return f"C{self.caller & ~CALLER_IS_CPU}" if self.caller & CALLER_IS_CPU else f"T{self.caller}"


class Log(NamedTuple):
    """Records oldest first, and one sentence for each way in which some could not be read (empty if all could)."""

    records: list[Record]
    lost: list[str]


class _Ring(NamedTuple):
    """The data ring: `data` has 2^bits bytes."""

    data: memoryview
    bits: int
    order: ByteOrder

    def text(self, identifier: int, begin: int, end: int) -> memoryview | None:
        """The text area of descriptor `identifier`'s block at logical positions [begin, end), None if not there."""
        if begin & 1 or end & 1:
            return memoryview(b"") if begin == end == EMPTY_LINE else None
        size = 1 << self.bits
        start, stop = begin % size, end % size
        wraps = (end >> self.bits) - (begin >> self.bits) & (1 << 64 - self.bits) - 1
        if wraps == 1 and stop == 0:  # ends with the buffer (kernels since 6.19 do not call that wrapping)
            stop = size
        elif wraps == 1:  # did not fit the rest of the buffer: stored at its start
            start = 0
        elif wraps:
            return None
        if stop - start < 8 or start & 7 or int.from_bytes(self.data[start : start + 8], self.order) != identifier:
            return None
        return self.data[start + 8 : stop]


def read_ring(kernel: Kernel) -> Log:
    """Every record that is still in the ring. A damaged ring yields what is sound and says what is not.

    Raises `KdumpError` only if there is no ring to be found.
    """
    info, virtual = kernel.vmcoreinfo, kernel.virtual
    lost: list[str] = []
    ring_at = virtual.u64(info.symbol("prb"))
    descs_at = ring_at + info.offset("printk_ringbuffer.desc_ring")
    texts_at = ring_at + info.offset("printk_ringbuffer.text_data_ring")
    count_bits = virtual.u32(descs_at + info.offset("prb_desc_ring.count_bits"))
    size_bits = virtual.u32(texts_at + info.offset("prb_data_ring.size_bits"))
    if not 1 <= count_bits <= MAX_COUNT_BITS or not 3 <= size_bits <= MAX_SIZE_BITS:
        raise KdumpError(
            f"the printk ring at {ring_at:#x} is damaged", why=f"2^{count_bits} records in 2^{size_bits} bytes of text"
        )
    count = 1 << count_bits

    def array(address: int, size: int, what: str) -> memoryview:
        return patched(virtual, virtual.u64(address), size, what, lost)

    order = virtual.byte_order
    desc, header = _desc_layout(info, order), _info_layout(info, order)
    descs = array(descs_at + info.offset("prb_desc_ring.descs"), count * desc.size, "descriptors")
    infos = array(descs_at + info.offset("prb_desc_ring.infos"), count * header.size, "record headers")
    ring = _Ring(array(texts_at + info.offset("prb_data_ring.data"), 1 << size_bits, "text"), size_bits, order)
    counter = info.offset("atomic_long_t.counter")
    head, tail = (
        virtual.u64(descs_at + info.offset(f"prb_desc_ring.{end}_id") + counter) & ID_MASK for end in ("head", "tail")
    )
    span = head - tail & ID_MASK
    sane = span < count
    if not sane:
        lost.append(
            f"the ring's head and tail ({head:#x}, {tail:#x}) are damaged: records are in order of their numbers"
        )

    ready: list[tuple[int, Record]] = []
    stale = unfinished = gone = 0
    for slot, (variable, begin, end) in enumerate(desc.iter_unpack(descs)):
        identifier, state = variable & ID_MASK, variable >> 62
        if identifier % count != slot:
            continue
        age = identifier - tail & ID_MASK
        within = not sane or age <= span
        unfinished += state == RESERVED and sane and within
        if state not in (COMMITTED, FINALIZED):
            continue
        if not within:
            stale += 1
            continue
        text = ring.text(identifier, begin, end)
        if text is None:
            gone += 1
            continue
        sequence, timestamp, size, facility, flags, caller, subsystem, device = header.unpack_from(
            infos, slot * header.size
        )
        record = Record(
            sequence,
            timestamp,
            level_of(flags, order),
            facility,
            caller,
            bytes(text[:size]),
            _name(subsystem),
            _name(device),
        )
        ready.append((age if sane else sequence, record))
    for number, what in (
        (stale, "records outside the ring's head and tail, left out"),
        (unfinished, "records still being written when the kernel died"),
        (gone, "records whose text is gone from the ring"),
    ):
        if number:
            lost.append(f"{what}: {number}")
    return Log([record for _, record in sorted(ready, key=lambda pair: pair[0])], lost)


def format_record(record: Record, *, caller: bool = False, raw: bool = False) -> Iterator[str]:
    """The lines of a record as the kernel's console prints them: the prefix on each, control characters as \\xNN.

    `raw` puts <priority> in front, as syslog(2) does; `caller` the thread or CPU behind the time.
    """
    seconds, rest = divmod(record.timestamp, 10**9)
    prefix = f"<{record.facility << 3 | record.level}>" if raw else ""
    prefix += f"[{seconds:5d}.{rest // 1000:06d}]"
    if caller:
        prefix += f"[{record.caller_name:>6}]"
    for line in record.text.split(b"\n"):
        yield f"{prefix} {shown(line)}"


def level_of(flags: int, order: ByteOrder) -> int:
    """`level` out of the byte of `flags:5, level:3`: big-endian machines begin with the upper bits."""
    return flags >> 5 if order == "little" else flags & 7


def _desc_layout(info: VmCoreInfo, order: ByteOrder) -> struct.Struct:
    """struct prb_desc: state, begin and next position."""
    position = info.offset("prb_desc.text_blk_lpos")
    return _layout(
        order,
        info.size("prb_desc"),
        (info.offset("prb_desc.state_var") + info.offset("atomic_long_t.counter"), "Q"),
        (position + info.offset("prb_data_blk_lpos.begin"), "Q"),
        (position + info.offset("prb_data_blk_lpos.next"), "Q"),
    )


def _info_layout(info: VmCoreInfo, order: ByteOrder) -> struct.Struct:
    """struct printk_info: seq, ts_nsec, text_len, facility, flags and level, caller_id, subsystem, device."""
    length, device = info.offset("printk_info.text_len"), info.offset("printk_info.dev_info")
    return _layout(
        order,
        info.size("printk_info"),
        (info.offset("printk_info.seq"), "Q"),
        (info.offset("printk_info.ts_nsec"), "Q"),
        (length, "H"),
        (length + 2, "B"),
        (length + 3, "B"),
        (info.offset("printk_info.caller_id"), "I"),
        (device + info.offset("dev_printk_info.subsystem"), "s", info.length("printk_info_subsystem")),
        (device + info.offset("dev_printk_info.device"), "s", info.length("printk_info_device")),
    )


def _layout(order: ByteOrder, size: int, *members: tuple[int, str] | tuple[int, str, int]) -> struct.Struct:
    """A structure of `size` bytes with members (offset, code[, count]), which must rise as they do in the kernel."""
    text, at = "<" if order == "little" else ">", 0
    for offset, code, *counts in members:
        count = counts[0] if counts else 1
        if not at <= offset <= MAX_STRUCT or not 0 < count <= MAX_STRUCT:
            raise KdumpError("VMCOREINFO describes a printk record that cannot be", why=f"a member at {offset:#x}")
        text += f"{offset - at}x{count}{code}"
        at = struct.calcsize(text)
    if not at <= size <= MAX_STRUCT:
        raise KdumpError("VMCOREINFO describes a printk record that cannot be", why=f"{at:#x} bytes in {size:#x}")
    return struct.Struct(f"{text}{size - at}x")


def _name(raw: bytes) -> str:
    return shown(raw.split(b"\0", 1)[0])


def patched(virtual: VirtualMemory, address: int, size: int, what: str, lost: list[str]) -> memoryview:
    """Memory of the ring, with zeros for what the dump does not hold."""
    try:
        return virtual.view(address, size)
    except (NotPresentError, FormatError):
        if size > PATCH_LIMIT:
            raise
    data, absent, page = bytearray(size), 0, 1 << virtual.paging.shifts[-1]
    at = address
    while at < address + size:
        count = min(page - at % page, address + size - at)
        try:
            data[at - address : at - address + count] = virtual.view(at, count)
        except (NotPresentError, FormatError):
            absent += count
        at += count
    if absent == size:
        raise KdumpError(f"the dump lacks the printk ring's {what} at {address:#x}")
    lost.append(f"the dump lacks {absent} of {size} bytes of the ring's {what}")
    return memoryview(data)
