"""The tables, as migrations that only go forward: each is applied once, in order, when a process starts.

Times are seconds since 1970 (UTC). `host_days` only tells whether a host was counted today; `kernel_days` keeps the
counts. `days` counts crashes without a signature under group 0; `months` has its sums of 30 days each.
`crashes.state`: RECEIVED until a worker has counted it. `crashes.todo` says what a worker still has to read ("log",
"dump"); `lease` is until when somebody does. Text that people or hosts wrote has been cut to a bound before.
"""

from __future__ import annotations

from typing import Final

from kdump.fleet.database import Database, Session

RECEIVED, COUNTED = 0, 1
MONTH: Final = 30  # days that a row of `months` covers


def counts(since: int) -> str:
    """The FROM clause for crashes since a day: (grp, kernel, crashes), of few rows however long ago the day is."""
    full = -(-since // MONTH)  # the first month that is all inside
    return (
        f"(SELECT grp, kernel, crashes FROM months WHERE month >= {full}"
        f" UNION ALL SELECT grp, kernel, crashes FROM days WHERE day >= {since} AND day < {full * MONTH})"
    )


MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE groups (
        id {serial}, origin TEXT NOT NULL UNIQUE, title TEXT NOT NULL, kind TEXT NOT NULL, guilty TEXT NOT NULL,
        module TEXT NOT NULL, frames TEXT NOT NULL, coarse TEXT NOT NULL, first_seen {real} NOT NULL,
        last_seen {real} NOT NULL, crashes BIGINT NOT NULL DEFAULT 0, hosts BIGINT NOT NULL DEFAULT 0,
        status TEXT NOT NULL DEFAULT 'open', owner TEXT NOT NULL DEFAULT '', link TEXT NOT NULL DEFAULT '',
        fixed_in TEXT NOT NULL DEFAULT '', collect TEXT NOT NULL DEFAULT '', merged_into BIGINT,
        known TEXT NOT NULL DEFAULT '', first_kernel TEXT NOT NULL DEFAULT ''
    );
    CREATE INDEX groups_last ON groups (last_seen);
    CREATE INDEX groups_count ON groups (crashes);
    CREATE INDEX groups_coarse ON groups (coarse);
    CREATE TABLE signatures (
        signature TEXT PRIMARY KEY, grp BIGINT NOT NULL, by_person TEXT NOT NULL DEFAULT ''
    );
    CREATE INDEX signatures_group ON signatures (grp);
    CREATE TABLE crashes (
        id {serial}, host TEXT NOT NULL, name TEXT NOT NULL, received {real} NOT NULL, crashed {real} NOT NULL,
        kernel TEXT NOT NULL, build_id TEXT NOT NULL, signature TEXT NOT NULL, grp BIGINT, kind TEXT NOT NULL,
        title TEXT NOT NULL, guilty TEXT NOT NULL, module TEXT NOT NULL, frames TEXT NOT NULL, status TEXT NOT NULL,
        state SMALLINT NOT NULL DEFAULT 0, want TEXT NOT NULL DEFAULT '', todo TEXT NOT NULL DEFAULT '',
        lease {real} NOT NULL DEFAULT 0, tries SMALLINT NOT NULL DEFAULT 0, problem TEXT NOT NULL DEFAULT '',
        UNIQUE (host, name)
    );
    CREATE INDEX crashes_group ON crashes (grp, received);
    CREATE INDEX crashes_received ON crashes (received);
    CREATE INDEX crashes_unfinished ON crashes (id) WHERE state = 0 OR todo <> '';
    CREATE TABLE bodies (crash BIGINT PRIMARY KEY, envelope {blob} NOT NULL);
    CREATE TABLE hosts (
        host TEXT PRIMARY KEY, first_seen {real} NOT NULL, last_seen {real} NOT NULL, crashes BIGINT NOT NULL DEFAULT 0,
        kernel TEXT NOT NULL DEFAULT '', hardware TEXT NOT NULL DEFAULT '', ready TEXT NOT NULL DEFAULT '',
        problem TEXT NOT NULL DEFAULT '', want_dump SMALLINT NOT NULL DEFAULT 0, inventory_at {real} NOT NULL DEFAULT 0,
        inventory TEXT NOT NULL DEFAULT '', machine_checks BIGINT NOT NULL DEFAULT 0, groups BIGINT NOT NULL DEFAULT 0
    );
    CREATE INDEX hosts_last ON hosts (last_seen);
    CREATE INDEX hosts_ready ON hosts (ready);
    CREATE INDEX hosts_crashes ON hosts (crashes);
    CREATE INDEX hosts_suspect ON hosts (machine_checks, groups, crashes);
    CREATE TABLE host_days (host TEXT NOT NULL, day INTEGER NOT NULL, kernel TEXT NOT NULL, PRIMARY KEY (day, host));
    CREATE TABLE kernel_days (
        day INTEGER NOT NULL, kernel TEXT NOT NULL, hosts BIGINT NOT NULL, PRIMARY KEY (day, kernel)
    );
    CREATE TABLE factors (
        grp BIGINT NOT NULL, fact TEXT NOT NULL, crashed BIGINT NOT NULL, crashed_of BIGINT NOT NULL,
        healthy BIGINT NOT NULL, healthy_of BIGINT NOT NULL, odds {real} NOT NULL, low {real} NOT NULL,
        high {real} NOT NULL, q {real} NOT NULL, PRIMARY KEY (grp, fact)
    );
    CREATE TABLE group_hosts (
        grp BIGINT NOT NULL, host TEXT NOT NULL, crashes BIGINT NOT NULL, last_seen {real} NOT NULL,
        PRIMARY KEY (grp, host)
    );
    CREATE INDEX group_hosts_host ON group_hosts (host);
    CREATE INDEX group_hosts_most ON group_hosts (grp, crashes);
    CREATE TABLE days (
        grp BIGINT NOT NULL, day INTEGER NOT NULL, kernel TEXT NOT NULL, crashes BIGINT NOT NULL,
        PRIMARY KEY (grp, day, kernel)
    );
    CREATE INDEX days_day ON days (day, grp, kernel, crashes);
    CREATE TABLE months (
        grp BIGINT NOT NULL, month INTEGER NOT NULL, kernel TEXT NOT NULL, crashes BIGINT NOT NULL,
        PRIMARY KEY (grp, month, kernel)
    );
    CREATE INDEX months_month ON months (month, grp, kernel, crashes);
    CREATE TABLE asks (grp BIGINT NOT NULL, build TEXT NOT NULL, asked BIGINT NOT NULL, PRIMARY KEY (grp, build));
    CREATE TABLE files (
        crash BIGINT NOT NULL, name TEXT NOT NULL, size BIGINT NOT NULL, sha256 TEXT NOT NULL, place TEXT NOT NULL,
        arrived {real} NOT NULL, PRIMARY KEY (crash, name)
    );
    CREATE TABLE uploads (
        crash BIGINT NOT NULL, name TEXT NOT NULL, upload TEXT NOT NULL, begun {real} NOT NULL,
        PRIMARY KEY (crash, name)
    );
    CREATE TABLE audit (
        id {serial}, at {real} NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL, grp BIGINT, detail TEXT NOT NULL
    );
    CREATE INDEX audit_group ON audit (grp);
    CREATE TABLE outbox (
        id {serial}, once TEXT NOT NULL UNIQUE, made {real} NOT NULL, kind TEXT NOT NULL, channel TEXT NOT NULL,
        payload TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'due', tries SMALLINT NOT NULL DEFAULT 0,
        due {real} NOT NULL DEFAULT 0, sent {real} NOT NULL DEFAULT 0, problem TEXT NOT NULL DEFAULT ''
    );
    CREATE INDEX outbox_due ON outbox (due) WHERE state = 'due';
    CREATE TABLE people (name TEXT PRIMARY KEY, password TEXT NOT NULL, role TEXT NOT NULL);
    CREATE TABLE revoked (token TEXT PRIMARY KEY, at {real} NOT NULL);
    CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)
    """,
    "{packed_envelopes}",
)
_SQLITE = {
    "serial": "INTEGER PRIMARY KEY AUTOINCREMENT", "real": "REAL", "blob": "BLOB",
    "packed_envelopes": "SELECT 1",
}  # fmt: skip
_POSTGRES = {
    "serial": "BIGSERIAL PRIMARY KEY", "real": "DOUBLE PRECISION", "blob": "BYTEA",
    # Envelopes are packed with zstd already; by default PostgreSQL tries to pack them once more.
    "packed_envelopes": "ALTER TABLE bodies ALTER COLUMN envelope SET STORAGE EXTERNAL",
}  # fmt: skip
_LOCK = 0x6B64756D70  # "kdump": an advisory lock of PostgreSQL


def migrate(database: Database) -> int:
    """Bring the tables up to date; the number of migrations applied. Several processes may start at once."""

    def work(session: Session) -> int:
        if session.postgres:
            session.execute("SELECT pg_advisory_xact_lock(?)", _LOCK)
        session.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY)")
        done = int(session.value("SELECT COALESCE(MAX(number), 0) AS number FROM migrations"))
        for number, text in enumerate(MIGRATIONS[done:], done + 1):
            for statement in text.format(**(_POSTGRES if session.postgres else _SQLITE)).split(";"):
                session.execute(statement)
            session.execute("INSERT INTO migrations (number) VALUES (?)", number)
        return len(MIGRATIONS) - done

    return database.run(work)
