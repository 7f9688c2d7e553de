"""Daily inventories of healthy hosts: the basis of crash rates and factors."""

from __future__ import annotations

import json
from typing import Final

import msgspec

from kdump.fleet import alerts
from kdump.fleet.database import Session
from kdump.fleet.evidence import RefusedError, clean, is_host

_MOST: Final = 2000  # facts of one host
_LONGEST: Final = 160  # characters of a fact
DAY: Final = 86400


class Inventory(msgspec.Struct):
    """`facts` are "name:value" ("module:xfs", "microcode:0x2b"); `ready` is what `kdump status` says."""

    host: str
    kernel: str = ""
    hardware: str = ""
    ready: bool = False
    problem: str = ""
    facts: list[str] = []


_decode = msgspec.json.Decoder(Inventory).decode


def read(text: bytes) -> Inventory:
    """A host's inventory. Raises `RefusedError`."""
    try:
        found = _decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RefusedError(400, "the inventory cannot be read", why=str(error)[:300]) from None
    if not is_host(found.host):
        raise RefusedError(400, "host is not a host name")
    if len(found.facts) > _MOST:
        raise RefusedError(413, f"more than {_MOST} facts")
    facts = sorted({clean(fact, _LONGEST) for fact in found.facts} - {""})
    return Inventory(
        found.host, clean(found.kernel, 128), clean(found.hardware, 200), found.ready, clean(found.problem, 300), facts
    )


def store(session: Session, found: Inventory, now: float) -> None:
    """Keep it; a day counts once, however often a host reports."""
    day = int(now) // DAY
    session.execute(
        "INSERT INTO hosts (host, first_seen, last_seen, kernel, hardware, ready, problem, inventory_at, inventory)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (host) DO UPDATE SET last_seen = excluded.last_seen,"
        " kernel = excluded.kernel, hardware = excluded.hardware, ready = excluded.ready, problem = excluded.problem,"
        " inventory_at = excluded.inventory_at, inventory = excluded.inventory",
        found.host, now, now, found.kernel, found.hardware, "yes" if found.ready else "no", found.problem, now,
        json.dumps(found.facts),
    )  # fmt: skip
    fresh = session.execute(
        "INSERT INTO host_days (host, day, kernel) VALUES (?, ?, ?) ON CONFLICT (day, host) DO NOTHING",
        found.host, day, found.kernel,
    )  # fmt: skip
    if fresh:
        session.execute(
            "INSERT INTO kernel_days (day, kernel, hosts) VALUES (?, ?, 1)"
            " ON CONFLICT (day, kernel) DO UPDATE SET hosts = kernel_days.hosts + 1",
            day, found.kernel,
        )  # fmt: skip
    if not found.ready:
        about = {"host": found.host, "why": found.problem, "kernel": found.kernel}
        alerts.put(session, "unarmed", f"unarmed:{found.host}:{day // 7}", about, now)
