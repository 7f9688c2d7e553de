"""/proc/kcore: only RAM has physical addresses, and the crash kernel's reservation is left out."""

from __future__ import annotations

from pathlib import Path

from tests.memory.writers import PAGE, Load, elf, note

from kdump.memory.elf import Segment
from kdump.memory.kcore import crash_kernel, open_kcore, without
from kdump.memory.protocol import Range
from kdump.memory.source import FileSource

IOMEM = """\
00001000-0009fbff : System RAM
00100000-7ffdffff : System RAM
  46e00000-478fffff : Kernel code
  6f000000-7effffff : Crash kernel
100000000-17fffffff : System RAM
  170000000-17fffffff : Crash kernel
"""


def test_reservation_out_of_iomem() -> None:
    assert crash_kernel(IOMEM) == [Range(0x6F000000, 0x7F000000), Range(0x170000000, 0x180000000)]
    assert crash_kernel("00000000-00000000 : Crash kernel\n") == [], "addresses are hidden from users other than root"


def test_segments_are_cut() -> None:
    segment = Segment(0x1000, 0x9000, 0x100, 0x9000, 0x9000, 0x7000)
    assert without([segment], [Range(0x3000, 0x4000), Range(0x9000, 0x20000)]) == [
        Segment(0x1000, 0x2000, 0x100, 0x2000, 0x2000, 0x7000),
        Segment(0x4000, 0x5000, 0x3100, 0x5000, 0x5000, 0xA000),
    ]
    assert without([segment], [Range(0, 0x100000)]) == []
    assert without([segment], [Range(0x100000, 0x200000)]) == [segment]


def test_a_live_kernel(tmp_path: Path) -> None:
    pages = [bytes([letter]) * PAGE for letter in b"ABCD"]
    path, iomem = tmp_path / "kcore", tmp_path / "iomem"
    nowhere = Load((1 << 64) - 1, b"v" * PAGE, virtual=0xFFFFC90000000000)
    loads = [nowhere, Load(0x1000, b"".join(pages), virtual=0xFFFF888000001000), nowhere]
    path.write_bytes(elf(loads, note("VMCOREINFO", 0, b"OSRELEASE=6.1\n")))
    iomem.write_text("00001000-00004fff : System RAM\n  00002000-00002fff : Crash kernel\n")
    with open_kcore(FileSource(path), iomem) as dump:
        assert dump.format == "kcore"
        assert dump.memory.ranges == [Range(0x1000, 0x2000), Range(0x3000, 0x5000)]
        assert dump.memory.view(0x3000, 2 * PAGE) == pages[2] + pages[3]
        assert dump.vmcoreinfo
