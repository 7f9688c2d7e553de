"""Workers: they read what a host did not report itself, count each crash once, and raise alerts.

A crash is counted in the transaction that marks it COUNTED, so a worker that is killed leaves it as it was and the next
sweep takes it. Reading a log or dump happens outside of any transaction, under a lease.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from kdump.errors import KdumpError
from kdump.fleet import alerts, child, evidence, ingest, known
from kdump.fleet.database import Database, Row, Session, among
from kdump.fleet.objects import Objects
from kdump.fleet.schema import COUNTED, MONTH, RECEIVED
from kdump.report.known import Index

BATCH: Final = 256
LEASE: Final = child.TIME + 60.0  # seconds
TRIES: Final = 3
DAY: Final = 86400

_log = logging.getLogger("kdump.fleet")


class Worker:
    """Does what is left to do with the crashes in a database. Safe to run in many threads and processes."""

    def __init__(self, database: Database, objects: Objects, index: Callable[[], Index | None] = lambda: None):
        self._database = database
        self._objects = objects
        self._index = index
        self._stop = threading.Event()
        self.counted = 0

    def sweep(self) -> int:
        """Everything that is not finished and nobody is at; returns how many crashes were dealt with."""
        done = 0
        while not self._stop.is_set():
            some = self._count() + self._read()
            if not some:
                return done
            done += some
        return done

    def stop(self) -> None:
        """Let `sweep` return soon."""
        self._stop.set()

    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def _count(self) -> int:
        """Count crashes whose report is there; up to BATCH in one transaction."""
        index = self._index()
        found = self._database.run(lambda session: count(session, time.time(), index))
        self.counted += found
        return found

    def _read(self) -> int:
        """Read one log or dump in a child."""
        row = self._database.run(lambda session: claim(session, time.time()))
        if row is None:
            return 0
        try:
            report, extra = self._report(row)
        except (KdumpError, OSError) as error:
            problem = str(error)[:500]
            _log.warning("crash %s of %s: %s", row["name"], row["host"], problem)
            self._database.run(lambda session: give_up(session, row, problem))
            return 1
        self._database.run(lambda session: finish(session, row, report, extra, time.time()))
        return 1

    def _report(self, row: Row) -> tuple[bytes, bytes]:
        """The report (JSON) on what came in, and the log of its crash."""
        envelope = evidence.opened(row["envelope"])
        if row["todo"] == "log":
            return child.report_on_log(envelope["log"], "json"), b""
        with self._objects.local(row["place"]) as path:
            return child.report(path, "json"), b""


def claim(session: Session, now: float) -> Row | None:
    """Take a lease on a crash that must be read, or None."""
    row = session.one(
        "SELECT c.id FROM crashes c WHERE c.todo <> '' AND c.lease < ? AND c.tries < ? ORDER BY c.id LIMIT 1"
        + (" FOR UPDATE SKIP LOCKED" if session.postgres else ""),
        now,
        TRIES,
    )
    if row is None:
        return None
    session.execute("UPDATE crashes SET lease = ?, tries = tries + 1 WHERE id = ?", now + LEASE, row["id"])
    return session.one(
        "SELECT c.*, b.envelope, f.place FROM crashes c JOIN bodies b ON b.crash = c.id"
        " LEFT JOIN files f ON f.crash = c.id AND f.name = 'vmcore' WHERE c.id = ?",
        row["id"],
    )


def give_up(session: Session, row: Row, problem: str) -> None:
    """Reading failed: it is tried again when the lease ends, and counted as it is after the last try."""
    last = row["tries"] >= TRIES
    session.execute(
        "UPDATE crashes SET problem = ?, todo = ?, lease = 0 WHERE id = ?",
        problem,
        "" if last else row["todo"],
        row["id"],
    )


def finish(session: Session, row: Row, report: bytes, _extra: bytes, now: float) -> None:
    """Keep a report that was made here, and take the crash's facts from it if the host had sent none."""
    envelope = evidence.opened(row["envelope"])
    text = evidence.compose(envelope["manifest"], report, envelope["log"])
    try:
        facts = evidence.read(text, row["received"])
    except evidence.RefusedError as error:
        give_up(session, {**row, "tries": TRIES}, str(error))
        return
    if not envelope["report"] or row["todo"] == "dump":
        session.execute("UPDATE bodies SET envelope = ? WHERE crash = ?", evidence.pack(text), row["id"])
    session.execute("UPDATE crashes SET todo = '', lease = 0, problem = '' WHERE id = ?", row["id"])
    if row["state"] == RECEIVED:
        group = ingest.group_of(session, facts, now) if facts.signature else None
        session.execute(
            "UPDATE crashes SET signature = ?, grp = ?, kind = ?, title = ?, guilty = ?, module = ?, frames = ?,"
            " kernel = ?, build_id = ? WHERE id = ?",
            facts.signature, group, facts.kind, facts.title, facts.guilty, facts.module, facts.frames,
            facts.kernel, facts.build_id, row["id"],
        )  # fmt: skip


