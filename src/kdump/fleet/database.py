"""One database, two engines: SQLite in a directory, PostgreSQL at scale. The URL chooses; all SQL is the same.

SQL is written with `?` for parameters and in the dialect that both share (ON CONFLICT, RETURNING). `read` and `write`
give a `Session`; `write` is one transaction, committed when its block ends. `run` repeats a transaction that the engine
gave up (a deadlock, a server that went away), so it must be given functions that may run twice.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from kdump.errors import KdumpError, UsageError

T = TypeVar("T")
Row = dict[str, Any]
_BUSY = 20.0  # seconds that a writer waits for another one
_TRIES = 8
_PAUSE = 0.2  # seconds before the second try; doubled each time
_POOL = 16  # connections to PostgreSQL at most

_TYPES: dict[str, tuple[str, ...]] = {}


class Session:
    """A connection in use. Rows are dicts by column name."""

    def __init__(self, connection: Any, *, postgres: bool) -> None:
        self.connection = connection
        self.postgres = postgres

    def execute(self, sql: str, *values: Any) -> int:
        """Run a statement; the number of rows it touched."""
        return int(self.connection.execute(self._dialect(sql), values).rowcount)

    def all(self, sql: str, *values: Any) -> list[Row]:
        """All rows of a statement."""
        found: list[Row] = self.connection.execute(self._dialect(sql), values).fetchall()
        return found

    def one(self, sql: str, *values: Any) -> Row | None:
        """The first row, or None."""
        rows = self.all(sql, *values)
        return rows[0] if rows else None

    def value(self, sql: str, *values: Any) -> Any:
        """The first column of the first row, or None."""
        row = self.one(sql, *values)
        return next(iter(row.values())) if row else None

    def insert(self, head: str, rows: Sequence[Sequence[Any]], tail: str = "") -> list[Row]:
        """Many rows in one statement: `head` is `INSERT INTO table (columns)`, `tail` follows the rows."""
        if self.postgres:
            return self._insert_arrays(head, rows, tail) if rows else []
        found: list[Row] = []
        for at in range(0, len(rows), 500):
            some = rows[at : at + 500]
            marks = "(" + ",".join("?" * len(some[0])) + ")"
            sql = f"{head} VALUES {','.join([marks] * len(some))} {tail}"
            cursor = self.connection.execute(sql, [value for row in some for value in row])
            if "RETURNING" in tail:
                found += cursor.fetchall()
        return found

    def _insert_arrays(self, head: str, rows: Sequence[Sequence[Any]], tail: str) -> list[Row]:
        """An array for each column: the statement is the same for any number of rows, so the server parses it once."""
        types = self._column_types(head)
        arrays = ", ".join(f"%b::{name}[]" for name in types)
        cursor = self.connection.execute(
            f"{head} SELECT * FROM unnest({arrays}) {tail}", [list(column) for column in zip(*rows, strict=True)]
        )
        found: list[Row] = cursor.fetchall() if "RETURNING" in tail else []
        return found

    def _column_types(self, head: str) -> tuple[str, ...]:
        """The types of the columns that `head` names."""
        if head not in _TYPES:  # the schema is the same for every database of this version
            table, columns = re.fullmatch(r"INSERT INTO (\w+) \(([^)]*)\)", head).groups()  # type: ignore[union-attr]
            names = {
                row["attname"]: row["type"]
                for row in self.all(
                    "SELECT attname, format_type(atttypid, atttypmod) AS type FROM pg_attribute"
                    " WHERE attrelid = CAST(? AS regclass) AND attnum > 0", table,
                )
            }  # fmt: skip
            _TYPES[head] = tuple(names[column.strip()] for column in columns.split(","))
        return _TYPES[head]

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for each row; PostgreSQL gets all of them at once."""
        if rows:
            self.connection.cursor().executemany(self._dialect(sql), rows)

    def _dialect(self, sql: str) -> str:
        return sql.replace("%", "%%").replace("?", "%s") if self.postgres else sql


