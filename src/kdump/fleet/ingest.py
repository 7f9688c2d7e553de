"""Crashes come in: many at a time in one transaction, each once, each with its group and what is wanted of it.

Requests that arrive while a transaction commits share the next one, so a commit's cost is spread over them. The answer
is given after the commit: what was answered is never lost.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from kdump.fleet import evidence, policy
from kdump.fleet.database import Database, Row, Session, among
from kdump.fleet.evidence import Crash
from kdump.fleet.policy import Policy, Want

_BATCH: Final = 64  # crashes in one transaction
_WAITING: Final = 4096  # crashes in memory; more are asked to come again
_LINGER: Final = 0.002  # seconds that a transaction waits for company


@dataclass(frozen=True)
class Answer:
    """The answer to a host. `known` is false for the first crash of a group."""

    id: int
    group: int | None
    known: bool
    title: str
    fixed_in: str
    link: str
    want: Want
    again: bool = False  # it had been reported before

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


Wake = Callable[[Session, Sequence[int]], None]


def store(session: Session, crashes: Sequence[tuple[Crash, bytes]], now: float, wake: Wake | None) -> list[Answer]:
    """Put crashes (with their packed envelopes) into the database; safe to repeat. Answers are in the same order."""
    rules = policy.load(session)
    groups = _groups(session, [crash for crash, _ in crashes], now)
    wanted_hosts = _wanted_hosts(session, {crash.host for crash, _ in crashes})
    asked = _asked(session, [(groups[c.signature]["id"], c.build) for c, _ in crashes if c.signature])
    before = dict(asked)
    rows, answers = [], {}
    for crash, _ in crashes:
        if (crash.host, crash.name) in answers:
            continue
        want = _decide(rules, crash, groups.get(crash.signature), asked, now, host_wanted=crash.host in wanted_hosts)
        answers[crash.host, crash.name] = _answer(0, groups.get(crash.signature), want)
        rows.append(_row(crash, groups.get(crash.signature), now, want))
    made = session.insert(_INSERT, rows, "ON CONFLICT (host, name) DO NOTHING RETURNING id, host, name")
    ids = {(row["host"], row["name"]): row["id"] for row in made}
    if len(ids) < len(rows):  # some are known: what they were answered stands, and nothing more is asked for
        asked = _recount(before, rows, ids, answers)
        answers |= _known(session, [key for key in answers if key not in ids])
    envelopes = {(crash.host, crash.name): envelope for crash, envelope in crashes}
    if ids:
        session.insert("INSERT INTO bodies (crash, envelope)", [(ids[key], envelopes[key]) for key in ids])
        _remember(session, before, asked)
        if wake:
            wake(session, list(ids.values()))
    given, told = [], set()
    for key in ((crash.host, crash.name) for crash, _ in crashes):
        answer = answers[key]
        given.append(replace(answer, id=ids.get(key, answer.id), again=answer.again or key in told))
        told.add(key)
    return given


_COLUMNS = (
    "host", "name", "received", "crashed", "kernel", "build_id", "signature", "grp", "kind", "title", "guilty",
    "module", "frames", "status", "want", "todo",
)  # fmt: skip
_INSERT = f"INSERT INTO crashes ({', '.join(_COLUMNS)})"


def _row(crash: Crash, group: Row | None, now: float, want: Want) -> tuple[Any, ...]:
    return (
        crash.host, crash.name, now, crash.crashed, crash.kernel, crash.build_id, crash.signature,
        group["id"] if group else None, crash.kind, crash.title, crash.guilty, crash.module, crash.frames, crash.status,
        json.dumps(asdict(want)), crash.todo,
    )  # fmt: skip


def _decide(
    rules: Policy, crash: Crash, group: Row | None, asked: dict[tuple[int, str], int], now: float, *, host_wanted: bool
) -> Want:
    key = (group["id"], crash.build) if group else None
    want = policy.decide(rules, crash.name, group, asked.get(key, 0) if key else 0, now, host_wanted=host_wanted)
    if key and want.dump:
        asked[key] = asked.get(key, 0) + 1
    return want


def _recount(
    before: dict[tuple[int, str], int], rows: list[tuple[Any, ...]], ids: dict[Any, int], answers: dict[Any, Answer]
) -> dict[tuple[int, str], int]:
    """The number of dumps asked for, counting only the crashes in `ids`."""
    asked = dict(before)
    for row in rows:
        answer = answers[row[0], row[1]]
        if (row[0], row[1]) in ids and answer.group is not None and answer.want.dump:
            key = (answer.group, row[5] or row[4])
            asked[key] = asked.get(key, 0) + 1
    return asked


def _answer(number: int, group: Row | None, want: Want, *, again: bool = False) -> Answer:
    if group is None:
        return Answer(number, None, False, "", "", "", want, again)
    known = not group.get("new", False)
    return Answer(number, group["id"], known, group["title"], group["fixed_in"], group["link"], want, again)


def _known(session: Session, keys: list[tuple[str, str]]) -> dict[tuple[str, str], Answer]:
    """Crashes that were reported before."""
    rows = session.all(
        "SELECT c.id AS crash, c.host, c.name, c.want, g.id, g.title, g.fixed_in, g.link FROM crashes c"
        f" LEFT JOIN groups g ON g.id = c.grp WHERE c.name IN {among(keys)}",
        *(name for _, name in keys),
    )
    return {
        (row["host"], row["name"]): _answer(
            row["crash"], row if row["id"] is not None else None, Want(**json.loads(row["want"])), again=True
        )
        for row in rows
    }


def _groups(session: Session, crashes: Sequence[Crash], now: float) -> dict[str, Row]:
    """The group of each signature; groups that are missing are made."""
    wanted = {crash.signature: crash for crash in crashes if crash.signature}
    found = _find_groups(session, list(wanted))
    new = sorted(set(wanted) - set(found))
    if new:
        rows = [_new_group(wanted[signature], now) for signature in new]
        session.insert(_NEW_GROUP, rows, "ON CONFLICT (origin) DO NOTHING")
        session.execute(
            f"INSERT INTO signatures (signature, grp) SELECT origin, id FROM groups WHERE origin IN {among(new)}"
            " ON CONFLICT (signature) DO NOTHING",
            *new,
        )
        for signature, row in _find_groups(session, new).items():
            found[signature] = {**row, "new": True}
    return found


_NEW_GROUP = (
    "INSERT INTO groups (origin, title, kind, guilty, module, frames, coarse, first_seen, last_seen, first_kernel)"
)


def _new_group(crash: Crash, now: float) -> tuple[Any, ...]:
    title = crash.title or crash.kind or crash.signature
    return (
        crash.signature, title, crash.kind, crash.guilty, crash.module, crash.frames, crash.coarse, now, now,
        crash.kernel,
    )  # fmt: skip


def group_of(session: Session, crash: Crash, now: float) -> int:
    """The group of a crash with a signature; it is made if it is missing."""
    return int(_groups(session, [crash], now)[crash.signature]["id"])


def _find_groups(session: Session, signatures: list[str]) -> dict[str, Row]:
    if not signatures:
        return {}
    rows = session.all(
        "SELECT s.signature, g.id, g.title, g.status, g.fixed_in, g.link, g.collect, g.first_seen FROM signatures s"
        f" JOIN groups g ON g.id = s.grp WHERE s.signature IN {among(signatures)}",
        *signatures,
    )
    return {row["signature"]: row for row in rows}


def _wanted_hosts(session: Session, hosts: set[str]) -> set[str]:
    some = sorted(hosts)
    rows = session.all(f"SELECT host FROM hosts WHERE want_dump = 1 AND host IN {among(some)}", *some)
    return {row["host"] for row in rows}


def _asked(session: Session, keys: list[tuple[int, str]]) -> dict[tuple[int, str], int]:
    if not keys:
        return {}
    groups = sorted({group for group, _ in keys})
    rows = session.all(f"SELECT grp, build, asked FROM asks WHERE grp IN {among(groups)}", *groups)
    return {(row["grp"], row["build"]): row["asked"] for row in rows}


def _remember(session: Session, before: dict[tuple[int, str], int], after: dict[tuple[int, str], int]) -> None:
    more = sorted((*key, count - before.get(key, 0)) for key, count in after.items() if count != before.get(key, 0))
    if more:
        session.insert(
            "INSERT INTO asks (grp, build, asked)",
            more,
            "ON CONFLICT (grp, build) DO UPDATE SET asked = asks.asked + excluded.asked",
        )


class Busy(evidence.RefusedError):
    """Too many crashes are waiting for the database."""

    def __init__(self) -> None:
        super().__init__(503, "the collector is busy", remedy="try again")


class Writer:
    """Gathers crashes from many requests into transactions. Belongs to one event loop."""

    def __init__(
        self, database: Database, wake: Wake | None = None, committed: Callable[[], None] | None = None
    ) -> None:
        """`wake` runs inside the transaction, `committed` after it."""
        self._database = database
        self._wake = wake
        self._committed = committed
        self._waiting: list[tuple[Crash, bytes, asyncio.Future[Answer]]] = []
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ingest")
        self._task: asyncio.Task[None] | None = None
        self.accepted = 0

    async def add(self, crash: Crash, envelope: bytes) -> Answer:
        """Store one crash; returns when it is durable. Raises `Busy`, or what the database raised."""
        if len(self._waiting) >= _WAITING:
            raise Busy
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((crash, envelope, future))
        self._arrived.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            if len(self._waiting) < _BATCH // 4:
                await asyncio.sleep(_LINGER)
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            if not self._waiting:
                self._arrived.clear()
            try:
                answers = await loop.run_in_executor(self._thread, self._store, [(c, body) for c, body, _ in batch])
            except Exception as error:  # noqa: BLE001 -- each request is told
                await self._one_by_one(batch, error)
                continue
            self._settle(batch, answers)

    async def _one_by_one(self, batch: list[tuple[Crash, bytes, asyncio.Future[Answer]]], error: Exception) -> None:
        """A batch failed: a crash that the database does not take must not take the others with it."""
        loop = asyncio.get_running_loop()
        for crash, body, future in batch:
            try:
                if len(batch) == 1:
                    raise error
                answers = await loop.run_in_executor(self._thread, self._store, [(crash, body)])
            except Exception as own:  # noqa: BLE001
                if not future.done():
                    future.set_exception(own)
            else:
                self._settle([(crash, body, future)], answers)

    def _settle(self, batch: list[tuple[Crash, bytes, asyncio.Future[Answer]]], answers: list[Answer]) -> None:
        self.accepted += sum(not answer.again for answer in answers)
        for (_, _, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
        if self._committed:
            self._committed()

    def _store(self, batch: list[tuple[Crash, bytes]]) -> list[Answer]:
        return self._database.run(lambda session: store(session, batch, time.time(), self._wake))

    async def close(self) -> None:
        """Finish what is waiting."""
        while self._waiting:
            await asyncio.sleep(0.01)
        if self._task:
            self._task.cancel()
        self._thread.shutdown()
