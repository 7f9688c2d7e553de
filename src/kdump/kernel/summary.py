"""The contents of a dump as one value for JSON: `kdump info` prints it."""

from __future__ import annotations

from pathlib import Path

from kdump.arch import by_machine, elf_name
from kdump.errors import KdumpError
from kdump.kernel import vmcoreinfo
from kdump.memory.counts import count_pages
from kdump.memory.decompress import NAMES
from kdump.memory.protocol import Dump


def summarize(dump: Dump) -> dict[str, object]:
    """Format, kernel, level, ranges, pages by state, compression ratio, completeness, notes. Sizes are in bytes."""
    info = vmcoreinfo.parse(dump.vmcoreinfo)
    counts = count_pages(dump.memory)
    page = dump.memory.page_size
    # /proc/kcore and devices have no size of their own to speak of
    files = [path.stat().st_size for path in map(Path, dump.paths) if path.is_file()]
    size = counts.stored if dump.format == "kcore" or not files else sum(files)
    status = dump.header.get("status")
    timestamp = dump.header.get("timestamp")
    crash_time = info.crash_time or (vmcoreinfo.possible_time(timestamp) if isinstance(timestamp, int) else 0)
    utsname = dump.header.get("utsname") or ("",) * 6
    assert isinstance(utsname, tuple)
    return {
        "paths": list(dump.paths),
        "format": dump.format,
        "header_version": dump.header.get("header_version"),
        "size": size,
        "incomplete": dump.incomplete or bool(counts.missing),
        "kernel": {
            "release": info.release or utsname[2],
            "version": utsname[3],
            "machine": _machine(dump),
            "node": utsname[1],
            "build_id": info.build_id,
            "crash_time": crash_time,
            "vmcoreinfo": bool(dump.vmcoreinfo),
        },
        "dump_level": dump.header.get("dump_level"),
        "compression": next((name for bit, name in NAMES.items() if isinstance(status, int) and status & bit), "none"),
        "page_size": page,
        "ranges": [{"start": each.start, "end": each.end} for each in dump.memory.ranges],
        "pages": {
            "memory": counts.memory,
            "dumped": counts.dumped,
            "zero": counts.zero,
            "excluded": counts.excluded,
            "missing": counts.missing,
        },
        "codecs": counts.codecs,
        "stored": counts.stored,
        "ratio": round(counts.dumped * page / counts.stored, 2) if counts.stored else None,
        "notes": [{"name": note.name, "type": note.type, "size": len(note.data)} for note in dump.notes],
    }


def _machine(dump: Dump) -> str:
    machine = dump.header.get("machine", "")
    try:
        return by_machine(machine if isinstance(machine, int) else str(machine)).name
    except KdumpError:
        return elf_name(machine) if isinstance(machine, int) else str(machine)
