"""Groups: what people decide about them, with an audit, and which of them look alike.

A group is a set of signatures. Merging moves signatures (and their crashes) from one group to another, splitting moves
some out into a group of their own. Decisions belong to groups, so a later version of the signature, which maps stored
reports anew, keeps them: see `regroup`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Final

from kdump.errors import KdumpError, UsageError
from kdump.fleet import evidence, ingest
from kdump.fleet.database import Database, Row, Session, among
from kdump.fleet.schema import COUNTED, MONTH
from kdump.report.known import from_guilty

STATUSES: Final = ("open", "ignored", "fixed", "merged")
EDITABLE: Final = {"owner": 120, "link": 400, "fixed_in": 200, "collect": 16, "status": 16, "title": 300}
_NEAR = 0.5  # similarity from which groups are offered as near duplicates
_REGROUP = 50  # crashes at a time
_REGROUPED = "regrouped"  # the setting that says how far: "2" is all of version 2, "2:500" up to crash 500
REGROUP: Final = "regroup"  # who did it, in the audit


def edit(session: Session, group: int, who: str, field: str, value: str) -> None:
    """Set one field of a group. Raises `UsageError` for a value that cannot be."""
    if field not in EDITABLE:
        raise UsageError(f"{field!r} cannot be changed")
    value = evidence.clean(value, EDITABLE[field])
    if field == "status" and value not in STATUSES[:3]:
        raise UsageError("the status is one of " + ", ".join(STATUSES[:3]))
    if field == "link" and value and not value.startswith(("https://", "http://")):
        raise UsageError("a link begins with https://")
    if (
        field == "collect"
        and value
        and not (value.isascii() and value.isdigit() and len(value) < 3 and int(value) < 32)
    ):
        raise UsageError("collect takes a dump level from 0 to 31, or nothing")
    row = found(session, group)
    if row[field] != value:
        session.execute(f"UPDATE groups SET {field} = ? WHERE id = ?", value, group)
        note(session, who, field, group, f"{row[field] or '–'} → {value or '–'}")


def found(session: Session, group: int) -> Row:
    """The group's row. Raises `KdumpError` if there is none."""
    row = session.one("SELECT * FROM groups WHERE id = ?", group)
    if row is None:
        raise KdumpError(f"there is no group {group}")
    return row


def note(session: Session, who: str, what: str, group: int | None, detail: str) -> None:
    """Write into the audit."""
    session.execute(
        "INSERT INTO audit (at, who, what, grp, detail) VALUES (?, ?, ?, ?, ?)",
        time.time(), who, what, group, detail[:1000],
    )  # fmt: skip


def merge(session: Session, source: int, target: int, who: str) -> None:
    """All signatures and crashes of `source` become `target`'s; `source` stays readable, with what was decided."""
    one, other = found(session, source), found(session, target)
    if source == target or "merged" in (one["status"], other["status"]):
        raise UsageError("a group can be merged into another one that is not merged itself")
    moved = [row["signature"] for row in session.all("SELECT signature FROM signatures WHERE grp = ?", source)]
    session.execute("UPDATE signatures SET grp = ?, by_person = ? WHERE grp = ?", target, who, source)
    session.execute("UPDATE crashes SET grp = ? WHERE grp = ?", target, source)
    session.execute("UPDATE groups SET status = 'merged', merged_into = ? WHERE id = ?", target, source)
    for field in ("owner", "link", "fixed_in", "collect"):
        if one[field] and not other[field]:
            session.execute(f"UPDATE groups SET {field} = ? WHERE id = ?", one[field], target)
            note(session, who, field, target, f"{one[field]}, from group {source}")
    recount(session, [source, target])
    note(session, who, "merge", target, f"group {source} ({one['title']}) with {', '.join(moved)}")
    note(session, who, "merge", source, f"into group {target} ({other['title']})")


def split(session: Session, group: int, signatures: Sequence[str], who: str) -> int:
    """Move some signatures of a group into a new one; its number."""
    row = found(session, group)
    own = {each["signature"] for each in session.all("SELECT signature FROM signatures WHERE grp = ?", group)}
    if not signatures or not set(signatures) < own:
        raise UsageError("some of the group's signatures are split off, but not all")
    sample = (
        session.one(
            f"SELECT * FROM crashes WHERE grp = ? AND signature IN {among(signatures)} ORDER BY id LIMIT 1",
            group,
            *signatures,
        )
        or row
    )
    made = session.insert(
        "INSERT INTO groups (origin, title, kind, guilty, module, frames, coarse, first_seen, last_seen, first_kernel,"
        " owner)",
        [(
            f"split:{group}:{time.time_ns()}", sample["title"] or row["title"], sample["kind"], sample["guilty"],
            sample["module"], sample["frames"], row["coarse"], row["first_seen"], row["last_seen"],
            sample.get("kernel", row["first_kernel"]), row["owner"],
        )],
        "RETURNING id",
    )  # fmt: skip
    new = int(made[0]["id"])
    session.execute(
        f"UPDATE signatures SET grp = ?, by_person = ? WHERE signature IN {among(signatures)}", new, who, *signatures
    )
    session.execute(
        f"UPDATE crashes SET grp = ? WHERE grp = ? AND signature IN {among(signatures)}", new, group, *signatures
    )
    recount(session, [group, new])
    note(session, who, "split", group, f"{', '.join(signatures)} into group {new}")
    note(session, who, "split", new, f"{', '.join(signatures)} out of group {group}")
    return new


