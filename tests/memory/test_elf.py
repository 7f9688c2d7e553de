"""ELF cores: what they mean, and how damaged ones are refused."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tests.memory.writers import PAGE, Load, elf, note

from kdump.errors import FormatError, NotPresentError
from kdump.memory import open_dump
from kdump.memory.protocol import Dump, Range

A, B, C, D = (bytes([value]) * PAGE for value in b"ABCD")


def opened(tmp_path: Path, data: bytes) -> Dump:
    path = tmp_path / "vmcore"
    path.write_bytes(data)
    return open_dump(path)


def test_reads_memory_notes_and_machine(tmp_path: Path) -> None:
    notes = note("CORE", 1, b"x" * 336) + note("CORE", 1, b"y" * 336) + note("VMCOREINFO", 0, b"OSRELEASE=6.1\n")
    with opened(tmp_path, elf([Load(0x1000, A), Load(0x2000, B), Load(0x10000, C)], notes)) as dump:
        assert dump.format == "elf"
        assert dump.memory.ranges == [Range(0x1000, 0x3000), Range(0x10000, 0x11000)]
        assert dump.memory.view(0x1FF0, 32) == b"A" * 16 + b"B" * 16
        assert bytes(dump.memory.view(0x10FFF, 1)) == b"C"
        assert dump.memory.present(0, 18).tolist() == [False, True, True] + [False] * 13 + [True, False]
        assert dump.vmcoreinfo == b"OSRELEASE=6.1\n"
        assert [(each.name, each.type, len(each.data)) for each in dump.notes] == [
            ("CORE", 1, 336), ("CORE", 1, 336), ("VMCOREINFO", 0, 14),
        ]  # fmt: skip
        assert dump.header["machine"] == 62
        assert not dump.incomplete


@pytest.mark.parametrize(
    ("address", "size"), [(0, 1), (0xFFF, 2), (0x2FFF, 2), (0x10FFF, 2), (1 << 63, 8), (0x3000, 1)]
)
def test_absent_memory_is_named(tmp_path: Path, address: int, size: int) -> None:
    data = elf([Load(0x1000, A), Load(0x2000, B), Load(0x10000, C)])
    with opened(tmp_path, data) as dump, pytest.raises(NotPresentError, match=f"{address:#x}"):
        dump.memory.view(address, size)


def test_larger_pages(tmp_path: Path) -> None:
    notes = note("VMCOREINFO", 0, b"OSRELEASE=6.1\nPAGESIZE=65536\n")
    with opened(tmp_path, elf([Load(0x10000, A * 40)], notes)) as dump:
        assert dump.memory.page_size == 65536
        assert dump.memory.present(0, 4).tolist() == [False, True, True, False]
        assert list(dump.memory.held()) == [Range(0x10000, 0x30000)]


def test_the_kernels_text_is_the_same_memory_twice(tmp_path: Path) -> None:
    data = elf([Load(0x2000, B, virtual=0xFFFFFFFF81000000), Load(0x1000, A + B + C, virtual=0xFFFF888000001000)])
    with opened(tmp_path, data) as dump:
        assert dump.memory.ranges == [Range(0x1000, 0x4000)]
        assert dump.memory.view(0x1000, 3 * PAGE) == A + B + C


def test_segments_overlapping_in_the_file_too_are_joined(tmp_path: Path) -> None:
    base = elf([Load(0x1000, A + B + C)])
    at = len(base) - 3 * PAGE
    data = elf([Load(0x1000, A + B, offset=at), Load(0x2000, B + C, offset=at + PAGE)])
    with opened(tmp_path, data.ljust(at, b"\0") + A + B + C) as dump:
        assert dump.memory.view(0x1000, 3 * PAGE) == A + B + C


def test_of_segments_that_overlap_the_first_has_what_both_claim(tmp_path: Path) -> None:
    with opened(tmp_path, elf([Load(0x1000, A + B), Load(0x2000, C + D)])) as dump:
        assert dump.memory.view(0x1000, 3 * PAGE) == A + B + D
        assert dump.memory.ranges == [Range(0x1000, 0x4000)] and list(dump.memory.present(1, 4)) == [1, 1, 1, 0]


def test_a_segment_has_what_the_larger_one_around_it_lacks(tmp_path: Path) -> None:
    with opened(tmp_path, elf([Load(0x1000, A, memory_size=4 * PAGE), Load(0x3000, B)])) as dump:
        assert dump.memory.ranges == [Range(0x1000, 0x5000)]
        assert list(dump.memory.present(1, 4)) == [1, 0, 1, 0]
        assert dump.memory.view(0x3000, PAGE) == B
        with pytest.raises(NotPresentError):
            dump.memory.view(0x4000, 1)


def test_the_rest_of_a_page_at_the_edge_of_memory_is_zeros(tmp_path: Path) -> None:
    """As libkdumpfile gives it, so that a page is always whole; what a cut file has lost is not."""
    with opened(tmp_path, elf([Load(0x1000, A + B[:0x400]), Load(0x3800, C[:0x800])])) as dump:
        assert dump.memory.view(0x1000, 2 * PAGE) == A + B[:0x400] + bytes(0xC00)
        assert dump.memory.view(0x3000, PAGE) == bytes(0x800) + C[:0x800]
        buffer = bytearray(3 * PAGE)
        dump.memory.readinto(0x1000, memoryview(buffer))  # type: ignore[attr-defined]
        assert buffer == A + B[:0x400] + bytes(0x1400) + C[:0x800]
        for address in (0xFFF, 0x4000):
            with pytest.raises(NotPresentError):
                dump.memory.view(address, 1)
    whole = elf([Load(0x1000, A)])
    with opened(tmp_path, whole[:-0x400]) as dump, pytest.raises(NotPresentError):
        dump.memory.view(0x1000, PAGE)


def test_a_dump_of_xen_is_told_by_name(tmp_path: Path) -> None:
    names = b"\0.note.Xen\0.xen_pages\0.shstrtab\0"
    section = struct.pack("<IIQQQQIIQQ", 23, 3, 0, 0, 64, len(names), 0, 0, 1, 0)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 0, 64 + len(names), 0, 64, 0, 0, 64, 1, 0)
    with pytest.raises(FormatError, match="Xen"):
        opened(tmp_path, ident + head + names + section)
    with pytest.raises(FormatError, match="known format") as caught:
        opened(tmp_path, b"\xed\xeb\x0f\xf0" + bytes(100))
    assert "Xen" in str(caught.value)


def test_headers_may_be_in_any_order(tmp_path: Path) -> None:
    with opened(tmp_path, elf([Load(0x10000, C), Load(0x1000, A), Load(0x5000, B)])) as dump:
        assert [each.start for each in dump.memory.ranges] == [0x1000, 0x5000, 0x10000]
        assert bytes(dump.memory.view(0x5000, 1)) == b"B"


def test_excluded_tail_of_a_segment_is_absent_but_was_memory(tmp_path: Path) -> None:
    with opened(tmp_path, elf([Load(0x1000, A, memory_size=3 * PAGE), Load(0x4000, B)])) as dump:
        assert dump.memory.ranges == [Range(0x1000, 0x5000)]
        assert not dump.incomplete
        with pytest.raises(NotPresentError, match="physical address"):
            dump.memory.view(0x2000, 1)


def test_more_headers_than_the_field_holds(tmp_path: Path) -> None:
    with opened(tmp_path, elf([Load(0x1000, A), Load(0x3000, B)], xnum=True)) as dump:
        assert bytes(dump.memory.view(0x3000, 1)) == b"B"


def test_virtual_only_segments_are_left_out(tmp_path: Path) -> None:
    with opened(tmp_path, elf([Load(0x1000, A), Load((1 << 64) - 1, B, virtual=0xFFFFC90000000000)])) as dump:
        assert dump.memory.ranges == [Range(0x1000, 0x2000)]


def test_truncated_file_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    with opened(tmp_path, elf([Load(0x1000, A + B), Load(0x10000, C)])[: -PAGE - 100]) as dump:
        assert dump.incomplete
        assert dump.memory.view(0x1000, PAGE) == A
        assert dump.memory.present(1, 2).tolist() == [True, False]
        with pytest.raises(NotPresentError, match="physical address"):
            dump.memory.view(0x2000 + PAGE - 100, 1)
        with pytest.raises(NotPresentError, match="physical address"):
            dump.memory.view(0x10000, 1)


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


GOOD = elf([Load(0x1000, A + B), Load(0x10000, C + C)], note("VMCOREINFO", 0, b"OSRELEASE=6.1\n"))
LOAD = 64 + 56  # file offset of the first PT_LOAD's header


@pytest.mark.parametrize(
    ("data", "field", "text"),
    [
        (GOOD[:40], "", "no room"),
        (patched(GOOD, 4, b"\1"), "EI_CLASS", "32-bit"),
        (patched(GOOD, 5, b"\2"), "EI_DATA", "big-endian"),
        (patched(patched(GOOD, 5, b"\2"), 18, b"\0\xb7"), "EI_DATA", "big-endian ELF dumps of aarch64"),
        (patched(patched(GOOD, 5, b"\3"), 18, b"\0\x16"), "EI_DATA", "big-endian ELF dumps of s390x"),
        (patched(GOOD, 16, b"\2"), "e_type", "not a core"),
        (patched(GOOD, 54, b"\x20"), "e_phentsize", "32 bytes"),
        (patched(GOOD, 56, b"\0\0"), "e_phnum", "0 program headers"),
        (patched(GOOD, 56, b"\xff\xff"), "e_shoff", "PN_XNUM"),
        (patched(GOOD, 32, struct.pack("<Q", 1 << 63)), "e_phoff", "do not fit"),
        (patched(GOOD, LOAD + 32, struct.pack("<Q", 1 << 63)), "p_filesz", "impossible"),
        (patched(GOOD, LOAD + 40, struct.pack("<Q", (1 << 64) - 1)), "p_memsz", "impossible"),
        (patched(GOOD, 64 + 56 * 3 + 4, b"\xff\xff\xff\x7f"), "n_descsz", "past its segment"),
        (elf([]), "e_phnum", "no memory"),
        (elf([Load(0, A, memory_size=1 << 46), Load(1 << 50, A, memory_size=1 << 47)]), "p_memsz", "claims"),
    ],
)
def test_damage_is_named(tmp_path: Path, data: bytes, field: str, text: str) -> None:
    with pytest.raises(FormatError, match=text) as caught:
        opened(tmp_path, data)
    assert field in caught.value.field
    assert caught.value.path == str(tmp_path / "vmcore")


def test_a_claim_of_terabytes_costs_nothing(tmp_path: Path) -> None:
    data = patched(patched(GOOD, LOAD + 32, struct.pack("<Q", 1 << 46)), LOAD + 40, struct.pack("<Q", 1 << 46))
    loads_at = LOAD + 56 + 24
    far = patched(data, loads_at, struct.pack("<Q", 1 << 50 | 0x1000))
    with pytest.raises(FormatError, match="more than the file has"):
        opened(tmp_path, far)
    with opened(tmp_path, patched(far, loads_at - 16, struct.pack("<Q", 1 << 47))) as dump:
        assert dump.incomplete
        with pytest.raises(NotPresentError, match="physical address"):
            dump.memory.view(0x1000, 1 << 49)
