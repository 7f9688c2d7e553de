"""The queue: how workers hear that there is something to do. The one module that knows which engine that is.

A wake-up is put into the queue in the transaction that stores the crash. It may be lost without harm: the crash's row
says what is left to do, and every worker sweeps now and then. Embedded, an event in memory wakes the worker; with
PostgreSQL, PGQueuer does (https://pgqueuer.readthedocs.io).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, Protocol

from kdump.fleet.database import Database, Session

SWEEP: Final = 30.0  # seconds between sweeps that nothing asked for
_NAME: Final = "kdump_crashes"
_AGAIN: Final = 2.0  # seconds before a lost connection is tried again

_log = logging.getLogger("kdump.fleet")


class Queue(Protocol):
    """Wakes workers."""

    def wake(self, session: Session, crashes: Sequence[int]) -> None:
        """Inside the transaction that stores crashes: workers are to hear of it once it commits."""

    def committed(self) -> None:
        """After that transaction, in the event loop."""

    async def run(self, sweep: Callable[[], int]) -> None:
        """Call `sweep` (in a thread) whenever there may be something to do; until cancelled."""


class Memory:
    """For one process."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self, session: Session, crashes: Sequence[int]) -> None:
        """Nothing to store."""

    def committed(self) -> None:
        """Wake the worker."""
        self._event.set()

    async def run(self, sweep: Callable[[], int]) -> None:
        """Sweep on every wake-up, and every SWEEP seconds."""
        while True:
            await _safely(sweep)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._event.wait(), SWEEP)
            self._event.clear()
            await asyncio.sleep(0.05)  # crashes that come together are counted together


class Postgres:
    """PGQueuer's tables in the same database."""

    def __init__(self, url: str) -> None:
        self._url = url

    def wake(self, session: Session, crashes: Sequence[int]) -> None:
        """One job for the batch: it exists if and only if the crashes do."""
        from pgqueuer.db import SyncPsycopgDriver
        from pgqueuer.queries import SyncQueries

        SyncQueries(SyncPsycopgDriver(session.connection)).enqueue(_NAME, f"{crashes[0]}-{crashes[-1]}".encode())

    def committed(self) -> None:
        """PostgreSQL notifies."""

    async def run(self, sweep: Callable[[], int]) -> None:
        """Take jobs, and sweep every SWEEP seconds whatever the queue says."""
        await asyncio.gather(self._sweeps(sweep), self._jobs(sweep))

    async def _sweeps(self, sweep: Callable[[], int]) -> None:
        while True:
            await _safely(sweep)
            await asyncio.sleep(SWEEP)

    async def _jobs(self, sweep: Callable[[], int]) -> None:
        while True:
            try:
                await self._listen(sweep)
            except Exception as error:  # noqa: BLE001 -- the sweep goes on; the connection is made anew
                _log.warning("the queue: %s", error)
            await asyncio.sleep(_AGAIN)

    async def _listen(self, sweep: Callable[[], int]) -> None:
        import psycopg
        from pgqueuer import PgQueuer

        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True, connect_timeout=5) as connection:
            queue = PgQueuer.from_psycopg_connection(connection)

            @queue.entrypoint(_NAME, concurrency_limit=1)
            async def crashes(_job: Any) -> None:
                await _safely(sweep)

            await queue.run(dequeue_timeout=timedelta(seconds=5), batch_size=20, shutdown_on_listener_failure=True)


async def _safely(sweep: Callable[[], int]) -> None:
    try:
        await asyncio.to_thread(sweep)
    except Exception:  # noqa: BLE001 -- one sweep that fails is not the last one
        _log.exception("a sweep failed; the next one tries again")


def install(database: Database) -> None:
    """PGQueuer's tables, if they are missing. Nothing for SQLite."""
    if not database.postgres:
        return
    from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment

    def work(session: Session) -> None:
        session.execute("SELECT pg_advisory_xact_lock(?)", 0x6B64756D71)
        if session.value("SELECT to_regclass('pgqueuer') IS NOT NULL AS there"):
            return
        session.connection.execute(QueryBuilderEnvironment().build_install_query())

    database.run(work)


def opened(database: Database) -> Queue:
    """The queue that goes with a database."""
    return Postgres(database.url) if database.postgres else Memory()
