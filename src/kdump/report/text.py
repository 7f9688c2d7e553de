"""The report for a terminal: plain lines of at most 80 columns, with colour where the reader wants it.

No library is used because the same lines are written by the capture kernel, which has none.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, zip_longest

from kdump.display import shown
from kdump.report.logtext import clean
from kdump.report.model import Block, Facts, Frame, Report, Section, Stacks, Table, Text, Unit, Value, Verdict
from kdump.units import duration_text, size_text

WIDTH = 80
LIVE = "taken while the kernel was running: parts may not agree with each other"
_LEAST = 8  # characters that a column of words keeps
_STYLES = {"critical": "1;31", "warning": "33", "note": "36", "title": "1"}


def render(report: Report, *, colour: bool = False) -> Iterator[str]:
    """Lines of the report. Nothing that the dead kernel's memory holds reaches the terminal as a control character."""
    for line, style in _lines(report):
        plain = shown(clean(line))
        if len(plain) > WIDTH:
            yield from textwrap.wrap(plain, WIDTH, subsequent_indent="    ")
            continue
        yield f"\x1b[{_STYLES[style]}m{plain}\x1b[0m" if colour and style and plain else plain


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    """Lines and the style of each ("" for none)."""
    yield from ((line, "critical") for line in textwrap.wrap(report.verdict.title, WIDTH) or [""])
    yield "", ""
    yield from ((line, "") for line in _verdict(report, report.verdict))
    if report.findings:
        yield from (("", ""), ("Findings", "title"))
        for finding in report.findings:
            mark = "-" if finding.severity == "note" else "!"
            for line in textwrap.wrap(finding.text, WIDTH - 2, initial_indent=f"  {mark} ", subsequent_indent="    "):
                yield line, finding.severity
    absent = _absent(report.sections)
    for section in report.sections:
        if section.title not in absent.get(section.error, ()):
            yield from (("", ""), (section.title, "title"))
            yield from ((f"  {line}".rstrip(), "") for line in _section(section))
    for error, titles in absent.items():
        yield from (("", ""), ("Not available", "title"))
        yield from ((line, "") for line in _wrapped([f"{', '.join(titles)}: {error}"], "  "))
    problems = [*report.problems, *(["the dump is marked incomplete"] if report.incomplete else [])]
    if problems:
        yield from (("", ""), ("What could not be read", "title"))
        yield from ((line, "") for line in _wrapped(problems, "  "))


def _absent(sections: Sequence[Section]) -> dict[str, list[str]]:
    """Titles of the sections that are empty for one reason, by that reason, which the report gives once."""
    found: dict[str, list[str]] = {}
    for section in sections:
        if section.error and not section.blocks and not section.notes:
            found.setdefault(section.error, []).append(section.title)
    return {error: titles for error, titles in found.items() if len(titles) > 1}


