"""Files of at most a megabyte that claim to be large, deep or many: each one asks for work out of proportion."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from functools import partial

from tests.memory.test_fuzz import FILES, MACHINE, NOTES, PAGES
from tests.memory.writers import PAGE, Load, elf, kdump, note, records

LIMIT = 1 << 20
VMCOREINFO = note("VMCOREINFO", 0, MACHINE.vmcoreinfo)
BODY = bytes(MACHINE.memory)


def elf_of(loads: list[tuple[int, int, int, int]], body: bytes = BODY, notes: bytes = VMCOREINFO) -> bytes:
    """An ELF core whose PT_LOADs (physical, file offset in `body`, bytes in the file, in memory) all lie in `body`."""
    count = len(loads) + 1
    notes_at = 64 + 56 * count
    base = -(-(notes_at + len(notes)) // PAGE) * PAGE
    head = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, count, 64, 0, 0)
    head += struct.pack("<IIQQQQQQ", 4, 0, notes_at, 0, 0, len(notes), len(notes), 0)
    for physical, offset, held, memory in loads:
        head += struct.pack("<IIQQQQQQ", 1, 7, base + offset, 0, physical, held, memory, 0)
    return (head + notes).ljust(base, b"\0") + body


def edited(data: bytes, *changes: tuple[int, str, int]) -> bytes:
    result = bytearray(data)
    for at, form, value in changes:
        struct.pack_into(form, result, at, value)
    return bytes(result)


SMALL = kdump(PAGES, ram=[(0, 48)], codec=0x20, vmcoreinfo=MACHINE.vmcoreinfo, notes=NOTES)
# Offsets of fields: block 0, then the sub header at 4096.
BITMAP_BLOCKS, MAX_MAPNR, MAX_MAPNR_64 = 436, 440, PAGE + 96


def flattened_far(at: int) -> bytes:
    """A kdump-compressed dump in a flattened file, with one record far out."""
    blocks = at // PAGE // 2
    head = edited(SMALL[: 2 * PAGE], (BITMAP_BLOCKS, "<I", blocks), (MAX_MAPNR, "<I", 0xFFFFFFFF))
    head = edited(head, (MAX_MAPNR_64, "<Q", blocks // 2 * PAGE * 8))
    return records([(0, head), (len(head), SMALL[len(head) :]), (at, b"x" * 100000)])


def shared_page(block: int, count: int, codec: int = 1) -> bytes:
    """A dump of `count` pages whose descriptors all name one compressed page, or two in turn."""
    packed = [zlib.compress(bytes([fill]) * block) for fill in (1, 2)]
    blocks = -(-count // 8 // block)
    sub_blocks = 1
    data_at = (1 + sub_blocks + 2 * blocks) * block + 24 * count
    base = kdump({0: b"x" * PAGE}, ram=[(0, 1)], codec=codec)
    main = edited(base[:464], (428, "<I", block), (432, "<I", sub_blocks), (BITMAP_BLOCKS, "<I", 2 * blocks))
    main = edited(main, (MAX_MAPNR, "<I", count))
    sub = edited(base[PAGE : PAGE + 104], (96, "<Q", count))
    out = main.ljust(block, b"\0") + sub.ljust(block, b"\0")
    out += (b"\xff" * (count // 8)).ljust(blocks * block, b"\0") * 2
    places = (data_at, data_at + len(packed[0]))
    out += b"".join(struct.pack("<qIIQ", places[n % 2], len(packed[n % 2]), codec, 0) for n in range(count))
    return out + b"".join(packed)


def all_bits(size: int) -> bytes:
    """Bitmaps that are all ones, and descriptors for next to none of them."""
    blocks = size // 2 // PAGE - 2
    head = edited(SMALL[: 2 * PAGE], (BITMAP_BLOCKS, "<I", 2 * blocks), (MAX_MAPNR, "<I", blocks * PAGE * 8))
    return edited(head, (MAX_MAPNR_64, "<Q", blocks * PAGE * 8)) + b"\xff" * (2 * blocks * PAGE) + bytes(2000)


def alternating(size: int) -> bytes:
    """Bitmaps in which every other page is there: as many ranges as pages."""
    return all_bits(size).replace(b"\xff" * 1024, b"\x55" * 1024)


def lying(**values: int) -> bytes:
    """A good dump whose VMCOREINFO says other numbers."""
    lines = [line for line in MACHINE.vmcoreinfo.decode().splitlines() if line.partition("=")[0] not in values]
    lines += [f"{name}={value:x}" if name.startswith("SYMBOL") else f"{name}={value}" for name, value in values.items()]
    return elf([Load(0, BODY)], note("VMCOREINFO", 0, "\n".join([*lines, ""]).encode()))


def without_vmcoreinfo() -> bytes:
    """Each page begins as VMCOREINFO does."""
    page = (b"OSRELEASE=6.1\nSYMBOL(init_top_pgt)=ffffffff82000000\nNUMBER(phys_base)=0\n" * 40)[:PAGE]
    return elf([Load(0, page * 250)])


MANY_LINES = b"".join(b"SYMBOL(s%d)=1\n" % number for number in range(45000))
DUMPS: dict[str, Callable[[], bytes]] = {
    "elf-64-tib": lambda: elf_of([(0, 0, len(BODY), 1 << 46)]),
    "elf-truncated": lambda: elf_of([(0, 0, 22_700_000_000 * PAGE // 2, 22_700_000_000 * PAGE // 2)]),
    "elf-many-sparse": lambda: elf_of([(n << 31, 0, PAGE, PAGE) for n in range(9000)], BODY),
    "elf-shared-bytes": lambda: elf_of([(n << 20, 0, len(BODY), len(BODY)) for n in range(9000)]),
    "elf-shared-far": lambda: elf_of([(n << 33, 0, len(BODY), 1 << 33) for n in range(9000)]),
    "elf-high": lambda: elf_of([(0, 0, len(BODY), len(BODY)), ((1 << 51), 0, PAGE, PAGE)]),
    "elf-notes": lambda: elf([Load(0, BODY)], note("CORE", 1, b"") * 35000),
    "elf-note-names": lambda: elf([Load(0, BODY)], b"".join(note(f"N{n}", n, b"") for n in range(25000))),
    "elf-vmcoreinfo-lines": lambda: elf(
        [Load(0, BODY)],
        note("VMCOREINFO", 0, MACHINE.vmcoreinfo + b"".join(b"SYMBOL(s%d)=1\n" % n for n in range(45000))),
    ),
    "flattened-far": lambda: flattened_far(128 << 30),
    "flattened-far-elf": lambda: records([(0, elf_of([(0, 0, 127 << 30, 127 << 30)])), (128 << 30, b"x")]),
    "flattened-tiny-records": lambda: records([(at, SMALL[at : at + 1]) for at in range(len(SMALL))][:60000]),
    "flattened-reversed": lambda: records([(at * 2, b"x") for at in range(60000, 0, -1)] + [(0, SMALL[:2])]),
    "kdump-all-bits": lambda: all_bits(LIMIT),
    "kdump-alternating": lambda: alternating(LIMIT),
    "kdump-shared-4k": lambda: shared_page(PAGE, 32768),
    "kdump-shared-64k": lambda: shared_page(65536, 30000),
    "kdump-max-mapnr": lambda: edited(SMALL, (MAX_MAPNR_64, "<Q", (1 << 52))),
    "vmcoreinfo-log": lambda: lying(**{"SYMBOL(prb)": 0xFFFFFFFF81000000, "SIZE(printk_ringbuffer)": 1 << 40}),
    "vmcoreinfo-sections": lambda: lying(**{"LENGTH(mem_section)": 1 << 20, "SIZE(mem_section)": 1}),
    "no-vmcoreinfo": without_vmcoreinfo,
    **{f"good-{name.replace(chr(32), chr(45))}": partial(bytes, data) for name, data in FILES.items()},
}


def noise(size: int = LIMIT) -> bytes:
    return random.Random(21).randbytes(size)


LOG = b"[   12.000000] "
LOGS: dict[str, Callable[[], bytes]] = {
    "log-one-line": lambda: LOG + b"BUG: " + b"a" * 1_000_000,
    "log-spaces": lambda: (LOG + b"Call Trace:" + b" " * 900 + b"x\n") * 1000,
    "log-brackets": lambda: LOG + b"[" * 500_000 + b"\n" + b"[0.0" * 100_000,
    "log-oopses": lambda: (LOG + b"Oops: 0000 [#1] SMP\n" + LOG + b"Call Trace:\n" + LOG + b" f+0x1/0x2\n") * 11000,
    "log-traces": lambda: (
        LOG + b"BUG: unable to handle\n" + LOG + b"Call Trace:\n" + (LOG + b" f+0x1/0x2 [m]\n") * 30000
    ),
    "log-warnings": lambda: b"".join(
        b"[%d.0] WARNING: CPU: %d PID: 1 at f%d+0x1/0x2\n" % (n, n, n) for n in range(15000)
    ),
    "log-stalls": lambda: (
        (LOG + b"rcu: INFO: rcu_sched detected stalls on CPUs/tasks: { " + b"1 " * 400 + b"}\n") * 1000
    ),
    "log-hung": lambda: (LOG + b"INFO: task " + b"a:" * 400 + b" blocked for more than 120 seconds.\n") * 1000,
    "log-cut-here": lambda: (LOG + b"------------[ cut here ]------------\n") * 18000,
    "log-empty-lines": lambda: b"x" + b"\n" * 1_000_000,
}
TOMLS: dict[str, Callable[[], bytes]] = {
    "toml-brackets": lambda: b"x = " + b"[" * 1_000_000,
    "toml-tables": lambda: b"x = " + b"{a=" * 300_000,
    "toml-dotted": lambda: b"a." * 20_000 + b"a = 1\n",
    "toml-unknown": lambda: b"".join(b"key%d = 1\n" % n for n in range(60_000)),
    "toml-array": lambda: b"targets = [\n" + b'"file:///x",\n' * 70_000 + b"1]\n",
    "toml-string": lambda: b'name = """' + b"\\\n" * 400_000 + b'"""\nlevel = 3\n',
    "toml-interfaces": lambda: b"[[network.interface]]\nvlan = 9999\n" * 25_000,
}
FOREIGN: dict[str, Callable[[], bytes]] = {
    "conf-quote": lambda: b'MAKEDUMP_ARGS="' + b"x\n" * 400_000,
    "conf-quotes": lambda: b'KDUMP_CMDLINE_APPEND="a\n' * 40_000,
    "conf-targets": lambda: b"nfs server:/export\n" * 50_000,
    "conf-words": lambda: b"core_collector makedumpfile " + b"-d 31 " * 150_000,
    "conf-backslashes": lambda: b"KDUMP_SAVEDIR=" + b"\\" * 900_000,
}
