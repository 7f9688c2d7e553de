"""Periodic work: retention, factors, uploads that nobody finished."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Final

from kdump.fleet import rates
from kdump.fleet.database import Session, among
from kdump.fleet.objects import Bucket, Directory
from kdump.fleet.service import Service

EVERY: Final = 3600.0  # seconds
_UPLOADS: Final = 2 * 86400.0  # seconds after which an upload that does not go on is given up
_STEP: Final = 500
_log = logging.getLogger("kdump.fleet")


@dataclass(frozen=True)
class Retention:
    """`bodies` and `files`: days that reports and dumps are kept; the first and the last of each group stay."""

    bodies: int = 365
    files: int = 90


async def run(service: Service) -> None:
    """Until cancelled."""
    while True:
        await asyncio.sleep(EVERY)
        try:
            await asyncio.to_thread(once, service)
        except Exception:  # noqa: BLE001 -- the next round tries again
            _log.exception("housekeeping failed; the next round tries again")


def once(service: Service, keep: Retention | None = None) -> dict[str, int]:
    """Everything once; what was done, by name."""
    keep = keep or Retention()
    now = time.time()
    done = {
        "files": forget_files(service, now - keep.files * 86400),
        "bodies": forget_bodies(service, now - keep.bodies * 86400),
        "uploads": forget_uploads(service, now - _UPLOADS),
        "factors": rates.factors(service.database),
    }
    day = int(now) // 86400
    service.database.run(lambda session: session.execute("DELETE FROM host_days WHERE day < ?", day - 2))
    return done


_SPARED: Final = (
    "c.id NOT IN (SELECT MIN(id) FROM crashes WHERE grp = c.grp UNION SELECT MAX(id) FROM crashes WHERE grp = c.grp)"
)


def forget_files(service: Service, before: float) -> int:
    """Delete dumps that arrived before a time, except the first and the last of each group."""
    with service.database.read() as session:
        rows = session.all(
            "SELECT f.crash, f.name, f.place FROM files f JOIN crashes c ON c.id = f.crash WHERE f.arrived < ?"
            " AND f.crash NOT IN (SELECT MIN(f2.crash) FROM files f2 JOIN crashes c2 ON c2.id = f2.crash"
            "  WHERE c2.grp = c.grp UNION SELECT MAX(f2.crash) FROM files f2 JOIN crashes c2 ON c2.id = f2.crash"
            "  WHERE c2.grp = c.grp)",
            before,
        )
    for row in rows:  # first the row: a file without a row is waste, a row without its file would be a lie

        def forget(session: Session, row: dict[str, object] = row) -> None:
            session.execute("DELETE FROM files WHERE crash = ? AND name = ?", row["crash"], row["name"])

        service.database.run(forget)
        service.objects.delete(row["place"])
    return len(rows)


def forget_bodies(service: Service, before: float) -> int:
    """Reports from before a time go; the rows of their crashes stay, and so do the first and last of each group."""
    total = 0
    while True:

        def work(session: Session) -> int:
            rows = session.all(
                "SELECT b.crash FROM bodies b JOIN crashes c ON c.id = b.crash"
                f" WHERE c.received < ? AND {_SPARED} LIMIT ?",
                before, _STEP,
            )  # fmt: skip
            ids = [row["crash"] for row in rows]
            if ids:
                session.execute(f"DELETE FROM bodies WHERE crash IN {among(ids)}", *ids)
            return len(ids)

        done = service.database.run(work)
        total += done
        if done < _STEP:
            return total


def forget_uploads(service: Service, before: float) -> int:
    """Uploads that were begun and not finished."""
    store = service.objects
    if isinstance(store, Directory):
        return store.stale(time.time() - before)
    with service.database.read() as session:
        rows = session.all(
            "SELECT u.crash, u.name, u.upload, c.host, c.name AS crash_name FROM uploads u"
            " JOIN crashes c ON c.id = u.crash WHERE u.begun < ?", before,
        )  # fmt: skip
    for row in rows:
        if isinstance(store, Bucket):
            store.abandon(f"{row['host']}/{row['crash_name']}/{row['name']}", row["upload"])
        key = (row["crash"], row["name"])
        service.database.run(lambda session, key=key: session.execute(  # type: ignore[misc]
            "DELETE FROM uploads WHERE crash = ? AND name = ?", *key
        ))  # fmt: skip
    return len(rows)
