"""How often hosts crash, and what those that do have in common: rates with intervals, odds ratios, suspects.

Rates come from counts kept by day. Factors are computed by DuckDB over all inventories at once and stored, since that
takes seconds and a page must not.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kdump.fleet.database import Database, Row, Session
from kdump.fleet.schema import counts
from kdump.report.versions import version

_Z: Final = 1.96  # 95 %
_LEAST: Final = 3  # hosts of a group that must share a fact
_Q: Final = 0.05  # share of false discoveries
_MOST: Final = 20  # factors kept of a group


@dataclass(frozen=True)
class Rate:
    """Crashes per 1,000 host-days, with a 95 % interval; None where no host-day is known."""

    kernel: str
    crashes: int
    host_days: int
    rate: float | None
    low: float | None
    high: float | None


def rate(kernel: str, crashes: int, host_days: int) -> Rate:
    """A rate and its interval: Poisson by Byar's approximation (Breslow and Day, vol. II, 1987)."""
    if host_days <= 0:
        return Rate(kernel, crashes, 0, None, None, None)
    low, high = interval(crashes)
    per = 1000 / host_days
    return Rate(kernel, crashes, host_days, crashes * per, low * per, high * per)


def interval(count: int) -> tuple[float, float]:
    """95 % interval of a Poisson count."""
    low = count * (1 - 1 / (9 * count) - _Z / (3 * math.sqrt(count))) ** 3 if count else 0.0
    more = count + 1
    return max(0.0, low), more * (1 - 1 / (9 * more) + _Z / (3 * math.sqrt(more))) ** 3


def by_kernel(session: Session, since: int, group: int | None = None) -> list[Rate]:
    """The rate of each kernel since a day, newest kernel first; of one group, or of all crashes."""
    where, values = ("", []) if group is None else (" AND grp = ?", [group])
    crashes = {
        row["kernel"]: int(row["n"])
        for row in session.all(
            f"SELECT kernel, SUM(crashes) AS n FROM {counts(since)} c WHERE 1 = 1{where} GROUP BY kernel", *values
        )
    }
    ground = {
        row["kernel"]: int(row["n"])
        for row in session.all("SELECT kernel, SUM(hosts) AS n FROM kernel_days WHERE day >= ? GROUP BY kernel", since)
    }
    names = set(crashes) | (set(ground) if group is None else set())
    ordered = sorted(names, key=lambda name: (version(name) or (0, 0, 0, 0), name), reverse=True)
    return [rate(name, crashes.get(name, 0), ground.get(name, 0)) for name in ordered]


def ratio(one: Rate, other: Rate) -> tuple[float, float, float] | None:
    """How many times the rate of `other` that of `one` is, with a 95 % interval; None if it cannot be said."""
    if not one.host_days or not other.host_days or not (one.crashes or other.crashes):
        return None
    a, b = one.crashes + 0.5, other.crashes + 0.5
    middle = (b / other.host_days) / (a / one.host_days)
    spread = math.exp(_Z * math.sqrt(1 / a + 1 / b))
    return middle, middle / spread, middle * spread


def suspects(session: Session, most: int = 50) -> list[Row]:
    """Hosts that are more likely broken than unlucky: machine checks, or crashes of several groups."""
    return session.all(
        "SELECT host, crashes, machine_checks, hardware, kernel, groups FROM hosts"
        " WHERE groups >= 3 OR machine_checks > 0"
        " ORDER BY machine_checks DESC, groups DESC, crashes DESC LIMIT ?",
        most,
    )


def factors(database: Database) -> int:
    """Compute and store the factors of every group; how many were found."""
    with database.read() as session:
        hosts = session.all("SELECT host, crashes, inventory FROM hosts WHERE inventory <> ''")
        pairs = session.all("SELECT grp, host FROM group_hosts")
    found = compute(hosts, pairs)

    def work(session: Session) -> int:
        session.execute("DELETE FROM factors")
        session.insert(
            "INSERT INTO factors (grp, fact, crashed, crashed_of, healthy, healthy_of, odds, low, high, q)", found
        )
        return len(found)

    return database.run(work)