def failure(error: BaseException) -> str:
    """What an engine, or the pool of its connections, says of its failure; empty if the error is not theirs."""
    ours = isinstance(error, sqlite3.Error) or type(error).__module__.partition(".")[0] in ("psycopg", "psycopg_pool")
    return (str(error) or type(error).__name__) if ours else ""


def among(values: Sequence[Any]) -> str:
    """`(?, ?, …)` for as many values: what follows IN."""
    return "(" + ",".join("?" * len(values)) + ")"


class Database:
    """Opened by URL: `sqlite:///path/of/file` or `postgresql://…`. Safe to use from many threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        scheme = urlsplit(url).scheme
        self.postgres = scheme in ("postgresql", "postgres")
        if not self.postgres and scheme != "sqlite":
            raise UsageError(f"{scheme or url!r} is not a database", remedy="sqlite:///path or postgresql://…")
        self._local = threading.local()
        self._writing = threading.Lock()  # SQLite has one writer at a time: waiting here is fairer than its retries
        self._pool: Any = None
        self._opened: list[sqlite3.Connection] = []
        if self.postgres:
            self._pool = _pool(url)
        else:
            self.path = Path(url.removeprefix("sqlite://"))
            _private(self.path)

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """For looking. SQLite gives one view for the whole block, PostgreSQL one for each statement."""
        if not self.postgres:
            connection = self._sqlite()
            connection.execute("BEGIN")
            try:
                yield Session(connection, postgres=False)
            finally:
                connection.execute("ROLLBACK")
            return
        with self._pool.connection(timeout=_BUSY) as connection:
            yield Session(connection, postgres=True)

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed, durably, when the block ends, rolled back if it raises."""
        if self.postgres:
            with self._pool.connection(timeout=_BUSY) as connection, connection.transaction():
                yield Session(connection, postgres=True)
            return
        connection = self._sqlite()
        with self._writing:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield Session(connection, postgres=False)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def run(self, work: Callable[[Session], T]) -> T:
        """`work` in a transaction, again if the engine gave it up for a reason that passes."""
        pause = _PAUSE
        for tried in range(1, _TRIES + 1):
            try:
                with self.write() as session:
                    return work(session)
            except Exception as error:
                if tried == _TRIES or not self._passes(error):
                    raise
            time.sleep(pause)
            pause = min(5.0, 2 * pause)
        raise AssertionError

    def _passes(self, error: Exception) -> bool:
        if not self.postgres:
            return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
        import psycopg
        from psycopg_pool import PoolTimeout

        # 40: serialization and deadlocks. Without a state the connection is gone, perhaps after the commit.
        state = getattr(error, "sqlstate", None) or ""
        return (
            isinstance(error, PoolTimeout)
            or (isinstance(error, psycopg.OperationalError) and state[:2] in ("", "08", "40", "53", "57"))
            or state.startswith("40")
        )

    def _sqlite(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
            found.row_factory = _as_dict
            for pragma in (
                "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-32000", "mmap_size=67108864",
                "journal_size_limit=67108864", "temp_store=MEMORY",
            ):  # fmt: skip
                found.execute(f"PRAGMA {pragma}")
            self._local.connection = found
            self._opened.append(found)
        return found

    def close(self) -> None:
        """Close every connection."""
        if self._pool:
            self._pool.close()
        for connection in self._opened:
            connection.close()
        self._opened.clear()
        self._local = threading.local()


def _as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> Row:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def _private(path: Path) -> None:
    """The file, for its owner alone, before SQLite makes it for everybody."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise KdumpError(f"the database {path} cannot be opened", why=error.strerror or str(error)) from None


def _pool(url: str) -> Any:
    try:
        from psycopg.rows import dict_row
        from psycopg_pool import ConnectionPool
    except ImportError as error:
        raise KdumpError(
            "PostgreSQL cannot be used", why=f"{error.name} is missing", remedy="pip install 'linux-kdump[fleet]'"
        ) from None
    options = {"row_factory": dict_row, "connect_timeout": 5, "autocommit": True}
    return ConnectionPool(
        url, kwargs=options, min_size=1, max_size=_POOL, open=True, check=ConnectionPool.check_connection
    )
