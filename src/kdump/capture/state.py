"""Shared by the supervisor and its workers: exit statuses, and what a second attempt must know of the first."""

from __future__ import annotations

import json
from pathlib import Path

STATE = "/run/kdump/state.json"
SAVED, FAILED, DEGRADED, BROKEN = 0, 1, 3, 70  # exit statuses of the worker; BROKEN is a fault of its own


def remember(state: dict[str, object], path: str = STATE) -> None:
    """Keep what a second attempt must know (the crash's name)."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(state), encoding="utf-8")


def recall(path: str = STATE) -> dict[str, object]:
    """The state that `remember` kept; empty at the first attempt."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
