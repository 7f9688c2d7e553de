"""Loaded modules, and those that are not part of the kernel: proprietary, out of tree, unsigned, forced, staging."""

from __future__ import annotations

from kdump.report.context import Context
from kdump.report.logtext import clean
from kdump.report.model import Column, Finding, Section, Table, Value
from kdump.report.taints import TAINTS

TITLE = "Modules"
NEEDS_DUMP = True
_FOREIGN = {"P": "proprietary", "O": "out of tree", "E": "unsigned", "F": "forced", "C": "staging", "K": "live patch"}


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    objects = context.objects
    rows: list[tuple[Value, ...]] = []
    for module in context.kernel.modules:
        mask = int(module.struct.taints)
        flags = "".join(letter for bit, (letter, _) in enumerate(TAINTS) if mask >> bit & 1)
        users = int(module.struct.refcnt.counter) - 1 if objects.has(module.struct, "refcnt") else None
        version = clean(objects.string(module.struct.version)) if module.struct.version else ""
        rows.append((clean(module.name), module.size, users, flags, version))
    columns = [
        Column("name", "Module"), Column("size", "Size", "bytes"), Column("users", "Users"), Column("taints", "Taints"),
        Column("version", "Version"),
    ]  # fmt: skip
    section.blocks.append(Table("modules", "", columns, rows))
    for letter, meaning in _FOREIGN.items():
        names = [str(row[0]) for row in rows if letter in str(row[3])]
        if names:
            section.findings.append(
                Finding("note", f"{meaning}: {', '.join(names[:12])}{' …' if len(names) > 12 else ''}")
            )
