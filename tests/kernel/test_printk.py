"""The printk ring: wrapping, special records, what is lost in a damaged one, and how records print."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tests.kernel.ring import TEXT, Ring, ring_of
from tests.memory.machine import Machine
from tests.memory.writers import PAGE

from kdump.errors import KdumpError
from kdump.kernel.kernel import Kernel
from kdump.kernel.printk import Log, Record, format_record
from kdump.memory import open_dump


def log_of(ring: Ring, tmp_path: Path, *, drop: bool = False) -> Log:
    machine = Machine(1 << 20)
    ring.into(machine)
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf())
    if drop:
        pages = {Kernel(open_dump(path)).virtual.translate(TEXT) // PAGE}
        path.write_bytes(machine.kdump(drop=frozenset(pages)))
    with open_dump(path) as dump:
        return Kernel(dump).log()


def texts(log: Log) -> list[bytes]:
    return [record.text for record in log.records]


def test_records_are_whole_and_in_order(tmp_path: Path) -> None:
    ring = Ring()
    ring.add(b"Linux version 6.1", level=5)
    ring.add(b"usb 1-1: new device", level=6, facility=3, caller=77, subsystem=b"usb", device=b"+usb:1-1")
    ring.add(b"BUG", level=0, caller=1 << 31 | 2)
    assert log_of(ring, tmp_path) == Log(
        [
            Record(0, 123456789, 5, 0, 1, b"Linux version 6.1", "", ""),
            Record(1, 1123456789, 6, 3, 77, b"usb 1-1: new device", "usb", "+usb:1-1"),
            Record(2, 2123456789, 0, 0, 1 << 31 | 2, b"BUG", "", ""),
        ],
        [],
    )


@pytest.mark.parametrize("newer", [False, True], ids=["until 6.18", "since 6.19"])
@pytest.mark.parametrize("size", [16, 17, 24, 40, 100, 120])
def test_text_wraps(tmp_path: Path, size: int, newer: bool) -> None:
    ring, written = Ring(count_bits=2, size_bits=10), []
    for number in range(50):
        written.append((b"%d " % number).ljust(size - number % 3, b"x"))
        ring.add(written[-1], ends_with_buffer_wraps=not newer)
    log = log_of(ring, tmp_path)
    assert texts(log) == written[-4:]
    assert [record.sequence for record in log.records] == [46, 47, 48, 49]
    assert log.lost == []


def test_empty_lines_and_lost_text(tmp_path: Path) -> None:
    ring = ring_of([b"one"])
    ring.add(b"", blocks=(3, 3))
    ring.add(b"", blocks=(1, 1))
    ring.add(b"two")
    log = log_of(ring, tmp_path)
    assert texts(log) == [b"one", b"", b"two"]
    assert log.lost == ["records whose text is gone from the ring: 1"]


def test_committed_counts_and_unfinished_is_told(tmp_path: Path) -> None:
    ring = ring_of([b"one"])
    ring.add(b"two", state=1)
    ring.add(b"three", state=0)
    ring.add(b"four", state=3)
    log = log_of(ring, tmp_path)
    assert texts(log) == [b"one", b"two"]
    assert log.lost == ["records still being written when the kernel died: 1"]


def test_overwritten_text_is_told(tmp_path: Path) -> None:
    log = log_of(ring_of([b"%d" % number for number in range(200)], count_bits=7, size_bits=10), tmp_path)
    assert texts(log) == [b"%d" % number for number in range(137, 200)]
    assert log.lost == ["records whose text is gone from the ring: 65"]


def test_damaged_head_and_tail(tmp_path: Path) -> None:
    ring = ring_of([b"%d" % number for number in range(40)])
    ring.id, ring.tail = 5, 1 << 40
    log = log_of(ring, tmp_path)
    assert texts(log) == [b"%d" % number for number in range(8, 40)]
    assert len(log.lost) == 1
    assert "head and tail" in log.lost[0]


def test_head_that_lags_leaves_records_out_and_says_so(tmp_path: Path) -> None:
    ring = ring_of([b"%d" % number for number in range(10)])
    ring.id -= 3
    log = log_of(ring, tmp_path)
    assert texts(log) == [b"%d" % number for number in range(7)]
    assert log.lost == ["records outside the ring's head and tail, left out: 3"]


def test_garbage_in_the_ring_ends(tmp_path: Path) -> None:
    ring = ring_of([b"%d" % number for number in range(40)])
    ring.descs[:] = bytes((index * 197 + 31) % 256 for index in range(len(ring.descs)))
    ring.infos[:] = bytes((index * 89 + 7) % 256 for index in range(len(ring.infos)))
    assert log_of(ring, tmp_path).records == []


@pytest.mark.parametrize(("count_bits", "size_bits"), [(0, 10), (63, 10), (5, 0), (5, 40), (0xFFFFFFFF, 10)])
def test_impossible_sizes_are_refused(tmp_path: Path, count_bits: int, size_bits: int) -> None:
    ring = ring_of([b"one"])
    ring.count_bits, ring.size_bits = count_bits, size_bits
    with pytest.raises(KdumpError, match="damaged"):
        log_of(ring, tmp_path)


def test_sizes_past_memory_are_refused(tmp_path: Path) -> None:
    ring = ring_of([b"one"])
    ring.size_bits = 31
    with pytest.raises(KdumpError, match="cannot be read"):
        log_of(ring, tmp_path)


def test_absent_text_is_told(tmp_path: Path) -> None:
    written = [(b"%d " % number).ljust(90, b"x") for number in range(100)]
    log = log_of(ring_of(written, count_bits=7, size_bits=14), tmp_path, drop=True)
    assert texts(log) == written[40:]
    assert log.lost == [
        "the dump lacks 4096 of 16384 bytes of the ring's text",
        "records whose text is gone from the ring: 40",
    ]


def test_missing_offsets_are_named(tmp_path: Path) -> None:
    machine = Machine(1 << 20)
    ring_of([b"one"]).into(machine)
    machine.extra = [line for line in machine.extra if "prb_desc_ring.infos" not in line]
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf())
    with pytest.raises(KdumpError, match=r"OFFSET\(prb_desc_ring.infos\)"):
        Kernel(open_dump(path)).log()


@pytest.mark.parametrize(
    ("line", "value"),
    [("OFFSET(printk_info.seq)", -8), ("OFFSET(printk_info.dev_info)", 1 << 40), ("SIZE(printk_info)", 80),
     ("SIZE(prb_desc)", 0), ("SIZE(prb_desc)", 1 << 50), ("LENGTH(printk_info_device)", -48),
     ("LENGTH(printk_info_device)", 1 << 63)],
)  # fmt: skip
def test_layouts_that_cannot_be_are_refused(tmp_path: Path, line: str, value: int) -> None:
    machine = Machine(1 << 20)
    ring_of([b"one"]).into(machine)
    machine.extra = [f"{line}={value}" if each.startswith(line) else each for each in machine.extra]
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf())
    with pytest.raises(KdumpError, match="cannot be"):
        Kernel(open_dump(path)).log()


def test_other_layouts_follow_vmcoreinfo(tmp_path: Path) -> None:
    ring = ring_of([b"one", b"two"])
    machine = Machine(1 << 20)
    ring.into(machine)
    wide = bytearray(104 * ring.count)
    for slot in range(ring.count):
        old = ring.infos[88 * slot : 88 * slot + 88]
        wide[104 * slot : 104 * slot + 24] = old[:24]
        wide[104 * slot + 40 : 104 * slot + 104] = old[24:]
    machine.extra = [
        line.replace("SIZE(printk_info)=88", "SIZE(printk_info)=104").replace("dev_info)=24", "dev_info)=40")
        for line in machine.extra
    ]
    other = 0xFFFF888044000000
    machine.place(other, bytes(wide))
    path = tmp_path / "vmcore"
    path.write_bytes(machine.elf().replace(struct.pack("<Q", 0xFFFF888042000000), struct.pack("<Q", other)))
    assert texts(Kernel(open_dump(path)).log()) == [b"one", b"two"]


def test_printing() -> None:
    record = Record(7, 65_432_123_456, 3, 2, 1 << 31 | 4, "a\tb\nß\x1b[31m\r\x9b".encode() + b"\xff\\", "", "")
    assert list(format_record(record)) == ["[   65.432123] a\tb", "[   65.432123] ß\\x1b[31m\\x0d\\xc2\\x9b\\xff\\"]
    assert next(format_record(record, caller=True, raw=True)) == "<19>[   65.432123][    C4] a\tb"
    assert record._replace(caller=123).caller_name == "T123"
    assert list(format_record(record._replace(text=b"", timestamp=10**15))) == ["[1000000.000000] "]
