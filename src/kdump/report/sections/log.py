"""The end of the kernel's log."""

from __future__ import annotations

from kdump.report.context import Context
from kdump.report.logtext import stamped
from kdump.report.model import Section, Text

TITLE = "Log"
NEEDS_DUMP = False
_LINES = 60


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    lines = context.lines
    title = f"last {_LINES} of {len(lines)} lines" if len(lines) > _LINES else ""
    section.blocks.append(Text("log", stamped(lines[-_LINES:]), title))
