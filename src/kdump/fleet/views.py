"""Data for pages and the API, read from the database: plain values, ready for a template or for JSON."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from typing import Any, Final

from kdump.fleet import evidence, groups, rates
from kdump.fleet.database import Row, Session, among
from kdump.fleet.schema import counts

DAY: Final = 86400
PAGE: Final = 50
WINDOWS: Final = (7, 30, 90, 365)
_ROW = (
    "c.id, c.host, c.name, c.received, c.crashed, c.kernel, c.signature, c.grp, c.kind, c.title, c.status, c.state,"
    " c.problem"
)


def today() -> int:
    """Days since 1970."""
    return int(time.time()) // DAY


def group_list(
    session: Session, *, days: int = 30, status: str = "open", kernel: str = "", text: str = "", page: int = 0
) -> dict[str, Any]:
    """Groups by the crashes they had lately, most first."""
    since = today() - days + 1
    where: list[str] = ["g.id = d.grp"]
    values: list[str] = []
    if status:
        where.append("g.status = ?")
        values.append(status)
    if kernel:
        where.append("d.kernel = ?")
        values.append(kernel)
    if text:
        where.append("LOWER(g.title) LIKE ? ESCAPE '!'")
        values.append(_like(text))
    rows = session.all(
        f"SELECT g.*, d.recent FROM (SELECT d.grp, SUM(d.crashes) AS recent FROM {counts(since)} d, groups g"
        f" WHERE {' AND '.join(where)} GROUP BY d.grp ORDER BY recent DESC, d.grp LIMIT ? OFFSET ?) d"
        " JOIN groups g ON g.id = d.grp ORDER BY d.recent DESC, d.grp",
        *values, PAGE + 1, page * PAGE,
    )  # fmt: skip
    more, rows = len(rows) > PAGE, rows[:PAGE]
    trends = _trends(session, [row["id"] for row in rows], since)
    for row in rows:
        row["recent"] = int(row["recent"])
        row["trend"] = [trends[row["id"]].get(day, 0) for day in range(since, today() + 1)]
        row["fix"] = first_known(row)
    return {"groups": rows, "more": more, "page": page, "days": days, "status": status, "kernel": kernel, "text": text}


def _trends(session: Session, ids: list[int], since: int) -> dict[int, dict[int, int]]:
    found: dict[int, dict[int, int]] = defaultdict(dict)
    if ids:
        for row in session.all(
            f"SELECT grp, day, SUM(crashes) AS n FROM days WHERE grp IN {among(ids)} AND day >= ? GROUP BY grp, day",
            *ids, since,
        ):  # fmt: skip
            found[row["grp"]][row["day"]] = int(row["n"])
    return found


def totals(session: Session, days: int = 30) -> dict[str, Any]:
    """The line on top: crashes, groups, hosts, who is not armed."""
    since = today() - days + 1
    crashes = session.one(
        "SELECT COALESCE(SUM(crashes), 0) AS n, COALESCE(SUM(CASE WHEN grp = 0 THEN crashes ELSE 0 END), 0) AS loose"
        f" FROM {counts(since)} c"
    )  # fmt: skip
    assert crashes is not None
    ground = session.value("SELECT COALESCE(SUM(hosts), 0) AS n FROM kernel_days WHERE day >= ?", since)
    return {
        "crashes": int(crashes["n"]),
        "unsigned": int(crashes["loose"]),
        "hosts": session.value("SELECT COUNT(*) AS n FROM hosts"),
        "unarmed": session.value("SELECT COUNT(*) AS n FROM hosts WHERE ready = 'no'"),
        "rate": rates.rate("", int(crashes["n"]), int(ground)),
        "waiting": session.value("SELECT COUNT(*) AS n FROM crashes WHERE state = 0 OR todo <> ''"),
        "days": days,
    }


def group(session: Session, number: int, days: int = 90) -> dict[str, Any] | None:
    """Everything about a group, or None."""
    row = session.one("SELECT * FROM groups WHERE id = ?", number)
    if row is None:
        return None
    since = today() - days + 1
    trend: dict[str, dict[int, int]] = defaultdict(dict)
    for each in session.all("SELECT day, kernel, crashes FROM days WHERE grp = ? AND day >= ?", number, since):
        trend[each["kernel"]][each["day"]] = int(each["crashes"])
    signatures = session.all("SELECT signature, by_person FROM signatures WHERE grp = ? ORDER BY signature", number)
    return {
        "group": row,
        "frames": row["frames"].split("\n") if row["frames"] else [],
        "known": json.loads(row["known"]) if row["known"] else [],
        "trend": trend,
        "since": since,
        "rates": rates.by_kernel(session, since, number),
        "signatures": signatures,
        "hosts": session.all(
            "SELECT g.host, g.crashes, g.last_seen, h.hardware, h.kernel FROM (SELECT * FROM group_hosts WHERE grp = ?"
            " ORDER BY crashes DESC LIMIT 20) g LEFT JOIN hosts h ON h.host = g.host ORDER BY g.crashes DESC, g.host",
            number,
        ),
        "crashes": session.all(
            f"SELECT {_ROW} FROM crashes c WHERE c.grp = ? ORDER BY c.received DESC LIMIT 20", number
        ),
        "files": session.all(
            "SELECT f.crash, f.name, f.size, c.host, c.kernel FROM crashes c JOIN files f ON f.crash = c.id"
            " WHERE c.grp = ? ORDER BY f.arrived DESC LIMIT 10", number,
        ),
        "factors": session.all("SELECT * FROM factors WHERE grp = ? ORDER BY low DESC", number),
        "near": groups.near(session, row),
        "audit": session.all("SELECT * FROM audit WHERE grp = ? ORDER BY id DESC LIMIT 50", number),
    }  # fmt: skip


def first_known(row: Row) -> dict[str, Any] | None:
    """The most likely known upstream fault of a group."""
    known: list[dict[str, Any]] = json.loads(row["known"]) if row["known"] else []
    return known[0] if known else None


def stack_diff(one: list[str], other: list[str]) -> list[tuple[str, str]]:
    """Two stacks side by side as (mark, function): " " in both, "-" only in the first, "+" only in the second."""
    import difflib

    return [(line[0], line[2:]) for line in difflib.ndiff(one, other) if line[0] in " -+"]


def crash(session: Session, number: int) -> dict[str, Any] | None:
    """A crash's row, its group, its files, or None."""
    row = session.one("SELECT * FROM crashes WHERE id = ?", number)
    if row is None:
        return None
    return {
        "crash": row,
        "want": json.loads(row["want"]) if row["want"] else {},
        "group": session.one("SELECT * FROM groups WHERE id = ?", row["grp"]) if row["grp"] is not None else None,
        "files": session.all("SELECT * FROM files WHERE crash = ? ORDER BY name", number),
        "has_body": session.value("SELECT COUNT(*) AS n FROM bodies WHERE crash = ?", number) > 0,
    }


