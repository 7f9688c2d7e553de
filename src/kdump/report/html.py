"""The report as one self-contained HTML page: nothing is loaded from elsewhere, everything of the dump is escaped.

It reads without scripts; the one script searches, sorts tables and copies. The report as JSON is inside. A content
security policy forbids all else, should a string of the dead kernel find a way around the escaping.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator, Sequence
from itertools import groupby

from kdump.report import charts
from kdump.report import json as as_json
from kdump.report.logtext import Line, stamped
from kdump.report.model import Block, Column, Facts, Frame, Report, Section, Stack, Stacks, Table, Text, Value, Verdict
from kdump.report.page import SCRIPT, STYLE, escape
from kdump.report.summary import severity, summary
from kdump.report.text import facts, text


def render(report: Report, lines: Sequence[Line] = ()) -> Iterator[str]:
    """Lines of the page; `lines` of the log make its timeline."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    verdict = report.verdict
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
    yield f"<title>{escape(_title(report))}</title><style>{STYLE}</style></head><body>"
    yield f'<header><p class="dim">{escape(" · ".join(["kdump report", *_where(report), report.source]))}</p>'
    yield f"<h1>{escape(verdict.title)}</h1><p>{escape(verdict.explanation)}</p></header><main>"
    yield from _verdict(report, verdict)
    if report.findings:
        yield '<section><h2>Findings</h2><ul class="findings">'
        for finding in report.findings:
            link = f'<a href="#{finding.section}">{escape(finding.text)}</a>'
            yield f'<li class="{finding.severity}" data-item>{link}</li>'
        yield "</ul></section>"
    yield from _charts(report, lines)
    yield '<search id="find" hidden><label for="search">Search <kbd>/</kbd></label>'
    yield '<input id="search" type="search" aria-keyshortcuts="/"><span id="found" role="status"></span></search>'
    for section in report.sections:
        yield from _section(section, lines)
    problems = [*report.problems, *(["the dump is marked incomplete"] if report.incomplete else [])]
    if problems:
        yield "<section><h2>What could not be read</h2><ul>"
        yield from (f"<li data-item>{escape(problem)}</li>" for problem in problems)
        yield "</ul></section>"
    yield f"<p>{_copy('report', 'copy the report as JSON')}</p>"
    # A block of data, no script: only "<" could end it.
    data = "\n".join(as_json.render(report)).replace("<", "\\u003c")
    yield f'<script type="application/json" id="report">{data}</script>'
    yield f"</main><script>{SCRIPT}</script></body></html>"


def _where(report: Report) -> list[str]:
    """Host and time of the crash, as far as they are known."""
    facts = [
        fact
        for section in report.sections
        for block in section.blocks
        if isinstance(block, Facts)
        for fact in block.facts
    ]
    host = next((str(fact.value) for fact in facts if fact.key == "node" and fact.value not in ("", "(none)")), "")
    moment = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(report.crash_time)) if report.crash_time else ""
    return [part for part in (host, moment) if part]


def _title(report: Report) -> str:
    return " · ".join([*_where(report), report.verdict.title])


def _copy(place: str, words: str = "copy") -> str:
    """A button that copies the text of the element with that id; only the script shows it."""
    return f'<button type="button" class="copy" data-from="{place}" hidden>{words}</button>'


def _verdict(report: Report, verdict: Verdict) -> Iterator[str]:
    yield _definitions(facts(report))
    for match in report.known:
        line = escape(match.line(report.kernel))
        yield f"<p><strong>Upstream: {line}</strong><br>{escape(match.entry.title)}<br>{escape(match.evidence())}"
        link = escape(match.entry.link)
        yield f'<br><a href="{link}" rel="noreferrer">{link}</a></p>' if link.startswith("https://") else "</p>"
    if verdict.frames:
        heading = escape(f"Stack of {verdict.stack_of}" if verdict.stack_of else "Stack")
        frames = _frames(verdict.frames, verdict.guilty)
        yield f'<div data-item>{_copy("stack")}<h2>{heading}</h2><div id="stack">{frames}</div></div>'
    if verdict.earlier:
        yield f"<details><summary><h2>Earlier in the log</h2></summary>{_lines(verdict.earlier)}</details>"
    if verdict.code:
        lines = f'{_copy("code")}<div id="code">{_lines(verdict.code)}</div>'
        yield f"<details><summary><h2>Code</h2></summary>{lines}</details>"
    if verdict.registers:
        words = [f"{name:>8} {value:016x}" for name, value in verdict.registers.items()]
        rows = ["".join(words[start : start + 3]) for start in range(0, len(words), 3)]
        rows += [f"{name:>8} = {words}" for name, words in verdict.pointers.items()]
        lines = f'{_copy("registers")}<div id="registers">{_lines(rows)}</div>'
        yield f"<details><summary><h2>Registers</h2></summary>{lines}</details>"


