"""The report as one self-contained HTML page: nothing is loaded from elsewhere, everything of the dump is escaped.

It reads without scripts; the one script filters by a search word. A content security policy forbids all else, should
a string of the dead kernel find a way around the escaping.
"""

# ruff: noqa: E501 - the style sheet

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from kdump.report import charts
from kdump.report.logtext import Line
from kdump.report.model import Block, Facts, Frame, Report, Section, Stack, Stacks, Table, Verdict
from kdump.report.text import LIVE, text
from kdump.units import duration_text

_STYLE = """
:root{--ink:#1d2329;--dim:#5d6872;--line:#d5dadf;--soft:#f4f6f8;--bad:#a32d2d;--warn:#96560f;--paper:#fff;--focus:#2f6f9f;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--ink:#dfe4e8;--dim:#98a3ad;--line:#39424a;--soft:#20262b;--bad:#f08a8a;--warn:#e5ad62;--paper:#15191d;--focus:#7db4dc}}
*{box-sizing:border-box}body{margin:0 auto;max-width:62rem;padding:1.5rem;color:var(--ink);background:var(--paper);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.45rem;line-height:1.25;margin:.2rem 0 .6rem;color:var(--bad);overflow-wrap:anywhere}h2{font-size:1.1rem;margin:0;display:inline}
p{margin:.4rem 0}code,pre,td,.frames{font:13px/1.45 ui-monospace,monospace}pre{overflow-x:auto;background:var(--soft);padding:.7rem;margin:.5rem 0}
details{border-top:1px solid var(--line);padding:.6rem 0}summary{cursor:pointer}:focus-visible{outline:2px solid var(--focus);outline-offset:2px}
details details{border:0;padding:.2rem 0 .2rem .8rem}dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:.6rem 0}dl>div{display:contents}dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
.scroll{overflow-x:auto}table{border-collapse:collapse;margin:.5rem 0}caption{text-align:left;color:var(--dim)}th,td{text-align:left;padding:.1rem .9rem .1rem 0;vertical-align:top}th{color:var(--dim);font-weight:600}td.n,th.n{text-align:right}
tbody tr:hover{background:var(--soft)}.frames{margin:.3rem 0 .3rem 1.2rem;padding:0;list-style:none}.guilty{font-weight:700;color:var(--bad)}.dim{color:var(--dim)}
.findings{list-style:none;padding:0}.findings li{border-left:4px solid var(--line);padding:.15rem .7rem;margin:.3rem 0;background:var(--soft)}.findings a{color:inherit}.critical{border-color:var(--bad)!important}.warning{border-color:var(--warn)!important}
svg{width:100%;height:auto;display:block;margin:.6rem 0 .2rem}.frame{stroke:var(--line)}.cpu{fill:#fff;font:10px sans-serif}.axis{fill:var(--dim);font:11px sans-serif}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem 1rem;padding:0;margin:.2rem 0;color:var(--dim);font-size:.85rem}.key{display:inline-block;width:.7rem;height:.7rem;margin-right:.35rem}
#find{position:sticky;top:0;display:flex;flex-wrap:wrap;align-items:baseline;gap:.2rem .7rem;margin:1rem 0 .4rem;padding:.4rem 0;background:var(--paper);color:var(--dim)}
#search{flex:1;min-width:8rem;padding:.45rem .6rem;border:1px solid var(--dim);border-radius:4px;background:var(--paper);color:var(--ink);font:inherit}kbd{border:1px solid var(--line);border-radius:3px;padding:0 .3rem;font:12px ui-monospace,monospace}.gone,[hidden]{display:none!important}details{scroll-margin-top:4rem}
@media (max-width:32rem){body{padding:.8rem}.axis{font-size:22px}}
@media print{#find{display:none}pre{white-space:pre-wrap;overflow-wrap:anywhere}.scroll{overflow:visible}h2,summary{break-after:avoid}tr,li{break-inside:avoid}body{max-width:none;padding:0}details>*{display:block}details>dl{display:grid}details::details-content{content-visibility:visible;height:auto}}
"""
_SCRIPT = """
const box=document.getElementById('search'),found=document.getElementById('found'),parts=[...document.querySelectorAll('details')];
// Who opened a part for a while closes it again.
const keep=()=>parts.forEach(part=>part.was??=part.open),restore=()=>parts.forEach(part=>{part.open=part.was??part.open;delete part.was;});
document.getElementById('find').hidden=false;
box.addEventListener('input',()=>{const word=box.value.toLowerCase();let hits=0;
for(const item of document.querySelectorAll('[data-item]')){const hit=!word||item.textContent.toLowerCase().includes(word);
item.classList.toggle('gone',!hit);if(hit&&word)hits++;}
if(word)keep();else restore();
for(const part of parts){const hit=part.matches('[data-item]:not(.gone)')||!!part.querySelector('[data-item]:not(.gone)');
part.classList.toggle('gone',!!word&&!hit);if(word)part.open=hit;}
found.textContent=word?hits+' found':'';});
addEventListener('keydown',event=>{if(event.key==='/'&&event.target!==box&&!event.ctrlKey&&!event.altKey&&!event.metaKey){event.preventDefault();box.focus();box.select();}});
addEventListener('hashchange',()=>{const part=document.getElementById(location.hash.slice(1));if(part)part.open=true;});
addEventListener('beforeprint',()=>{keep();for(const part of parts)part.open=true;});
addEventListener('afterprint',()=>{if(!box.value)restore();});
"""