def count(session: Session, now: float, index: Index | None = None) -> int:
    """Count up to BATCH crashes, each exactly once; returns how many."""
    rows = session.all(
        "SELECT id, host, received, kernel, grp, kind, title FROM crashes WHERE state = ? AND todo = ''"
        " ORDER BY id LIMIT ?" + (" FOR UPDATE SKIP LOCKED" if session.postgres else ""),
        RECEIVED,
        BATCH,
    )
    if not rows:
        return 0
    ids = [row["id"] for row in rows]
    session.execute(f"UPDATE crashes SET state = ? WHERE id IN {among(ids)}", COUNTED, *ids)
    _count_hosts(session, rows)
    _count_days(session, rows)
    grouped = [row for row in rows if row["grp"] is not None]
    if grouped:
        _count_groups(session, grouped)
        fresh = alerts.look(session, grouped, now)
        if index is not None:
            known.mark(session, index, fresh)
    return len(rows)


def _count_hosts(session: Session, rows: Sequence[Row]) -> None:
    crashes = Counter(row["host"] for row in rows)
    checks = Counter(row["host"] for row in rows if row["kind"] == "machine-check")
    last = {row["host"]: row for row in rows}
    session.insert(
        "INSERT INTO hosts (host, first_seen, last_seen, crashes, kernel, machine_checks)",
        [
            (host, last[host]["received"], last[host]["received"], number, last[host]["kernel"], checks[host])
            for host, number in sorted(crashes.items())
        ],
        "ON CONFLICT (host) DO UPDATE SET crashes = hosts.crashes + excluded.crashes, kernel = excluded.kernel,"
        " machine_checks = hosts.machine_checks + excluded.machine_checks,"
        " last_seen = CASE WHEN excluded.last_seen > hosts.last_seen THEN excluded.last_seen ELSE hosts.last_seen END",
    )


def _count_days(session: Session, rows: Sequence[Row]) -> None:
    days = Counter((row["grp"] or 0, int(row["received"]) // DAY, row["kernel"]) for row in rows)
    session.insert(
        "INSERT INTO days (grp, day, kernel, crashes)",
        [(*key, number) for key, number in sorted(days.items())],
        "ON CONFLICT (grp, day, kernel) DO UPDATE SET crashes = days.crashes + excluded.crashes",
    )
    months: Counter[tuple[int, int, str]] = Counter()
    for (group, day, kernel), number in days.items():
        months[group, day // MONTH, kernel] += number
    session.insert(
        "INSERT INTO months (grp, month, kernel, crashes)",
        [(*key, number) for key, number in sorted(months.items())],
        "ON CONFLICT (grp, month, kernel) DO UPDATE SET crashes = months.crashes + excluded.crashes",
    )


def _count_groups(session: Session, rows: Sequence[Row]) -> None:
    pairs = Counter((row["grp"], row["host"]) for row in rows)
    latest = {(row["grp"], row["host"]): row["received"] for row in rows}
    touched = session.insert(
        "INSERT INTO group_hosts (grp, host, crashes, last_seen)",
        [(*pair, number, latest[pair]) for pair, number in sorted(pairs.items())],
        "ON CONFLICT (grp, host) DO UPDATE SET crashes = group_hosts.crashes + excluded.crashes,"
        " last_seen = excluded.last_seen RETURNING grp, host, crashes",
    )
    new = [row for row in touched if row["crashes"] == pairs[row["grp"], row["host"]]]
    new_hosts = Counter(row["grp"] for row in new)
    session.many(
        "UPDATE hosts SET groups = groups + ? WHERE host = ?",
        [(number, host) for host, number in sorted(Counter(row["host"] for row in new).items())],
    )
    seen = {row["grp"]: row["received"] for row in rows}
    session.many(
        "UPDATE groups SET crashes = crashes + ?, hosts = hosts + ?,"
        " last_seen = CASE WHEN last_seen < ? THEN ? ELSE last_seen END WHERE id = ?",
        [
            (number, new_hosts[group], seen[group], seen[group], group)
            for group, number in sorted(Counter(row["grp"] for row in rows).items())
        ],
    )


def summary(session: Session) -> str:
    """The remaining work, for logs and metrics, as JSON."""
    left = session.value("SELECT COUNT(*) AS n FROM crashes WHERE state = 0 OR todo <> ''")
    return json.dumps({"unfinished": left})
