"""A machine's /proc and /sys, as far as the loader reads them, written into a directory."""

from __future__ import annotations

import struct
from pathlib import Path

from kdump.elf import EM_X86_64, PT_LOAD
from kdump.kexec import boot_params, elfcore

IOMEM = """\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
0009fc00-0009ffff : Reserved
000a0000-000bffff : PCI Bus 0000:00
00100000-7ffdffff : System RAM
  30000000-3fffffff : Crash kernel
  50000000-517fffff : Kernel code
  51800000-51ffffff : Kernel rodata
7ffe0000-7fffffff : Reserved
fec00000-fec003ff : IOAPIC 0
100000000-17fffffff : System RAM
  170000000-17fffffff : Crash kernel
"""
FIRMWARE = (
    (0x0, 0x9FBFF, "System RAM"),
    (0x9FC00, 0x9FFFF, "Reserved"),
    (0x100000, 0x7FFDFFFF, "System RAM"),
    (0x7FFE0000, 0x7FFFFFFF, "ACPI Tables"),
    (0x100000000, 0x17FFFFFFF, "System RAM"),
)
DIRECT = 0xFFFF888000000000
TEXT = 0xFFFFFFFFA0000000
RSDP = 0xF52A0


def write(root: Path, **texts: str) -> None:
    """Files by path, with "__" for "/"."""
    for name, text in texts.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def machine(root: Path, *, iomem: str = IOMEM, cpus: int = 2) -> Path:
    """A machine with 4 GiB, a reservation in two parts and `cpus` CPUs."""
    write(
        root,
        proc__iomem=iomem,
        proc__cpuinfo="flags\t\t: fpu la57\n",
        sys__kernel__kexec_crash_loaded="0\n",
        sys__kernel__kexec_crash_size=f"{0x10000000}\n",
        sys__kernel__vmcoreinfo="123450000 1024\n",
    )
    for number in range(cpus):
        path = root / f"sys/devices/system/cpu/cpu{number}"
        path.mkdir(parents=True)
        (path / "crash_notes").write_text(f"{0x123400000 + number * 0x400:x}\n")
        (path / "crash_notes_size").write_text("368\n")
    for number, (start, last, kind) in enumerate(FIRMWARE):
        path = root / f"sys/firmware/memmap/{number}"
        path.mkdir(parents=True)
        for name, text in (("start", f"{start:#x}"), ("end", f"{last:#x}"), ("type", kind)):
            (path / name).write_text(text + "\n")
    params = bytearray(4096)
    struct.pack_into("<Q", params, boot_params.ACPI_RSDP, RSDP)
    path = root / "sys/kernel/boot_params"
    path.mkdir()
    (path / "data").write_bytes(params)
    (root / "proc/kcore").write_bytes(kcore())
    return root


def kcore() -> bytes:
    """The head of a /proc/kcore: text, direct map, and a piece of vmalloc space that has no physical address."""
    headers = [
        elfcore.Header(PT_LOAD, 7, 0, TEXT, 0x50000000, 0x2000000),
        elfcore.Header(PT_LOAD, 7, 0, 0xFFFFC90000000000, (1 << 64) - 1, 0x1000),
        elfcore.Header(PT_LOAD, 7, 0, DIRECT + 0x100000, 0x100000, 0x7FEE0000),
    ]
    return elfcore.pack(headers, EM_X86_64)
