"""The end of the kernel's log: a serial log goes on with the capture kernel, or with the next boot."""

from __future__ import annotations

from kdump.report.context import Context
from kdump.report.logtext import stamped
from kdump.report.model import Section, Text

TITLE = "Log"
NEEDS_DUMP = False
_LINES = 60


def collect(context: Context, section: Section) -> None:
    """Fill the section."""
    lines = context.crash.boot
    part = " of the boot in question" if len(lines) < len(context.lines) else ""
    title = f"last {_LINES} of {len(lines)} lines{part}" if len(lines) > _LINES else part.strip()
    section.blocks.append(Text("log", stamped(lines[-_LINES:]), title))
