"""File systems and where they are mounted; frozen and read-only ones, and those that tasks wait for.

Source: include/linux/fs.h (SB_RDONLY, s_writers).
"""

from __future__ import annotations

from kdump.kernel.mounts import path_of_mount
from kdump.report.blocked import LONG, blocked
from kdump.report.context import Context
from kdump.report.logtext import clean
from kdump.report.model import Column, Finding, Section, Table, Value
from kdump.report.mounted import mounts
from kdump.units import duration_text

TITLE = "Mounts"
NEEDS_DUMP = True
_RDONLY = 1
_SHOWN = 500
_FROZEN = {1: "writes", 2: "page faults", 3: "internal threads", 4: "completely"}


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    objects = context.objects
    rows: list[tuple[Value, ...]] = []
    told: set[int] = set()
    for mount in mounts(context):
        block = mount.mnt.mnt_sb
        kind = clean(objects.string(block.s_type.name))
        where = clean(path_of_mount(objects, mount))
        state = "read-only" if int(block.s_flags) & _RDONLY else ""
        level = int(block.s_writers.frozen)
        if level:
            state = f"frozen ({_FROZEN.get(level, level)})"
        waiting, longest = _waiting(context, int(block))
        if int(block) not in told and (level or (longest or 0.0) >= LONG):
            told.add(int(block))
            words = f"the {kind} file system at {where} {'is frozen' if level else 'hangs'}"
            tasks = f"{waiting} task{'s' if waiting > 1 else ''}"
            since = (
                f": {tasks} wait{'s' if waiting == 1 else ''} for it, the longest for {duration_text(longest or 0.0)}"
            )
            section.findings.append(Finding("warning", words + (since if waiting else "")))
        rows.append((where, kind, clean(objects.string(mount.mnt_devname)), state, waiting or None, longest))
    columns = [
        Column("path", "Mounted at"), Column("type", "Type"), Column("source", "Source"), Column("state", "State"),
        Column("waiting", "Tasks waiting"), Column("longest", "Longest", "seconds"),
    ]  # fmt: skip
    section.blocks.append(Table("mounts", "", columns, rows[:_SHOWN], max(0, len(rows) - _SHOWN)))


def _waiting(context: Context, block: int) -> tuple[int, float | None]:
    """How many blocked tasks wait for a file system in the end, and for how many seconds the first of them has."""
    found = [
        each
        for each in blocked(context).waiting
        if block == (each.chain.block if each.chain is not None else each.wait.block)
    ]
    return sum(len(each.members) for each in found), max((each.first.waited for each in found), default=None)
