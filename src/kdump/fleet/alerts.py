"""Alerts: decided in the transaction that counts a crash, put into an outbox, sent from there.

An alert's `once` is unique, so deciding twice gives one alert. A row is marked `sending` before anything leaves.
What failed for certain (no connection, a refusal) is tried again, later each time. Where it is not certain whether it
arrived (no answer, the sender was killed), a receiver that knows duplicates gets it again; any other does not, and the
row says `unsure`: a person decides.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from email.message import EmailMessage
from typing import Any, Final

from kdump.errors import KdumpError, UsageError
from kdump.fleet.database import Database, Row, Session, among
from kdump.report.versions import has_fix

KINDS: Final = ("new", "spike", "regression", "rollout", "unarmed")
SENDMAIL = "/usr/sbin/sendmail"
CHANNELS: Final = ("webhook", "mail", "alertmanager", "github", "jira")
_CHANNELS_SETTING = "channels"
_IDEMPOTENT = ("alertmanager",)
_DAY = 86400
_SPIKE_LEAST, _SPIKE_TIMES = 20, 5.0  # crashes in a day; times the mean of the week before
_NEW_KERNEL_DAYS = 7
_TRIES = 12
_LEASE = 120.0
_TIMEOUT = 15.0


def channels(session: Session) -> list[dict[str, str]]:
    """Where alerts go: dicts with name, kind, url and what the kind needs (token, project, to, only)."""
    text = session.value("SELECT value FROM settings WHERE name = ?", _CHANNELS_SETTING)
    found: list[dict[str, str]] = json.loads(text) if text else []
    return found


def set_channels(session: Session, wanted: list[dict[str, str]]) -> None:
    """Keep the channels. Raises `UsageError` for one that cannot work."""
    for each in wanted:
        if each.get("kind") not in CHANNELS or not re.fullmatch(r"[\w.-]{1,40}", each.get("name", "")):
            raise UsageError("a channel has a name and a kind", remedy="kinds: " + ", ".join(CHANNELS))
        if "sendmail" in each:  # who may use the pages may not run programs here
            raise UsageError(f"the channel {each['name']} names a program", why=f"mail goes through {SENDMAIL}")
        if each["kind"] != "mail" and not each.get("url", "").startswith(("https://", "http://")):
            raise UsageError(f"the channel {each['name']} has no URL")
        if each["kind"] == "mail" and not re.fullmatch(r"[^\s@<>]+@[^\s@<>]+", each.get("to", "")):
            raise UsageError(f"the channel {each['name']} has no address", remedy="to = someone@example.net")
    session.execute(
        "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        _CHANNELS_SETTING,
        json.dumps(wanted),
    )


def look(session: Session, rows: Sequence[Row], now: float) -> list[Row]:
    """Decide on alerts for crashes that have just been counted; the groups that are new."""
    ids = sorted({row["grp"] for row in rows})
    groups = {row["id"]: row for row in session.all(f"SELECT * FROM groups WHERE id IN {among(ids)}", *ids)}
    here = Counter(row["grp"] for row in rows)
    fresh = [group for group in groups.values() if group["crashes"] == here[group["id"]]]
    kernels = _young_kernels(session, {group["first_kernel"] for group in fresh}, now)
    for group in fresh:
        kind = "rollout" if group["first_kernel"] in kernels else "new"
        put(session, kind, f"{kind}:{group['id']}", _about(group, kernel=group["first_kernel"]), now)
    for row in rows:
        group = groups[row["grp"]]
        if group["fixed_in"] and has_fix(row["kernel"], group["fixed_in"]):
            once = f"regression:{group['id']}:{row['kernel']}"
            put(session, "regression", once, _about(group, kernel=row["kernel"], host=row["host"]), now)
    for group in _spikes(session, [groups[each] for each in ids if groups[each]["status"] != "ignored"], now):
        put(session, "spike", f"spike:{group['id']}:{int(now) // _DAY}", _about(group), now)
    return fresh


def put(session: Session, kind: str, once: str, payload: dict[str, Any], now: float) -> None:
    """An alert for every channel that wants its kind; nothing if there is one already."""
    wanted = [each for each in channels(session) if not each.get("only") or kind in each["only"].split(",")]
    rows = [(f"{once}@", now, kind, "", json.dumps(payload), "shown")]  # for the page
    rows += [(f"{once}@{each['name']}", now, kind, each["name"], json.dumps(payload), "due") for each in wanted]
    session.insert(
        "INSERT INTO outbox (once, made, kind, channel, payload, state)", rows, "ON CONFLICT (once) DO NOTHING"
    )


def _about(group: Row, **more: str) -> dict[str, Any]:
    return {"group": group["id"], "title": group["title"], "crashes": group["crashes"], "owner": group["owner"], **more}


def _young_kernels(session: Session, kernels: set[str], now: float) -> set[str]:
    """Those that this fleet has run for less than a week, while it ran others before."""
    if not kernels:
        return set()
    first = session.value("SELECT MIN(day) AS day FROM kernel_days")
    since = int(now) // _DAY - _NEW_KERNEL_DAYS
    if first is None or first >= since:
        return set()
    some = sorted(kernels)
    rows = session.all(
        f"SELECT kernel, MIN(day) AS day FROM kernel_days WHERE kernel IN {among(some)} GROUP BY kernel", *some
    )
    return {row["kernel"] for row in rows if row["day"] >= since}


def _spikes(session: Session, groups: list[Row], now: float) -> list[Row]:
    today = int(now) // _DAY
    ids = [group["id"] for group in groups if group["crashes"] >= _SPIKE_LEAST]
    if not ids:
        return []
    rows = session.all(
        f"SELECT grp, SUM(CASE WHEN day = ? THEN crashes ELSE 0 END) AS today,"
        f" SUM(CASE WHEN day < ? THEN crashes ELSE 0 END) AS before FROM days WHERE day >= ? AND grp IN {among(ids)}"
        " GROUP BY grp",
        today, today, today - 7, *ids,
    )  # fmt: skip
    found = {row["grp"] for row in rows if row["today"] >= max(_SPIKE_LEAST, _SPIKE_TIMES * float(row["before"]) / 7)}
    return [group for group in groups if group["id"] in found]


def deliver(database: Database, page: str = "") -> int:
    """Send what is due; the number of alerts that arrived. `page` is the address of our pages, for links."""
    sent = 0
    while row := database.run(lambda session: _claim(session, time.time())):
        known = {each["name"]: each for each in _read(database)}
        channel = known.get(row["channel"])
        state, problem = "dropped", "there is no such channel any more"
        if channel:
            state, problem = _try(channel, row, page)
        database.run(lambda session, row=row, end=(state, problem): _settle(session, row, *end))  # type: ignore[misc]
        sent += state == "sent"
    return sent


def _read(database: Database) -> list[dict[str, str]]:
    with database.read() as session:
        return channels(session)


def _claim(session: Session, now: float) -> Row | None:
    # Whoever was sending and did not end was killed: whether it arrived is not known.
    session.execute(
        "UPDATE outbox SET state = 'unsure', problem = 'the sender ended while it sent'"
        " WHERE state = 'sending' AND due < ?",
        now,
    )
    row = session.one(
        "SELECT * FROM outbox WHERE state = 'due' AND due <= ? ORDER BY id LIMIT 1"
        + (" FOR UPDATE SKIP LOCKED" if session.postgres else ""),
        now,
    )
    if row:
        session.execute(
            "UPDATE outbox SET state = 'sending', due = ?, tries = tries + 1 WHERE id = ?", now + _LEASE, row["id"]
        )
    return row


def _settle(session: Session, row: Row, state: str, problem: str) -> None:
    now = time.time()
    tries = row["tries"] + 1
    if state == "due" and tries >= _TRIES:
        state = "failed"
    session.execute(
        "UPDATE outbox SET state = ?, problem = ?, due = ?, sent = ? WHERE id = ?",
        state, problem[:300], now + min(3600.0, 5.0 * 2**tries), now if state == "sent" else 0, row["id"],
    )  # fmt: skip


def _try(channel: dict[str, str], row: Row, page: str) -> tuple[str, str]:
    """One attempt: the row's next state, and what went wrong."""
    try:
        if channel["kind"] == "mail":
            _mail(channel, row, page)
        else:
            _post(channel, row, page)
    except _UnsureError as error:
        return ("due" if channel["kind"] in _IDEMPOTENT else "unsure"), str(error)
    except (KdumpError, OSError, ValueError, subprocess.SubprocessError) as error:  # ValueError: a token in no ASCII
        return "due", str(error)
    return "sent", ""


