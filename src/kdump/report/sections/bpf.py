"""BPF programs and maps that were loaded.

Source: include/linux/bpf.h; every program and map has an entry in prog_idr and map_idr under its id.
"""

from __future__ import annotations

from kdump.report.context import Context
from kdump.report.logtext import clean
from kdump.report.model import Column, Section, Table, Value

TITLE = "BPF"
NEEDS_DUMP = True
_SHOWN = 500


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    objects = context.objects
    types = {value: name for name, value in objects.types.enum("bpf_prog_type").items()}
    rows: list[tuple[Value, ...]] = []
    for number, address in objects.xarray(objects.struct("idr", objects.symbols.address("prog_idr")).idr_rt):
        program = objects.struct("bpf_prog", address)
        kind = types.get(int(program.type), str(int(program.type))).removeprefix("BPF_PROG_TYPE_").lower()
        jited = bool(program.jited)
        rows.append((number, kind, clean(objects.string(program.aux.name)), int(program.len), jited))
    columns = [
        Column("id", "ID"), Column("type", "Type"), Column("name", "Name"), Column("instructions", "Instructions"),
        Column("jited", "Compiled"),
    ]  # fmt: skip
    section.blocks.append(Table("programs", "Programs", columns, rows[:_SHOWN], max(0, len(rows) - _SHOWN)))
    kinds = {value: name for name, value in objects.types.enum("bpf_map_type").items()}
    maps: list[tuple[Value, ...]] = []
    for number, address in objects.xarray(objects.struct("idr", objects.symbols.address("map_idr")).idr_rt):
        found = objects.struct("bpf_map", address)
        kind = kinds.get(int(found.map_type), str(int(found.map_type))).removeprefix("BPF_MAP_TYPE_").lower()
        maps.append((number, kind, clean(objects.string(found.name)), int(found.max_entries)))
    columns = [Column("id", "ID"), Column("type", "Type"), Column("name", "Name"), Column("entries", "Entries")]
    section.blocks.append(Table("maps", "Maps", columns, maps[:_SHOWN], max(0, len(maps) - _SHOWN)))
