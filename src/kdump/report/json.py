"""The report as JSON, for programs: `schema` counts breaking changes; docs/report.md describes every field.

Blocks of a section become one object by their names: facts a mapping, tables a list of objects under the columns' keys,
stacks and text lists. Sizes are in bytes, times in seconds, addresses are numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from kdump import foreign
from kdump.foreign import items, mapping, table, text
from kdump.report.model import SCHEMA, Block, Facts, Frame, Report, Section, Stacks, Table
from kdump.report.summary import severity, summary

LIMIT: Final = 512 << 20  # bytes of a report that is read again
# What of a report is relied on when it is read again.
SHAPE: Final[foreign.Schema] = {
    "verdict": table(
        {"title": text(), "signature": text(), "frames": items(table({"function": text()}), 100000)},
        ("title", "signature", "frames"),
    ),
    "findings": items(table({"text": text(1 << 20)}, ("text",)), 100000),
    "sections": mapping(table({})),
}


def document(report: Report) -> dict[str, Any]:
    """The report as values that JSON has."""
    return {
        "schema": SCHEMA,
        "source": report.source,
        "format": report.format,
        "incomplete": report.incomplete,
        "live": report.live,
        "kernel": report.kernel,
        "build_id": report.build_id,
        "crash_time": report.crash_time,
        "verdict": {**asdict(report.verdict), "frames": [_frame(frame) for frame in report.verdict.frames]}
        | {"guilty": _frame(report.verdict.guilty) if report.verdict.guilty else None},
        "known": [match.to_dict() for match in report.known],
        "findings": [asdict(finding) for finding in report.findings],
        "sections": {section.name: _section(section) for section in report.sections},
        "problems": report.problems,
        "seconds": round(report.seconds, 3),
    }


def render(report: Report) -> Iterator[str]:
    """Lines of the JSON text. Control characters in strings of the dead kernel are escaped by JSON itself."""
    yield json.dumps(document(report), indent=1)


def _section(section: Section) -> dict[str, Any]:
    found: dict[str, Any] = {"title": section.title, "summary": summary(section), "severity": severity(section)}
    for block in section.blocks:
        found[block.name] = _block(block)
    if section.error:
        found["error"] = section.error
    if section.notes:
        found["notes"] = section.notes
    return found | {"seconds": round(section.seconds, 4)}


def _block(block: Block) -> Any:
    match block:
        case Facts():
            return {fact.key: fact.value for fact in block.facts}
        case Table():
            keys = [column.key for column in block.columns]
            return [dict(zip(keys, row, strict=True)) for row in block.rows]
        case Stacks():
            return [
                {"title": stack.title, "owners": stack.owners, "frames": [_frame(f) for f in stack.frames]}
                | ({"note": stack.note} if stack.note else {})
                for stack in block.stacks
            ]
        case _:
            return block.lines


def _frame(frame: Frame) -> dict[str, Any]:
    return {key: value for key, value in asdict(frame).items() if value not in ("", None)}