class _UnsureError(Exception):
    """It may have arrived."""


def text_of(row: Row, page: str) -> tuple[str, str]:
    """An alert's subject and text."""
    about = json.loads(row["payload"])
    words = {
        "new": "New crash", "spike": "Crashes of one kind increase", "regression": "Fixed crash is back",
        "rollout": "New crash on a new kernel", "unarmed": "Host cannot be dumped",
    }  # fmt: skip
    subject = f"{words[row['kind']]}: {about.get('title') or about.get('host', '')}"
    lines = [subject, ""] + [f"{name}: {value}" for name, value in about.items() if value not in ("", None)]
    if page and about.get("group"):
        lines.append(f"{page}/groups/{about['group']}")
    return subject, "\n".join(lines)


def _post(channel: dict[str, str], row: Row, page: str) -> None:
    import httpx

    subject, text = text_of(row, page)
    about = json.loads(row["payload"])
    headers = {"Idempotency-Key": row["once"]}
    content: Any = {"kind": row["kind"], "once": row["once"], "text": text, **about}
    match channel["kind"]:
        case "alertmanager":
            labels = {"alertname": f"kdump_{row['kind']}", "group": str(about.get("group", "")), "once": row["once"]}
            labels |= {"host": str(about["host"])} if about.get("host") else {}
            content = [{"labels": labels, "annotations": {"summary": subject, "description": text}}]
        case "github":
            headers |= {"Authorization": f"Bearer {channel.get('token', '')}", "Accept": "application/vnd.github+json"}
            content = {"title": subject, "body": f"{text}\n\n<!-- {row['once']} -->"}
        case "jira":
            headers |= {"Authorization": f"Bearer {channel.get('token', '')}"}
            kind = {"name": channel.get("issue_type", "Bug")}
            fields = {"project": {"key": channel.get("project", "")}, "issuetype": kind}
            content = {"fields": {**fields, "summary": subject[:250], "description": text}}
    try:
        answer = httpx.post(channel["url"], json=content, headers=headers, timeout=_TIMEOUT)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise KdumpError(f"{channel['name']} cannot be reached", why=str(error)) from None
    except httpx.HTTPError as error:
        raise _UnsureError(f"{channel['name']} did not answer: {type(error).__name__}") from None
    if answer.status_code >= 300:
        raise KdumpError(f"{channel['name']} answered {answer.status_code}")


def _mail(channel: dict[str, str], row: Row, page: str) -> None:
    subject, text = text_of(row, page)
    message = EmailMessage()
    message["To"] = channel["to"]
    message["Subject"] = subject[:200]
    message["Message-ID"] = f"<{re.sub(r'[^A-Za-z0-9.-]', '.', row['once'])}@kdump-fleet>"
    message.set_content(text)
    done = subprocess.run(
        [SENDMAIL, "-t", "-oi"], input=message.as_bytes(), capture_output=True, timeout=60, check=False
    )
    if done.returncode:
        raise KdumpError(f"{SENDMAIL} failed", why=done.stderr.decode("utf-8", "replace")[:200])
