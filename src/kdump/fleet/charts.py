"""Charts as SVG that a page holds itself: readable without a script, in the dark, on paper, and by screen readers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

_PALETTE: Final = 6  # classes c0 … c5 of the style sheet
DAY: Final = 86400


def spark(counts: Sequence[int], title: str, width: int = 120, height: int = 24) -> str:
    """A row of bars, one a day."""
    most = max(counts, default=0) or 1
    step = width / max(1, len(counts))
    bars = "".join(
        f'<rect x="{at * step:.1f}" y="{height - (tall := max(1.0, count / most * height)):.1f}"'
        f' width="{max(0.6, step - 0.6):.1f}" height="{tall:.1f}"/>'
        for at, count in enumerate(counts)
        if count
    )
    return (
        f'<svg class="spark" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
        f' aria-label="{escape(title, quote=True)}"><title>{escape(title)}</title>'
        f'<line class="axis" x1="0" y1="{height}" x2="{width}" y2="{height}"/>{bars}</svg>'
    )


def stacked(series: Mapping[str, Mapping[int, int]], first: int, last: int, title: str) -> str:
    """Bars by day, split by name (a kernel); the largest names have colours of their own, the others share one."""
    days = list(range(first, last + 1))
    names = sorted(series, key=lambda name: -sum(series[name].values()))
    shown, rest = names[: _PALETTE - 1], names[_PALETTE - 1 :]
    rows = [(name, [series[name].get(day, 0) for day in days]) for name in shown]
    if rest:
        rows.append((f"{len(rest)} others", [sum(series[name].get(day, 0) for name in rest) for day in days]))
    width, height, left, bottom = 720, 200, 44, 22
    most = max((sum(values[at] for _, values in rows) for at in range(len(days))), default=0) or 1
    step = (width - left) / len(days)
    parts = [_grid(most, width, height, left, bottom)]
    tops = [0.0] * len(days)
    for number, (name, values) in enumerate(rows):
        bars = []
        for at, value in enumerate(values):
            if value:
                tall = value / most * (height - bottom - 8)
                y = height - bottom - tops[at] - tall
                tops[at] += tall
                bars.append(
                    f'<rect x="{left + at * step:.1f}" y="{y:.1f}" width="{max(0.8, step - 1):.1f}"'
                    f' height="{tall:.1f}">'
                    f"<title>{_date(days[at])}: {value} {escape(name)}</title></rect>"
                )
        parts.append(f'<g class="c{number}">{"".join(bars)}</g>')
    parts += [
        f'<text x="{left}" y="{height - 6}">{_date(first)}</text>',
        f'<text x="{width}" y="{height - 6}" text-anchor="end">{_date(last)}</text>',
    ]
    key = "".join(f'<li><span class="key c{at}"></span>{escape(name)}</li>' for at, (name, _) in enumerate(rows))
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {width} {height}" role="img"'
        f' aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg><ul class="legend">{key}</ul></figure>'
    )


def intervals(rows: Sequence[tuple[str, float, float, float]], title: str, unit: str) -> str:
    """A dot and a line from low to high for each (name, middle, low, high)."""
    if not rows:
        return ""
    width, left, tall = 720, 200, 24
    height = tall * len(rows) + 28
    most = max(high for _, _, _, high in rows) or 1.0

    def x(value: float) -> float:
        return left + min(1.0, value / most) * (width - left - 90)

    parts = []
    for at, (name, middle, low, high) in enumerate(rows):
        y = at * tall + tall / 2 + 2
        parts.append(
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(name[:32])}</text>'
            f'<line class="interval" x1="{x(low):.1f}" y1="{y}" x2="{x(high):.1f}" y2="{y}"/>'
            f'<circle cx="{x(middle):.1f}" cy="{y}" r="4"/>'
            f'<text x="{x(high) + 8:.1f}" y="{y + 4}">{middle:.3g}</text>'
        )
    parts.append(f'<text x="{left}" y="{height - 6}">0</text>')
    parts.append(f'<text x="{width - 90}" y="{height - 6}" text-anchor="end">{most:.3g} {escape(unit)}</text>')
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg class="dots" viewBox="0 0 {width} {height}"'
        f' role="img" aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg></figure>'
    )


def _grid(most: int, width: int, height: int, left: int, bottom: int) -> str:
    lines = []
    for part in (0, 0.5, 1):
        y = height - bottom - part * (height - bottom - 8)
        lines.append(
            f'<line class="axis" x1="{left}" y1="{y:.1f}" x2="{width}" y2="{y:.1f}"/>'
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{most * part:.4g}</text>'
        )
    return "".join(lines)


def _date(day: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(day * DAY))
