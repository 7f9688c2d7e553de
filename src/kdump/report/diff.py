"""The differences between two reports: whether it is the same crash, and what else differs."""

from __future__ import annotations

from typing import Any, NamedTuple

_NOISE = frozenset(
    {"seconds", "source", "crash_time", "schema", "registers", "code", "frames", "summary", "severity", "pointers"}
)
_SKIPPED_SECTIONS = frozenset({"log", "tasks", "cpus"})  # they differ always; what matters of them is in the verdict
_BY = ("lock", "disk", "name", "cache", "path", "zone", "pid", "id", "cpu", "pool", "command")


class Difference(NamedTuple):
    """One value that differs; `first` or `second` is None where a side does not have it."""

    path: str
    first: Any
    second: Any


class Comparison(NamedTuple):
    """`same` if the signatures agree, `near` if only the coarser keys do; `differences` in the order of the report."""

    same: bool
    near: bool
    differences: list[Difference]


def compare(first: dict[str, Any], second: dict[str, Any]) -> Comparison:
    """Compare two reports as JSON documents (see `kdump.report.json`)."""
    differences: list[Difference] = []
    for key in ("kernel", "build_id", "format", "incomplete"):
        _walk(key, first.get(key), second.get(key), differences)
    _walk("verdict", _only(first["verdict"]), _only(second["verdict"]), differences)
    _walk("stack", _stack(first), _stack(second), differences)
    for side, other in ((first, second), (second, first)):
        there = {finding["text"] for finding in other["findings"]}
        for finding in side["findings"]:
            if finding["text"] not in there:
                pair = (finding["text"], None) if side is first else (None, finding["text"])
                differences.append(Difference("finding", *pair))
    sections = [name for name in {**first["sections"], **second["sections"]} if name not in _SKIPPED_SECTIONS]
    missing: dict[tuple[str, str], list[str]] = {}
    for name in sections:
        ours, theirs = (side["sections"].get(name) for side in (first, second))
        if _absent(ours) != _absent(theirs):
            missing.setdefault((_presence(ours), _presence(theirs)), []).append(name)
        elif not _absent(ours):
            _walk(name, ours, theirs, differences)
    # Said once, not for each section, nor for each of its values.
    differences += [Difference(", ".join(names), *sides) for sides, names in missing.items()]
    same, near = (_agree(first, second, name) for name in ("signature", "coarse"))
    return Comparison(same, near and not same, differences)


def _absent(section: dict[str, Any] | None) -> bool:
    """Whether a report lacks a section or has only the reason: that of a log has no section that needs memory."""
    if section is None:
        return True
    return "error" in section and not any(isinstance(value, (list, dict)) for value in section.values())


def _presence(section: dict[str, Any] | None) -> str:
    if section is None:
        return "absent"
    return f"absent: {section['error']}" if _absent(section) else "present"


def _agree(first: dict[str, Any], second: dict[str, Any], name: str) -> bool:
    """Whether both have one value. An empty value agrees with nothing."""
    value = first["verdict"].get(name, "")
    return bool(value) and value == second["verdict"].get(name, "")


def _only(verdict: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in verdict.items() if key not in _NOISE and key != "guilty"}


def _stack(document: dict[str, Any]) -> list[str]:
    return [frame.get("function", "?") for frame in document["verdict"]["frames"]]


def _walk(path: str, first: Any, second: Any, out: list[Difference]) -> None:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in {**first, **second}:
            if key not in _NOISE and key != "title":
                _walk(f"{path}.{key}", first.get(key), second.get(key), out)
    elif _rows(first) and _rows(second):
        _walk(path, _by_name(first), _by_name(second), out)
    elif first != second:
        out.append(Difference(path, first, second))


def _rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _by_name(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows of a table under what names them, so that neither order nor insertion counts as a difference."""
    key = next((name for name in _BY if name in rows[0]), None)
    return {str(row.get(key)) if key else str(place): row for place, row in enumerate(rows)}
