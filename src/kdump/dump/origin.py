"""A dump header's facts about the machine: names, time, notes."""

from __future__ import annotations

import contextlib

from kdump.dump.elf_writer import Mapping
from kdump.dump.kdump_writer import UTS_FIELD, Origin
from kdump.errors import KdumpError
from kdump.kernel.kernel import Kernel
from kdump.memory.protocol import Dump, Note

VMCOREINFO_NAME = "VMCOREINFO"


def find_origin(dump: Dump) -> Origin:
    """From the dump's notes, its VMCOREINFO and the kernel's init_uts_ns; what is missing stays empty."""
    notes = tuple(dump.notes)
    if dump.vmcoreinfo and not any(note.name == VMCOREINFO_NAME for note in notes):
        # libkdumpfile looks for VMCOREINFO among the notes only.
        notes += (Note(VMCOREINFO_NAME, 0, dump.vmcoreinfo),)
    timestamp, phys_base = 0, 0
    machine = b""
    with contextlib.suppress(KdumpError):
        machine = Kernel(dump).arch.name.encode()
    uts: tuple[bytes, ...] = (b"Linux", b"", b"", b"", machine, b"")
    if dump.vmcoreinfo:
        kernel = Kernel(dump)
        info = kernel.vmcoreinfo
        timestamp = info.crash_time
        phys_base = kernel.arch.physical_base(info.numbers)
        uts = (b"Linux", b"", info.release.encode(), b"", machine, b"")
        with contextlib.suppress(KdumpError, KeyError):
            where = info.symbols["init_uts_ns"] + info.offsets["uts_namespace.name"]
            raw = kernel.virtual.read(where, 6 * UTS_FIELD)
            uts = tuple(raw[i : i + UTS_FIELD].split(b"\0", 1)[0] for i in range(0, len(raw), UTS_FIELD))
    return Origin(dump.memory.page_size, notes, dump.vmcoreinfo, uts, timestamp, phys_base)


def find_mappings(dump: Dump) -> tuple[Mapping | None, int | None]:
    """The kernel image's mapping, and the virtual address of physical 0 in the direct mapping; None if unknown."""
    if not dump.vmcoreinfo:
        return None, None
    kernel = Kernel(dump)
    image, direct = None, None
    with contextlib.suppress(KdumpError, KeyError):
        start, end = kernel.symbols.address("_stext"), kernel.symbols.address("_end")
        page = dump.memory.page_size
        image = Mapping(start, kernel.virtual.translate(start), -(-(end - start) // page) * page)
    with contextlib.suppress(KdumpError, KeyError):
        direct = kernel.arch.direct_map(kernel)
    return image, direct