def adopt(session: Session, crash: int, group: int, who: str) -> None:
    """Put one crash that has no signature into a group."""
    row = session.one("SELECT id, grp, signature, received, kernel, state FROM crashes WHERE id = ?", crash)
    if row is None or row["signature"]:
        raise UsageError("only a crash without a signature is put into a group by itself")
    found(session, group)
    session.execute("UPDATE crashes SET grp = ? WHERE id = ?", group, crash)
    if row["grp"] is None and row["state"] == COUNTED:
        day = int(row["received"]) // 86400
        for table, span, at in (("days", "day", day), ("months", "month", day // MONTH)):
            session.execute(
                f"UPDATE {table} SET crashes = crashes - 1 WHERE grp = 0 AND {span} = ? AND kernel = ?",
                at,
                row["kernel"],
            )
    recount(session, [group, *([row["grp"]] if row["grp"] else [])])
    note(session, who, "adopt", group, f"crash {crash}")


def recount(session: Session, groups: Sequence[int]) -> None:
    """Count groups anew from their crashes; needed only when crashes move."""
    for group in groups:
        hosts = {row["host"] for row in session.all("SELECT host FROM group_hosts WHERE grp = ?", group)}
        for table in ("group_hosts", "days", "months"):
            session.execute(f"DELETE FROM {table} WHERE grp = ?", group)
        session.execute(
            "INSERT INTO group_hosts (grp, host, crashes, last_seen) SELECT grp, host, COUNT(*), MAX(received)"
            " FROM crashes WHERE grp = ? AND state = ? GROUP BY grp, host",
            group, COUNTED,
        )  # fmt: skip
        session.execute(
            "INSERT INTO days (grp, day, kernel, crashes)"
            " SELECT grp, CAST(FLOOR(received / 86400) AS INTEGER), kernel, COUNT(*)"
            " FROM crashes WHERE grp = ? AND state = ? GROUP BY 1, 2, 3",
            group, COUNTED,
        )  # fmt: skip
        session.execute(
            "INSERT INTO months (grp, month, kernel, crashes)"
            f" SELECT grp, day / {MONTH}, kernel, SUM(crashes) FROM days WHERE grp = ? GROUP BY 1, 2, 3",
            group,
        )
        hosts |= {row["host"] for row in session.all("SELECT host FROM group_hosts WHERE grp = ?", group)}
        for host in sorted(hosts):
            session.execute(
                "UPDATE hosts SET groups = (SELECT COUNT(*) FROM group_hosts WHERE host = ?) WHERE host = ?", host, host
            )
        session.execute(
            "UPDATE groups SET crashes = (SELECT COUNT(*) FROM crashes WHERE grp = ? AND state = ?),"
            " hosts = (SELECT COUNT(*) FROM group_hosts WHERE grp = ?),"
            " first_seen = COALESCE((SELECT MIN(received) FROM crashes WHERE grp = ?), first_seen),"
            " last_seen = COALESCE((SELECT MAX(received) FROM crashes WHERE grp = ?), last_seen) WHERE id = ?",
            group, COUNTED, group, group, group, group,
        )  # fmt: skip


def near(session: Session, group: Row, most: int = 8) -> list[Row]:
    """Groups that may be the same fault: their stacks are alike. Each has `similarity`, from 0 to 1."""
    frames = _stack(group)
    rows = session.all(
        "SELECT id, title, kind, frames, crashes, hosts, guilty FROM groups WHERE id <> ?"
        " AND status <> 'merged' AND frames <> ''"
        " AND ((guilty <> '' AND guilty = ?) OR (coarse <> '' AND coarse = ?) OR frames LIKE ? ESCAPE '!')"
        " ORDER BY crashes DESC LIMIT 200",
        group["id"], group["guilty"], group["coarse"], f"%{_escaped(frames[0])}%" if frames else "-",
    )  # fmt: skip
    for row in rows:
        row["similarity"] = similarity(frames, _stack(row))
    close = [row for row in rows if row["similarity"] >= _NEAR]
    return sorted(close, key=lambda row: -float(row["similarity"]))[:most]


def _stack(group: Row) -> list[str]:
    return from_guilty(group["frames"].split("\n"), group["guilty"]) if group["frames"] else []


def _escaped(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")


def similarity(one: Sequence[str], other: Sequence[str]) -> float:
    """How alike two stacks are, from 0 to 1: functions in common in order, the innermost weighing most."""
    if not one or not other:
        return 0.0
    best = [[0.0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i in range(len(one) - 1, -1, -1):
        for j in range(len(other) - 1, -1, -1):
            both = _weight(max(i, j)) + best[i + 1][j + 1] if one[i] == other[j] else 0.0
            best[i][j] = max(both, best[i + 1][j], best[i][j + 1])
    return best[0][0] / sum(_weight(at) for at in range(max(len(one), len(other))))


def _weight(place: int) -> float:
    return 0.8**place


def regroup_all(database: Database, version: str, stop: Callable[[], bool] = lambda: False) -> bool:
    """Read what is stored again, unless that was done for this version; whether anything had to be read.

    Where it is, is kept in the database, so a process that ends is followed by the next one. Two at once do no harm.
    """
    with database.read() as session:
        done, _, at = str(session.value("SELECT value FROM settings WHERE name = ?", _REGROUPED) or "").partition(":")
    if done == version and not at:
        return False
    after = int(at) if done == version else 0
    while not stop():
        after = regroup(database, version, after)
        kept = f"{version}:{after}" if after else version
        database.run(
            lambda session, kept=kept: session.execute(  # type: ignore[misc]
                "INSERT INTO settings (name, value) VALUES (?, ?)"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                _REGROUPED,
                kept,
            )
        )
        if not after:
            break
    return True


def regroup(database: Database, version: str, after: int, who: str = REGROUP) -> int:
    """Read some stored reports again under a new version of the signature; the last crash done, 0 at the end.

    A crash whose signature changes takes its old group along if that group has no signature of the new version yet, or
    if a person has decided anything about it; so a decision is never lost, and groups that the new version tells apart
    separate only where nobody has put them together. Logs are read outside of any transaction.
    """
    with database.read() as session:
        rows = session.all(
            "SELECT c.id, c.signature, b.envelope FROM crashes c JOIN bodies b ON b.crash = c.id"
            " WHERE c.id > ? AND c.signature <> '' AND c.signature NOT LIKE ? ORDER BY c.id LIMIT ?",
            after, f"{version}-%", _REGROUP,
        )  # fmt: skip
    changed = []
    for row in rows:
        facts = signed_again(bytes(row["envelope"]))
        if facts is not None and facts.signature != row["signature"]:
            changed.append((row["id"], row["signature"], facts))
    if changed:
        database.run(lambda session: _move(session, version, changed, who))
    return int(rows[-1]["id"]) if rows else 0


def _move(session: Session, version: str, changed: Sequence[tuple[int, str, evidence.Crash]], who: str) -> None:
    """Crashes get new signatures, and the groups that go with these."""
    touched = set()
    for crash, was, facts in changed:
        row = session.one("SELECT grp FROM crashes WHERE id = ? AND signature = ?", crash, was)
        if row is None:
            continue  # another process was here first
        own = (
            session.one("SELECT grp FROM signatures WHERE signature = ?", facts.signature) if facts.signature else None
        )
        if own is not None:
            target = own["grp"]
        elif not facts.signature:
            target = row["grp"] if _decided(session, row["grp"]) else None
        elif _decided(session, row["grp"]) or not _has_version(session, row["grp"], version):
            target = row["grp"]
            session.execute(
                "INSERT INTO signatures (signature, grp, by_person) VALUES (?, ?, ?)"
                " ON CONFLICT (signature) DO NOTHING",
                facts.signature, target, who,
            )  # fmt: skip
        else:
            target = ingest.group_of(session, facts, time.time())
        session.execute("UPDATE crashes SET signature = ?, grp = ? WHERE id = ?", facts.signature, target, crash)
        touched |= {row["grp"], target} - {None}
    recount(session, sorted(touched))
    note(session, who, REGROUP, None, f"crashes {changed[0][0]} to {changed[-1][0]}: {len(touched)} groups changed")


def signed_again(envelope: bytes) -> evidence.Crash | None:
    """A stored crash's facts with the signature that this version of kdump gives its log; None if there is no log."""
    from kdump.report import json as as_json
    from kdump.report.build import build
    from kdump.report.context import Context
    from kdump.report.logtext import from_text

    known = evidence.opened(envelope)
    if not known["log"]:
        return None
    made = as_json.document(build(Context(None, from_text(known["log"])), "log", short=True))
    return evidence.read(evidence.compose(known["manifest"], json.dumps(made).encode(), ""))


def _decided(session: Session, group: int | None) -> bool:
    """Whether a person has done anything with a group."""
    if group is None:
        return False
    return bool(session.value("SELECT COUNT(*) AS n FROM audit WHERE grp = ? AND who <> ?", group, REGROUP))


def _has_version(session: Session, group: int, version: str) -> bool:
    return bool(
        session.value("SELECT COUNT(*) AS n FROM signatures WHERE grp = ? AND signature LIKE ?", group, f"{version}-%")
    )
