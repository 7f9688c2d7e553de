"""The kernel log out of the record buffer that came before the printk ring (3.5 to 5.9).

Source: kernel/printk/printk.c of those versions, struct printk_log and log_next(). VMCOREINFO gives the offsets of
ts_nsec, len and text_len; behind them follow dict_len, facility and `flags:5, level:3`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdump.display import shown
from kdump.errors import KdumpError
from kdump.kernel.printk import MAX_SIZE_BITS, Log, Record, level_of, patched

if TYPE_CHECKING:
    from kdump.kernel.kernel import Kernel


def read_log_buf(kernel: Kernel) -> Log:
    """Every record of the buffer, oldest first. Their sequence numbers are counted from the oldest that is left."""
    info, virtual = kernel.vmcoreinfo, kernel.virtual
    lost: list[str] = []
    size = virtual.u32(info.symbol("log_buf_len"))
    at, end = virtual.u32(info.symbol("log_first_idx")), virtual.u32(info.symbol("log_next_idx"))
    if not max(at, end) <= size <= 1 << MAX_SIZE_BITS or not size:
        raise KdumpError("the kernel's log buffer is damaged", why=f"{size:#x} bytes, from {at:#x} to {end:#x}")
    data = patched(virtual, virtual.u64(info.symbol("log_buf")), size, "text", lost)
    header, length_at = info.size("printk_log"), info.offset("printk_log.len")
    time_at, text_at = info.offset("printk_log.ts_nsec"), info.offset("printk_log.text_len")
    caller_at = info.offsets.get("printk_log.caller_id")

    def number(offset: int, width: int) -> int:
        return int.from_bytes(data[offset : offset + width], virtual.byte_order)

    records: list[Record] = []
    seen = 0
    while at != end:
        length = number(at + length_at, 2) if at + header <= size else 0
        if not length and at:  # nothing more fits behind: the next record is at the start
            seen, at = seen + size - at, 0
            continue
        seen += length
        text_size, dict_size = number(at + text_at, 2), number(at + text_at + 2, 2)
        if length < header + text_size + dict_size or seen > size:
            lost.append(f"the buffer is damaged at byte {at:#x}: what follows is lost")
            break
        text = at + header
        words = dict(
            word.split(b"=", 1) for word in bytes(data[text + text_size :][:dict_size]).split(b"\0") if b"=" in word
        )
        records.append(
            Record(
                sequence=len(records),
                timestamp=number(at + time_at, 8),
                level=level_of(number(at + text_at + 5, 1), virtual.byte_order),
                facility=number(at + text_at + 4, 1),
                caller=0 if caller_at is None else number(at + caller_at, 4),
                text=bytes(data[text : text + text_size]),
                subsystem=shown(words.get(b"SUBSYSTEM", b"")),
                device=shown(words.get(b"DEVICE", b"")),
            )
        )
        at += length
    return Log(records, lost)