def render(report: Report, lines: Sequence[Line] = ()) -> Iterator[str]:
    """Lines of the page; `lines` of the log make its timeline."""
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    verdict = report.verdict
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
    yield f"<title>{escape(verdict.title)}</title><style>{_STYLE}</style></head><body>"
    yield f'<header><p class="dim">kdump report: {escape(report.source)}</p><h1>{escape(verdict.title)}</h1>'
    yield f"<p>{escape(verdict.explanation)}</p></header><main>"
    yield from _verdict(report, verdict)
    if report.findings:
        yield '<section><h2>Findings</h2><ul class="findings">'
        for finding in report.findings:
            yield f'<li class="{finding.severity}" data-item><a href="#{finding.section}">{escape(finding.text)}</a></li>'
        yield "</ul></section>"
    yield from _charts(report, lines)
    yield '<search id="find" hidden><label for="search">Search <kbd>/</kbd></label>'
    yield '<input id="search" type="search" aria-keyshortcuts="/"><span id="found" role="status"></span></search>'
    for section in report.sections:
        yield from _section(section)
    problems = [*report.problems, *(["the dump is marked incomplete"] if report.incomplete else [])]
    if problems:
        yield "<section><h2>What could not be read</h2><ul>"
        yield from (f"<li data-item>{escape(problem)}</li>" for problem in problems)
        yield "</ul></section>"
    yield f"</main><script>{_SCRIPT}</script></body></html>"


def _verdict(report: Report, verdict: Verdict) -> Iterator[str]:
    facts = [("Panic", verdict.panic), ("Message", verdict.headline), ("Kernel", report.kernel)]
    facts.append(("Live", LIVE if report.live else ""))
    if report.crash_time:
        facts.append(("Time", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(report.crash_time))))
    if verdict.uptime is not None:
        facts.append(("Uptime", duration_text(verdict.uptime)))
    if verdict.task:
        cpu = f", CPU {verdict.task.cpu}" if verdict.task.cpu is not None else ""
        facts.append(("Task", f"{verdict.task.command} (pid {verdict.task.pid}{cpu})"))
        facts += [("Command", verdict.task.command_line), ("Container", verdict.task.container)]
    facts += [("Tainted", "; ".join(verdict.taints)), ("Signature", verdict.signature or "none")]
    yield _definitions([(title, value) for title, value in facts if value])
    if verdict.frames:
        heading = escape(f"Stack of {verdict.stack_of}" if verdict.stack_of else "Stack")
        yield f"<div data-item><h2>{heading}</h2>{_frames(verdict.frames, verdict.guilty)}</div>"
    if verdict.code:
        yield f"<details><summary><h2>Code</h2></summary>{_lines(verdict.code)}</details>"
    if verdict.registers:
        words = [f"{name:>8} {value:016x}" for name, value in verdict.registers.items()]
        rows = ["".join(words[start : start + 3]) for start in range(0, len(words), 3)]
        yield f"<details><summary><h2>Registers</h2></summary>{_lines(rows)}</details>"


def _charts(report: Report, lines: Sequence[Line]) -> Iterator[str]:
    blocks = {(section.name, block.name): block for section in report.sections for block in section.blocks}
    chart = charts.timeline(lines, report.verdict.uptime)
    if chart:
        yield f"<section><h2>Log over time</h2>{chart}</section>"
    found = blocks.get(("cpus", "cpus"))
    if isinstance(found, Table):
        states = sorted((int(row[0] or 0), str(row[-1])) for row in found.rows)
        yield f"<section><h2>CPUs</h2>{charts.cpus(states)}</section>"
    found = blocks.get(("memory", "meminfo"))
    if isinstance(found, Facts):
        figures = {fact.key: fact.value for fact in found.facts if isinstance(fact.value, int)}
        yield f"<section><h2>Memory</h2>{charts.memory(figures)}</section>"


def _section(section: Section) -> Iterator[str]:
    opened = " open" if section.name in ("system", "cpus", "blocked") else ""
    yield f'<details id="{section.name}"{opened}><summary><h2>{escape(section.title)}</h2></summary>'
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
        case _:
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
        f'<th scope="col"{mark}>{escape(column.title)}</th>' for column, mark in zip(table.columns, marks, strict=True)
    )
    rows = []
    for row in table.rows:
        cells = zip(row, table.columns, marks, strict=True)
        rows.append(
            "<tr data-item>"
            + "".join(f"<td{mark}>{escape(text(value, column.unit))}</td>" for value, column, mark in cells)
            + "</tr>"
        )
    caption = f"<caption>{escape(table.title)}</caption>" if table.title else ""
    more = f'<p class="dim">… and {table.left_out} more</p>' if table.left_out else ""
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table>{caption}{body}</table></div>{more}'


def _stack(stack: Stack) -> str:
    owners = f'<p class="dim">{escape(", ".join(stack.owners))}</p>' if stack.owners else ""
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
        items.append(f"<li{mark}>{escape(line)}{times}</li>")
    return f'<ol class="frames">{"".join(items)}</ol>'