def _charts(report: Report, lines: Sequence[Line]) -> Iterator[str]:
    blocks = {(section.name, block.name): block for section in report.sections for block in section.blocks}
    chart = charts.timeline(lines, report.verdict.uptime)
    if chart:
        yield f"<section><h2>Log lines over time</h2>{chart}</section>"
    found = blocks.get(("cpus", "cpus"))
    if isinstance(found, Table):
        states = sorted((int(row[0] or 0), str(row[-1])) for row in found.rows)
        yield f"<section><h2>CPUs</h2>{charts.cpus(states)}</section>"
    found = blocks.get(("memory", "meminfo"))
    if isinstance(found, Facts):
        figures = {fact.key: fact.value for fact in found.facts if isinstance(fact.value, int)}
        yield f"<section><h2>Memory</h2>{charts.memory(figures)}</section>"


def _section(section: Section, lines: Sequence[Line]) -> Iterator[str]:
    opened = " open" if section.name in ("system", "cpus", "blocked") else ""
    worst, words = severity(section), summary(section)
    mark = f'<span class="mark {worst}">{worst}</span>' if worst else ""
    if section.name == "log" and lines:
        words = f"{len(lines)} lines"
    line = f'<span class="sum">{escape(words)}</span>' if words else ""
    yield f'<details id="{section.name}"{opened}><summary><h2>{escape(section.title)}</h2>{mark}{line}</summary>'
    if section.name == "log" and lines:  # the whole log, where other forms have its end
        yield f'{_copy("whole-log")}<div id="whole-log">{_lines(stamped(lines))}</div>'
    else:
        for block in section.blocks:
            yield from _block(block)
    if section.error:
        yield f'<p class="dim">not available: {escape(section.error)}</p>'
    yield from (f'<p class="dim" data-item>could not read: {escape(note)}</p>' for note in section.notes)
    yield "</details>"


def _block(block: Block) -> Iterator[str]:
    match block:
        case Facts():
            yield _definitions([(fact.title, text(fact.value, fact.unit)) for fact in block.facts])
        case Table():
            yield _table(block)
        case Stacks():
            yield from (_stack(stack) for stack in block.stacks)
            if not block.stacks:
                yield '<p class="dim">none</p>'
        case Text(prose=True):
            yield f"<h3>{escape(block.title)}</h3>"
            yield f'<ul class="prose">{"".join(f"<li data-item>{escape(line)}</li>" for line in block.lines)}</ul>'
        case Text():
            title = f'<p class="dim">{escape(block.title)}</p>' if block.title else ""
            yield title + _lines(block.lines)


def _definitions(pairs: Sequence[tuple[str, str]]) -> str:
    rows = (f"<div data-item><dt>{escape(title)}</dt><dd>{escape(value)}</dd></div>" for title, value in pairs)
    return f"<dl>{''.join(rows)}</dl>"


def _lines(lines: Sequence[str]) -> str:
    return "<pre>" + "".join(f"<span data-item>{escape(line)}\n</span>" for line in lines) + "</pre>"


def _table(table: Table) -> str:
    if not table.rows:
        return f'<p class="dim">{escape(table.title)}: none</p>' if table.title else '<p class="dim">none</p>'
    numeric = [not any(isinstance(row[place], str) for row in table.rows) for place in range(len(table.columns))]
    marks = [' class="n"' if right else "" for right in numeric]
    head = "".join(
        f'<th scope="col"{mark}><button type="button">{escape(column.title)}</button></th>'
        for column, mark in zip(table.columns, marks, strict=True)
    )
    rows = []
    for row in table.rows:
        cells = zip(row, table.columns, marks, strict=True)
        rows.append("<tr data-item>" + "".join(_cell(*cell) for cell in cells) + "</tr>")
    caption = f"<caption>{escape(table.title)}</caption>" if table.title else ""
    more = f'<p class="dim">… and {table.left_out} more</p>' if table.left_out else ""
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table>{caption}{body}</table></div>{more}'


def _cell(value: Value, column: Column, mark: str) -> str:
    """A cell; a number that is written with its unit carries its bare value, to be sorted by."""
    bare = f' data-v="{float(value):g}"' if column.unit and isinstance(value, (int, float)) else ""
    return f"<td{mark}{bare}>{escape(text(value, column.unit))}</td>"


def _stack(stack: Stack) -> str:
    owners = f'<p class="dim">{escape(", ".join(stack.unnamed))}</p>' if stack.unnamed else ""
    note = f'<p class="dim">({escape(stack.note)})</p>' if stack.note else ""
    return f"<details data-item><summary>{escape(stack.title)}</summary>{owners}{_frames(stack.frames)}{note}</details>"


def _frames(frames: Sequence[Frame], guilty: Frame | None = None) -> str:
    items = []
    for line, same in groupby(frames, key=str):
        members = list(same)
        if members[0].context:
            items.append(f'<li class="dim">&lt;{escape(members[0].context)}&gt;</li>')
        mark = ' class="guilty"' if any(frame is guilty for frame in members) else ""
        times = f" ({len(members)} times)" if len(members) > 1 else ""
        address = f'<span class="address">{members[0].address:#x}</span>' if members[0].address else ""
        items.append(f"<li{mark}>{escape(line)}{times}{address}</li>")
    return f'<ol class="frames">{"".join(items)}</ol>'