def compute(hosts: Sequence[Row], pairs: Sequence[Row]) -> list[tuple[object, ...]]:
    """Facts that the hosts of a group have more often than hosts that never crashed: rows of the table `factors`."""
    import duckdb
    import numpy as np

    numbers = {row["host"]: at for at, row in enumerate(hosts)}
    names: dict[str, int] = defaultdict(lambda: len(names))
    owner, fact = [], []
    for at, row in enumerate(hosts):
        known = [names[each] for each in json.loads(row["inventory"])]
        fact += known
        owner += [at] * len(known)
    facts = {"host": np.array(owner, np.int32), "fact": np.array(fact, np.int32)}
    healthy = {"host": np.array([at for at, row in enumerate(hosts) if not row["crashes"]], np.int32)}
    known_pairs = [(row["grp"], numbers[row["host"]]) for row in pairs if row["host"] in numbers]
    members = {
        "grp": np.array([pair[0] for pair in known_pairs], np.int64),
        "host": np.array([pair[1] for pair in known_pairs], np.int32),
    }
    if not len(healthy["host"]) or not known_pairs or not fact:
        return []
    connection = duckdb.connect()
    for name, given in (("facts", facts), ("healthy", healthy), ("members", members)):
        connection.register("given", given)
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM given")
        connection.unregister("given")
    rows = connection.execute(
        "WITH base AS (SELECT fact, COUNT(*) AS n FROM facts SEMI JOIN healthy USING (host) GROUP BY fact),"
        " own AS (SELECT grp, fact, COUNT(*) AS n FROM members JOIN facts USING (host) GROUP BY grp, fact),"
        " sizes AS (SELECT grp, COUNT(DISTINCT host) AS n FROM members GROUP BY grp)"
        " SELECT own.grp, own.fact, own.n, sizes.n, COALESCE(base.n, 0) FROM own JOIN sizes USING (grp)"
        " LEFT JOIN base USING (fact)"
    ).fetchall()
    words = list(names)
    by_group: dict[int, list[tuple[object, ...]]] = defaultdict(list)
    for group, number, crashed, size, base in rows:
        by_group[group].append((words[number], crashed, size, base, len(healthy["host"])))
    return [row for group, tests in by_group.items() for row in _significant(group, tests)]


def _significant(group: int, tests: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Benjamini and Hochberg (1995) over all facts of a group; only facts that go with more crashes are kept."""
    judged = []
    for fact, a, size, c, controls in tests:
        odds, low, high, p = odds_ratio(int(a), int(size), int(c), int(controls))  # type: ignore[call-overload]
        judged.append((p, fact, a, size, c, controls, odds, low, high))
    judged.sort(key=lambda each: each[0])
    q = 1.0
    kept: list[tuple[object, ...]] = []
    for place in range(len(judged), 0, -1):
        p, fact, a, size, c, controls, odds, low, high = judged[place - 1]
        q = min(q, p * len(judged) / place)
        if q <= _Q and odds > 1 and int(a) >= _LEAST:  # type: ignore[call-overload]
            kept.append((group, fact, a, size, c, controls, odds, low, high, q))
    kept.sort(key=lambda each: -float(each[7]))  # type: ignore[arg-type]
    return kept[:_MOST]


def odds_ratio(crashed: int, crashed_of: int, healthy: int, healthy_of: int) -> tuple[float, float, float, float]:
    """Odds ratio with its 95 % interval and a two-sided p (Woolf's method, 0.5 added to each cell)."""
    a, b = crashed + 0.5, crashed_of - crashed + 0.5
    c, d = healthy + 0.5, healthy_of - healthy + 0.5
    middle = a * d / (b * c)
    error = math.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
    p = math.erfc(abs(math.log(middle)) / error / math.sqrt(2))
    return middle, middle * math.exp(-_Z * error), middle * math.exp(_Z * error), p