def body(session: Session, number: int) -> dict[str, Any] | None:
    """The host's manifest, report and log; None if retention has deleted them."""
    found = session.value("SELECT envelope FROM bodies WHERE crash = ?", number)
    return None if found is None else evidence.opened(bytes(found))


def crash_list(session: Session, *, unsigned: bool = False, before: int = 0) -> dict[str, Any]:
    """The newest crashes."""
    where, values = ["1 = 1"], []
    if unsigned:
        where.append("c.grp IS NULL")
    if before:
        where.append("c.id < ?")
        values.append(before)
    rows = session.all(
        f"SELECT {_ROW} FROM crashes c WHERE {' AND '.join(where)} ORDER BY c.id DESC LIMIT ?", *values, PAGE + 1
    )
    return {"crashes": rows[:PAGE], "more": len(rows) > PAGE, "unsigned": unsigned}


def host_list(session: Session, which: str = "crashed", page: int = 0) -> dict[str, Any]:
    """Hosts: those that crashed most, those that are not armed, those that look broken."""
    if which == "suspect":
        return {"hosts": rates.suspects(session), "which": which, "more": False, "page": 0}
    columns = "host, crashes, kernel, hardware, ready, problem, last_seen, machine_checks"
    where = {"unarmed": "WHERE ready = 'no' ORDER BY last_seen DESC, host"}.get(which, "ORDER BY crashes DESC, host")
    rows = session.all(f"SELECT {columns} FROM hosts {where} LIMIT ? OFFSET ?", PAGE + 1, page * PAGE)
    return {"hosts": rows[:PAGE], "which": which, "more": len(rows) > PAGE, "page": page}


def host(session: Session, name: str) -> dict[str, Any] | None:
    """A host: its crashes, its groups, what it says of itself."""
    row = session.one("SELECT * FROM hosts WHERE host = ?", name)
    if row is None:
        return None
    return {
        "host": row,
        "facts": json.loads(row["inventory"]) if row["inventory"] else [],
        "groups": session.all(
            "SELECT g.id, g.title, h.crashes, h.last_seen FROM group_hosts h JOIN groups g ON g.id = h.grp"
            " WHERE h.host = ? ORDER BY h.crashes DESC LIMIT 50", name,
        ),
        "crashes": session.all(
            f"SELECT {_ROW} FROM crashes c WHERE c.host = ? ORDER BY c.id DESC LIMIT 50", name
        ),
    }  # fmt: skip


