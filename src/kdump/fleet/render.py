"""Templates, and the filters with which they write numbers, times and sizes; the parts of a stored report as HTML."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup, escape

from kdump.fleet import charts
from kdump.units import size_text

HERE: Final = Path(__file__).parent
_ROWS: Final = 200  # of a table, and lines of a text
_DEEPEST: Final = 6
DIRECTIONS: Final = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # they would make text look like other text


@cache
def environment() -> jinja2.Environment:
    """The templates; everything that they print is escaped unless it is Markup."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    made.filters |= {
        "iso": lambda stamp: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stamp)),
        "ago": ago,
        "thousands": lambda number: f"{number:,}",
        "figure": lambda number: f"{number:.3g}" if number < 1000 else f"{number:,.0f}",
        "small": lambda number: f"{number:.2g}",
        "bytes": size_text,
        "spark": lambda counts, title: Markup(charts.spark(counts, f"Crashes a day: {title}")),  # noqa: S704 -- escaped there
    }
    for name, file in (("style", "style.css"), ("script", "htmx.min.js")):  # in their addresses
        made.globals[name] = hashlib.sha256((HERE / "static" / file).read_bytes()).hexdigest()[:12]
    return made


def drawn(svg: str) -> Markup:
    """A chart for a template: `charts` has escaped what it was given."""
    return Markup(svg)  # noqa: S704


def ago(stamp: float) -> str:
    """How long ago, in words; the date after a month."""
    seconds = time.time() - stamp
    if seconds < -60:
        return time.strftime("%Y-%m-%d", time.gmtime(stamp))
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 31 * 86400:
            return time.strftime("%Y-%m-%d", time.gmtime(stamp))
        if seconds >= size:
            number = int(seconds / size)
            return f"{number} {word}{'s' if number > 1 else ''} ago"
    return "just now"


def sections(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The sections of a stored report, each with its blocks as HTML. Whatever the host wrote there is only text."""
    found = []
    known = report.get("sections")
    for name, section in list(known.items())[:64] if isinstance(known, dict) else []:
        if isinstance(section, dict):
            blocks = [
                Markup("<h3>{}</h3>{}").format(key, _block(value))
                for key, value in list(section.items())[:64]
                if key not in ("title", "seconds") and value not in (None, [], {})
            ]
            found.append({"title": str(section.get("title", name))[:80], "blocks": blocks})
    return found


def _block(value: Any, depth: int = 0) -> Markup:
    if depth > _DEEPEST:
        return Markup("…")
    if isinstance(value, dict):
        pairs = (
            Markup("<dt>{}</dt><dd>{}</dd>").format(k, _block(v, depth + 1)) for k, v in list(value.items())[:_ROWS]
        )
        return Markup('<dl class="facts">{}</dl>').format(Markup("").join(pairs))
    if isinstance(value, list):
        if value and all(isinstance(each, dict) for each in value):
            return _stacks(value) if "frames" in value[0] else _table(value)
        text = "\n".join(str(each)[:500] for each in value[:_ROWS])
        more = f"\n… and {len(value) - _ROWS} more" if len(value) > _ROWS else ""
        return Markup('<pre tabindex="0">{}</pre>').format(text + more)
    return escape(str(value)[:2000])


def _table(rows: list[dict[str, Any]]) -> Markup:
    columns = list(rows[0])[:24]
    head = Markup("").join(Markup("<th>{}</th>").format(column) for column in columns)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td>{}</td>").format(str(row.get(column, ""))[:300]) for column in columns)
        )
        for row in rows[:_ROWS]
    )
    frame = '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table><thead><tr>{}</tr></thead>'
    more = Markup("<p>… and {} more</p>").format(len(rows) - _ROWS) if len(rows) > _ROWS else Markup("")
    return Markup(frame + "<tbody>{}</tbody></table></div>{}").format(head, body, more)  # noqa: S704 -- a constant


def _stacks(stacks: list[dict[str, Any]]) -> Markup:
    parts = []
    for stack in stacks[:_ROWS]:
        frames = stack.get("frames")
        text = "\n".join(function_lines(frames if isinstance(frames, list) else []))
        parts.append(Markup('<p>{}</p><pre tabindex="0">{}</pre>').format(str(stack.get("title", ""))[:200], text))
    return Markup("").join(parts)


def function_lines(frames: list[Any]) -> Iterator[str]:
    """Frames of a stored report as lines."""
    for frame in frames[:_ROWS]:
        if isinstance(frame, dict):
            module = f" [{frame['module']}]" if frame.get("module") else ""
            offset = frame.get("offset")
            place = f"+{offset:#x}" if isinstance(offset, int) else ""
            yield f"{frame.get('function') or frame.get('address', '?')}{place}{module}"[:300]