def text(value: Value, unit: Unit = "") -> str:
    """A value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if unit == "bytes":
        return size_text(value)
    if unit == "seconds":
        return duration_text(value)
    if unit == "stamp":
        return f"{value:.6f}"
    if unit == "hex":
        return f"{int(value):#x}"
    if unit == "percent":
        return f"{value:.1f}%"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def facts(report: Report) -> list[tuple[str, str]]:
    """The facts at the head of a report: (title, value). An empty title continues the value above."""
    verdict = report.verdict
    found: list[tuple[str, str]] = []
    if verdict.panic:
        found.append(("Panic", verdict.panic))
    if verdict.headline and verdict.headline != verdict.panic:
        found.append(("Message", verdict.headline))
    found.append(("Kernel", report.kernel or "unknown"))
    if report.live:
        found.append(("Live", LIVE))
    if report.crash_time:
        found.append(("Time", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(report.crash_time))))
    if verdict.uptime is not None:
        found.append(("Uptime", duration_text(verdict.uptime)))
    if verdict.task:
        task = verdict.task
        where = f"{task.command} (pid {task.pid}" + (f", CPU {task.cpu}" if task.cpu is not None else "")
        found.append(("Task", where + (f", uid {task.user})" if task.user is not None else ")")))
        if task.command_line:
            found.append(("Command", task.command_line))
        if task.container:
            found.append(("Container", task.container))
    if verdict.guilty:
        found.append(("Function", str(verdict.guilty)))
    for number, taint in enumerate(verdict.taints):
        found.append(("Tainted" if not number else "", taint))
    found.append(("Signature", verdict.signature or "none: nothing tells this crash from others"))
    return found


def _verdict(report: Report, verdict: Verdict) -> Iterator[str]:
    yield from textwrap.wrap(verdict.explanation, WIDTH)
    yield ""
    told = facts(report)
    for number, match in enumerate(report.known):
        told.append(("" if number else "Upstream", match.line(report.kernel)))
        told += [("", f"“{match.entry.title}”"), ("", match.evidence())]
    yield from _pairs(told)
    if verdict.registers:
        yield ""
        yield "Registers"
        words = [f"{name:>8} {value:016x}" for name, value in verdict.registers.items()]
        yield from ("".join(words[start : start + 3]) for start in range(0, len(words), 3))
        yield from (f"{name:>8} = {words}" for name, words in verdict.pointers.items())
    if verdict.code:
        yield ""
        yield "Code"
        for line in verdict.code:
            yield from textwrap.wrap(
                line, WIDTH - 2, initial_indent="  ", subsequent_indent="      ", drop_whitespace=False
            )
    if verdict.frames:
        yield ""
        yield f"Stack of {verdict.stack_of}" if verdict.stack_of else "Stack"
        yield from (f"  {line}" for line in _frames(verdict.frames, verdict.guilty))
    if verdict.earlier:
        yield ""
        yield "Earlier in the log"
        yield from _wrapped(verdict.earlier, "  ")


def _pairs(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max((len(title) for title, _ in pairs), default=0)
    for title, value in pairs:
        first, *rest = textwrap.wrap(value, max(WIDTH - width - 4, 20)) or [""]
        yield f"{title:<{width}}  {first}"
        yield from (" " * (width + 2) + line for line in rest)


def _section(section: Section) -> Iterator[str]:
    for number, block in enumerate(section.blocks):
        lines = list(_block(block))
        if lines and number:
            yield ""
        yield from lines
    if section.error:
        yield from textwrap.wrap(f"not available: {section.error}", WIDTH - 2)
    yield from _wrapped(section.notes, "", "could not read: ")


def _block(block: Block) -> Iterator[str]:
    match block:
        case Facts():
            yield from _pairs([(fact.title, text(fact.value, fact.unit)) for fact in block.facts])
        case Table():
            yield from _table(block)
        case Text(prose=True):
            yield block.title
            for line in block.lines:
                yield from textwrap.wrap(line, WIDTH - 2, subsequent_indent="    ")
        case Text():
            if block.title:
                yield f"({block.title})"
            for line in block.lines:
                yield from textwrap.wrap(line, WIDTH - 2, subsequent_indent="    ", drop_whitespace=False) or [""]
        case Stacks():
            if not block.stacks:
                yield "none"
            for number, stack in enumerate(block.stacks):
                if number:
                    yield ""
                yield stack.title
                if stack.unnamed:
                    yield from textwrap.wrap(
                        ", ".join(stack.unnamed), WIDTH - 4, initial_indent="  ", subsequent_indent="  "
                    )
                yield from (f"  {line}" for line in _frames(stack.frames))
                if stack.note:
                    yield from textwrap.wrap(f"({stack.note})", WIDTH - 4, initial_indent="  ", subsequent_indent="  ")


def _frames(frames: Sequence[Frame], guilty: Frame | None = None) -> Iterator[str]:
    # Recursion takes one line: what repeats is the same text.
    for _, same in groupby(frames, key=str):
        members = list(same)
        if members[0].context:
            yield f"<{members[0].context}>"
        mark = "> " if any(frame is guilty for frame in members) else "  "
        times = f" ({len(members)} times)" if len(members) > 1 else ""
        room = WIDTH - 6 - len(times)
        words = members[0].arguments
        line = mark + str(replace(members[0], arguments=""))
        if words and len(line) + len(words) + 3 <= room:
            line += f" ({words})"
            words = ""
        yield line[:room] + times
        yield from (
            textwrap.wrap(f"({words})", WIDTH - 10, initial_indent="      ", subsequent_indent="       ")
            if words
            else ()
        )


def _table(table: Table) -> Iterator[str]:
    if table.title:
        yield table.title
    if not table.rows:
        yield "none"
        return
    titles = [column.title for column in table.columns]
    rows = [[text(value, column.unit) for value, column in zip(row, table.columns, strict=True)] for row in table.rows]
    numeric = [all(not isinstance(row[index], str) for row in table.rows) for index in range(len(titles))]
    widths = [max(len(row[index]) for row in [titles, *rows]) for index in range(len(titles))]
    least = [max(*map(len, title.split()), *(len(row[index]) for row in rows), 1) for index, title in enumerate(titles)]
    # Where there is no room, titles take several lines, then words do; figures are never broken.
    words = [index for index, right in enumerate(numeric) if not right]
    while sum(widths) > WIDTH - 2 - 2 * (len(widths) - 1):
        wordy = max(range(len(widths)), key=lambda index: widths[index] - least[index])
        if widths[wordy] > least[wordy]:
            widths[wordy] -= 1
            continue
        widest = max(words, key=widths.__getitem__, default=None)
        if widest is None or widths[widest] <= _LEAST:
            break
        widths[widest] -= 1
        least[widest] -= 1
    heads = [textwrap.wrap(title, width) or [""] for title, width in zip(titles, widths, strict=True)]
    tallest = max(map(len, heads))
    folded = [[[""] * (tallest - len(head)) + head for head in heads]]
    folded += [
        [[cell] if right else _folded(cell, width) for cell, width, right in zip(row, widths, numeric, strict=True)]
        for row in rows
    ]
    for columns in folded:
        for line in zip_longest(*columns, fillvalue=""):
            parts = zip(line, widths, numeric, strict=True)
            yield "  ".join(part.rjust(width) if right else part.ljust(width) for part, width, right in parts).rstrip()
    if table.left_out:
        yield f"… and {table.left_out} more"


def _folded(cell: str, width: int) -> list[str]:
    return textwrap.wrap(cell, width, subsequent_indent="  ", break_on_hyphens=False) or [""]


def _wrapped(sentences: Sequence[str], indent: str, prefix: str = "") -> Iterator[str]:
    for sentence in sentences:
        yield from textwrap.wrap(prefix + sentence, WIDTH - 2, initial_indent=indent, subsequent_indent=indent + "  ")