def kernels(session: Session, days: int = 30) -> dict[str, Any]:
    """Rates of all kernels."""
    return {"rates": rates.by_kernel(session, today() - days + 1), "days": days}


def compare(session: Session, old: str, new: str, days: int = 30) -> dict[str, Any]:
    """May `new` roll out? Rates of both, their ratio, groups that only the new one has."""
    since = today() - days + 1
    known = {each.kernel: each for each in rates.by_kernel(session, since)}
    one, other = (known.get(name, rates.rate(name, 0, 0)) for name in (old, new))
    rows = session.all(
        "SELECT g.id, g.title, g.fixed_in, SUM(CASE WHEN d.kernel = ? THEN d.crashes ELSE 0 END) AS old,"
        f" SUM(CASE WHEN d.kernel = ? THEN d.crashes ELSE 0 END) AS new FROM {counts(since)} d"
        " JOIN groups g ON g.id = d.grp"
        " WHERE d.kernel IN (?, ?) AND g.status <> 'ignored' GROUP BY g.id, g.title, g.fixed_in"
        " ORDER BY new DESC LIMIT 200",
        old, new, old, new,
    )  # fmt: skip
    fresh = [row for row in rows if row["new"] and not row["old"]]
    gone = [row for row in rows if row["old"] and not row["new"]]
    both = [row for row in rows if row["old"] and row["new"]]
    found = rates.ratio(one, other)
    return {
        "old": one, "new": other, "ratio": found, "fresh": fresh, "gone": gone, "both": both, "days": days,
        "verdict": _may(one, other, found, fresh),
    }  # fmt: skip


def _may(one: rates.Rate, other: rates.Rate, found: tuple[float, float, float] | None, fresh: list[Row]) -> str:
    if not one.host_days or not other.host_days:
        return "Not known: one of them has no host-days. Hosts report them with their inventory."
    if found is None:
        return "Neither has crashed."
    if found[1] > 1:
        return f"No: the new kernel crashes {found[0]:.1f} times as often (at least {found[1]:.1f})."
    also = f" {len(fresh)} groups are new on it." if fresh else ""
    if found[2] < 1:
        return f"Yes: the new kernel crashes {found[0]:.2f} times as often (at most {found[2]:.2f}).{also}"
    return (
        f"No difference is proved: {found[0]:.2f} times as often, 95 % between {found[1]:.2f} and {found[2]:.2f}.{also}"
    )


def search(session: Session, text: str) -> dict[str, Any]:
    """Groups, hosts and crashes that a text names: a title, function, signature, host, CVE or crash."""
    like = _like(text)
    exact = session.one("SELECT grp FROM signatures WHERE signature = ?", text)
    found = session.all(
        "SELECT id, title, crashes, hosts, last_seen FROM groups WHERE LOWER(title) LIKE ? ESCAPE '!'"
        " OR LOWER(frames) LIKE ? ESCAPE '!' OR LOWER(known) LIKE ? ESCAPE '!' OR id = ?"
        " ORDER BY crashes DESC LIMIT 50",
        like, like, like, exact["grp"] if exact else int(text) if re.fullmatch(r"\d{1,15}", text) else -1,
    )  # fmt: skip
    low, high = text, text + "\U0010ffff"
    return {
        "text": text,
        "groups": found,
        "hosts": session.all(
            "SELECT host, crashes FROM hosts WHERE host >= ? AND host < ? ORDER BY host LIMIT 20", low, high
        ),
        "crashes": session.all(
            f"SELECT {_ROW} FROM crashes c WHERE c.host = ? AND c.name = ? OR c.host = ? ORDER BY c.id DESC LIMIT 20",
            text.rpartition("-")[0].rpartition("-")[0], text, text,
        ),
    }  # fmt: skip


def alert_list(session: Session, page: int = 0) -> dict[str, Any]:
    """The newest alerts, and what is stuck in the outbox."""
    rows = session.all(
        "SELECT * FROM outbox WHERE channel = '' ORDER BY id DESC LIMIT ? OFFSET ?", PAGE + 1, page * PAGE
    )
    for row in rows:
        row["about"] = json.loads(row["payload"])
    stuck = session.all(
        "SELECT * FROM outbox WHERE state IN ('due', 'unsure', 'failed', 'sending') AND channel <> ''"
        " ORDER BY id DESC LIMIT 50"
    )
    return {"alerts": rows[:PAGE], "more": len(rows) > PAGE, "stuck": stuck, "page": page}


def _like(text: str) -> str:
    plain = text.lower().replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return f"%{plain}%"
