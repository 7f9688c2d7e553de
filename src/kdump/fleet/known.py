"""Groups that are known upstream: what `kdump.report.known` finds is written into the groups' rows."""

from __future__ import annotations

import json
from collections.abc import Iterable

from kdump.fleet.database import Row, Session
from kdump.report.known import Index, from_guilty

_SHOWN = 3  # matches that a group keeps


def mark(session: Session, index: Index, groups: Iterable[Row]) -> None:
    """Write what is known into groups."""
    for group in groups:
        stack = from_guilty(group["frames"].split("\n"), group["guilty"]) if group["guilty"] else []
        found = index.find(group["origin"], group["kind"], stack)
        text = json.dumps([match.to_dict() for match in found[:_SHOWN]]) if found else ""
        if text != group["known"]:
            session.execute("UPDATE groups SET known = ? WHERE id = ?", text, group["id"])
