"""What a dump's header says about the machine: names, time, notes."""

from __future__ import annotations

import contextlib

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
    uts: tuple[bytes, ...] = (b"Linux", b"", b"", b"", b"", b"")
    if dump.vmcoreinfo:
        kernel = Kernel(dump)
        info = kernel.vmcoreinfo
        timestamp = info.crash_time
        phys_base = info.numbers.get("phys_base", 0)
        uts = (b"Linux", b"", info.release.encode(), b"", b"", b"")
        with contextlib.suppress(KdumpError, KeyError):
            where = info.symbols["init_uts_ns"] + info.offsets["uts_namespace.name"]
            raw = kernel.virtual.read(where, 6 * UTS_FIELD)
            uts = tuple(raw[i : i + UTS_FIELD].split(b"\0", 1)[0] for i in range(0, len(raw), UTS_FIELD))
    return Origin(dump.memory.page_size, notes, dump.vmcoreinfo, uts, timestamp, phys_base)
