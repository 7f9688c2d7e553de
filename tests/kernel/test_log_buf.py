"""The record buffer of kernels before 5.10, built here after their source: no such kernel runs in the lab."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tests.memory.machine import Machine

from kdump.errors import KdumpError
from kdump.kernel.kernel import Kernel
from kdump.kernel.printk import Log, Record
from kdump.memory import open_dump

BUFFER, VARIABLES = 0xFFFF888043000000, 0xFFFF888044000000
VMCOREINFO = f"""\
SYMBOL(log_buf)={VARIABLES:x}
SYMBOL(log_buf_len)={VARIABLES + 8:x}
SYMBOL(log_first_idx)={VARIABLES + 12:x}
SYMBOL(log_next_idx)={VARIABLES + 16:x}
SIZE(printk_log)=16
OFFSET(printk_log.ts_nsec)=0
OFFSET(printk_log.len)=8
OFFSET(printk_log.text_len)=10
OFFSET(printk_log.dict_len)=12"""
DICT = b"SUBSYSTEM=usb\0DEVICE=+usb:1-1"


def record(text: bytes, *, seconds: int = 0, words: bytes = b"", level: int = 6, facility: int = 0) -> bytes:
    length = (16 + len(text) + len(words) + 7) // 8 * 8
    head = struct.pack("<QHHHBB", seconds * 10**9, length, len(text), len(words), facility, level << 5)
    return (head + text + words).ljust(length, b"\0")


def log_of(tmp_path: Path, buffer: bytes, first: int, end: int, size: int | None = None) -> Log:
    machine = Machine(1 << 20)
    machine.place(BUFFER, buffer)
    machine.place(VARIABLES, struct.pack("<QIII", BUFFER, len(buffer) if size is None else size, first, end))
    machine.extra = VMCOREINFO.splitlines()
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf())
    return Kernel(open_dump(path)).log()


def test_records(tmp_path: Path) -> None:
    data = record(b"one", level=5) + record(b"two", seconds=3, words=DICT, level=3, facility=2)
    assert log_of(tmp_path, data.ljust(512, b"\0"), 0, len(data)) == Log(
        [Record(0, 0, 5, 0, 0, b"one", "", ""), Record(1, 3 * 10**9, 3, 2, 0, b"two", "usb", "+usb:1-1")], []
    )


def test_wrapped(tmp_path: Path) -> None:
    start, tail = record(b"newest"), record(b"oldest") + record(b"middle")
    buffer = start.ljust(100, b"\0").ljust(104, b"\0") + tail + bytes(24)  # a header of zeros: go on at the start
    log = log_of(tmp_path, buffer, 104, len(start))
    assert [each.text for each in log.records] == [b"oldest", b"middle", b"newest"]
    log = log_of(tmp_path, start.ljust(104, b"\0") + tail, 104, len(start))
    assert [each.text for each in log.records] == [b"oldest", b"middle", b"newest"]
    assert log.lost == []


@pytest.mark.parametrize(
    ("buffer", "first", "end", "texts"),
    [
        (record(b"one") + b"\xff" * 40, 0, 60, [b"one"]),
        (bytes(64), 0, 32, []),
        (record(b"one") * 3, 0, 5, [b"one"] * 3),
    ],
)
def test_damage_ends_and_is_told(tmp_path: Path, buffer: bytes, first: int, end: int, texts: list[bytes]) -> None:
    log = log_of(tmp_path, buffer, first, end)
    assert [each.text for each in log.records] == texts
    assert "damaged" in "".join(log.lost)


@pytest.mark.parametrize(("first", "end", "size"), [(0, 8, 0), (9999, 0, 64), (0, 65, 64), (0, 8, 0xFFFFFFFF)])
def test_impossible_places(tmp_path: Path, first: int, end: int, size: int) -> None:
    with pytest.raises(KdumpError, match="log buffer is damaged"):
        log_of(tmp_path, bytes(64), first, end, size=size)
