"""A printk ring as the kernel lays it out, over a `Machine`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Protocol

RING = 0xFFFF888040000100
DESCS = 0xFFFF888041000000
INFOS = 0xFFFF888042000000
TEXT = 0xFFFF888043000000
POINTER = 0xFFFF888040001000
MASK = (1 << 64) - 1

VMCOREINFO = """\
SYMBOL(prb)=ffff888040001000
OFFSET(printk_ringbuffer.desc_ring)=0
OFFSET(printk_ringbuffer.text_data_ring)=48
OFFSET(prb_desc_ring.count_bits)=0
OFFSET(prb_desc_ring.descs)=8
OFFSET(prb_desc_ring.infos)=16
OFFSET(prb_desc_ring.head_id)=24
OFFSET(prb_desc_ring.tail_id)=32
SIZE(prb_desc)=24
OFFSET(prb_desc.state_var)=0
OFFSET(prb_desc.text_blk_lpos)=8
OFFSET(prb_data_blk_lpos.begin)=0
OFFSET(prb_data_blk_lpos.next)=8
SIZE(printk_info)=88
OFFSET(printk_info.seq)=0
OFFSET(printk_info.ts_nsec)=8
OFFSET(printk_info.text_len)=16
OFFSET(printk_info.caller_id)=20
OFFSET(printk_info.dev_info)=24
OFFSET(dev_printk_info.subsystem)=0
LENGTH(printk_info_subsystem)=16
OFFSET(dev_printk_info.device)=16
LENGTH(printk_info_device)=48
OFFSET(prb_data_ring.size_bits)=0
OFFSET(prb_data_ring.data)=8
OFFSET(atomic_long_t.counter)=0"""


class Place(Protocol):
    """What a ring is placed in: memory by virtual addresses, and lines of VMCOREINFO."""

    extra: list[str]

    def place(self, virtual: int, data: bytes) -> object:
        """Put data at a virtual address."""


class Ring:
    """Writes records the way printk does: descriptors and text blocks wrap, old records are overwritten."""

    def __init__(self, *, count_bits: int = 5, size_bits: int = 10, order: str = "<") -> None:
        self.order = order  # of numbers, as `struct` writes it
        self.count_bits, self.size_bits = count_bits, size_bits
        self.count, self.size = 1 << count_bits, 1 << size_bits
        self.first = -self.count & (1 << 62) - 1  # DESC0_ID: ids start just below the wrap
        self.id = self.first - 1 & (1 << 62) - 1
        self.tail = self.first
        self.lpos = -self.size & MASK  # BLK0_LPOS
        self.descs = bytearray(24 * self.count)
        self.infos = bytearray(88 * self.count)
        self.text = bytearray(self.size)
        self.sequence = -1

    def add(
        self,
        text: bytes,
        *,
        level: int = 6,
        facility: int = 0,
        caller: int = 1,
        state: int = 2,
        subsystem: bytes = b"",
        device: bytes = b"",
        blocks: tuple[int, int] | None = None,
        ends_with_buffer_wraps: bool = True,
    ) -> None:
        """One record, at a time of one second for each before it."""
        self.id = self.id + 1 & (1 << 62) - 1
        self.sequence += 1
        slot = self.id % self.count
        if self.sequence >= self.count:
            self.tail = self.tail + 1 & (1 << 62) - 1
        begin, end = blocks or self._store(text, ends_with_buffer_wraps)
        struct.pack_into(f"{self.order}QQQ", self.descs, 24 * slot, state << 62 | self.id, begin, end)
        struct.pack_into(
            f"{self.order}QQHBBI16s48s",
            self.infos, 88 * slot, self.sequence, self.sequence * 10**9 + 123456789, len(text),
            facility, level << 5 if self.order == "<" else level, caller, subsystem, device,
        )  # fmt: skip

    def _store(self, text: bytes, ends_with_buffer_wraps: bool) -> tuple[int, int]:
        need = 8 + (len(text) + 7) // 8 * 8
        begin, end = self.lpos, self.lpos + need & MASK
        stays = begin >> self.size_bits == end >> self.size_bits
        if not ends_with_buffer_wraps and end % self.size == 0:
            stays = True
        at = begin % self.size
        if not stays:
            end = (end >> self.size_bits << self.size_bits) + need & MASK
            at = 0
        self.text[at : at + need] = (struct.pack(f"{self.order}Q", self.id) + text).ljust(need, b"\0")
        self.lpos = end
        return begin, end

    def into(self, machine: Place) -> None:
        """Place the ring in a machine's memory and name it in its VMCOREINFO."""
        ring = struct.pack(f"{self.order}I4xQQQQQ", self.count_bits, DESCS, INFOS, self.id, self.tail, 0)
        ring += struct.pack(f"{self.order}I4xQQQ", self.size_bits, TEXT, self.lpos, 0) + bytes(8)
        machine.place(RING, ring)
        machine.place(POINTER, struct.pack(f"{self.order}Q", RING))
        machine.place(DESCS, bytes(self.descs))
        machine.place(INFOS, bytes(self.infos))
        machine.place(TEXT, bytes(self.text))
        machine.extra = VMCOREINFO.splitlines()


def ring_of(texts: Sequence[bytes], **options: Any) -> Ring:
    """A ring of plain records."""
    ring = Ring(**options)
    for text in texts:
        ring.add(text)
    return ring
