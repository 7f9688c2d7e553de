"""Small inline charts: use of memory, state of the CPUs, log lines over time."""

from __future__ import annotations

from collections.abc import Sequence

from kdump.report.logtext import Line
from kdump.report.page import escape
from kdump.units import size_text

_WIDTH = 720
_COLOURS = ("#2f6f9f", "#7a9e3b", "#c7762b", "#8a5a9e", "#b03a3a", "#3f8f86", "#9a8a3a", "#9aa3ab")
_PARTS = (
    ("MemFree", "free"), ("Cached", "cached"), ("AnonPages", "anonymous"), ("SReclaimable", "reclaimable slab"),
    ("SUnreclaim", "slab"), ("KernelStack", "kernel stacks"), ("PageTables", "page tables"), ("Hugetlb", "huge pages"),
)  # fmt: skip
_BINS = 120


def memory(figures: dict[str, int]) -> str:
    """One bar for the use of memory, with a scale. Memory that no counter explains is white and named in the legend."""
    total = figures.get("MemTotal", 0)
    if total <= 0:
        return ""
    parts = [(title, min(figures.get(key, 0), total)) for key, title in _PARTS]
    bars, labels, at = [], [], 0.0
    for number, (title, size) in enumerate(parts):
        width = _WIDTH * size / total
        if width < 0.5:
            continue
        colour, text = _COLOURS[number], f"{title} {size_text(size)}"
        bars.append(
            f'<rect x="{at:.1f}" y="0" width="{width:.1f}" height="28" fill="{colour}"><title>{text}</title></rect>'
        )
        labels.append(f'<li><span class="key" style="background:{colour}"></span>{text}</li>')
        at += width
    rest = max(total - sum(size for _, size in parts), 0)
    labels.append(f'<li><span class="key blank"></span>in no counter (drivers, vmalloc, …) {size_text(rest)}</li>')
    scale = "".join(
        f'<text x="{_WIDTH * half // 2}" y="44" class="axis" text-anchor="{at}">{size_text(total * half // 2)}</text>'
        for half, at in enumerate(("start", "middle", "end"))
    )
    name = f"{size_text(total)} of memory: " + ", ".join(f"{title} {size_text(size)}" for title, size in parts if size)
    frame = f'<rect width="{_WIDTH}" height="28" fill="none" class="frame"/>'
    return _svg("".join(bars) + frame + scale, 48, name) + f'<ul class="legend">{"".join(labels)}</ul>'


def cpus(states: Sequence[tuple[int, str]]) -> str:
    """One square for each CPU, coloured by what it did: (number, "panicked", "running" or "idle")."""
    colours = {"panicked": "#b03a3a", "running": "#a35c1c", "idle": "#68727b"}
    squares = [
        f'<li style="background:{colours.get(state, "#2f6f9f")}" title="CPU {cpu}: {escape(state)}">{cpu}</li>'
        for cpu, state in states
    ]
    keys = "".join(
        f'<li><span class="key" style="background:{colour}"></span>{name}</li>' for name, colour in colours.items()
    )
    name = ", ".join(f"CPU {cpu} {state}" for cpu, state in states[:64])
    grid = f'<ol class="cpus" role="img" aria-label="{escape(name)}">{"".join(squares)}</ol>'
    return f'{grid}<ul class="legend">{keys}</ul>' if states else ""


def timeline(lines: Sequence[Line], crash: float | None) -> str:
    """How many log lines there were over time, with the crash marked."""
    stamps = [line.seconds for line in lines if line.seconds is not None]
    if len(stamps) < 2 or max(stamps) <= min(stamps):
        return ""
    start, span = min(stamps), max(stamps) - min(stamps)
    counts = [0] * _BINS
    for stamp in stamps:
        counts[min(int((stamp - start) / span * _BINS), _BINS - 1)] += 1
    width, highest = _WIDTH / _BINS, max(counts)
    bars = "".join(
        f'<rect x="{place * width:.1f}" y="{50 - 50 * count / highest:.1f}" width="{width - 1:.1f}"'
        f' height="{50 * count / highest:.1f}" fill="#2f6f9f">'
        f"<title>{count} lines at {start + place * span / _BINS:.1f} s</title></rect>"
        for place, count in enumerate(counts)
        if count
    )
    mark = ""
    if crash is not None:
        x = min(max((crash - start) / span * _WIDTH, 0), _WIDTH - 1)
        place = f'x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="54"'
        mark = f'<line {place} stroke="#b03a3a" stroke-width="2"><title>crash</title></line>'
    unit = f"seconds since boot; {highest} lines at most in {span / _BINS:.2g} s"
    axis = f'<text x="0" y="68" class="axis">{start:.1f} s</text>'
    axis += f'<text x="{_WIDTH / 2}" y="68" text-anchor="middle" class="axis">{unit}</text>'
    axis += f'<text x="{_WIDTH}" y="68" text-anchor="end" class="axis">{start + span:.1f} s</text>'
    return _svg(bars + mark + axis, 72, f"{len(stamps)} log lines over {span:.1f} seconds")


def _svg(content: str, height: float, name: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(name)}">{content}</svg>'
