"""Which dumps are worth sending: the first of each crash and build, what is new, a sample, what somebody asks for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from kdump.fleet.database import Session

NAME: Final = "policy"  # in the table `settings`
LEVELS: Final = range(33)


@dataclass(frozen=True)
class Policy:
    """`first`: dumps of each (signature, kernel build); `sample`: share of the rest, 0 to 1; `level`: which pages.

    `new_for`: seconds for which a group counts as new, so that its crashes are wanted beyond `first`, up to `new_most`.
    """

    first: int = 3
    sample: float = 0.001
    level: int = 31
    new_for: float = 3600.0
    new_most: int = 10


@dataclass(frozen=True)
class Want:
    """The answer to a host: whether the dump is wanted, at which level, and why."""

    dump: bool
    level: int
    why: str
    log: bool = True


def load(session: Session) -> Policy:
    """The policy that an administrator set, or the default."""
    text = session.value("SELECT value FROM settings WHERE name = ?", NAME)
    known = json.loads(text) if text else {}
    return Policy(**{name: value for name, value in known.items() if name in Policy.__dataclass_fields__})


def save(session: Session, policy: Policy) -> None:
    """Keep a policy."""
    session.execute(
        "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        NAME,
        json.dumps(asdict(policy)),
    )


def decide(
    policy: Policy, crash: str, group: dict[str, Any] | None, asked: int, now: float, *, host_wanted: bool = False
) -> Want:
    """The files of a crash that the collector wants. `group` is its row, None without a signature; `asked` dumps of
    it were asked for."""
    level = policy.level
    if host_wanted:
        return Want(True, level, "dumps of this host are asked for")
    if group is None:
        return Want(True, level, "it has no signature")
    if group["collect"]:
        wanted = int(group["collect"]) if str(group["collect"]).isdigit() else level
        return Want(True, wanted, "more is collected of this group")
    if group["status"] == "ignored":
        return Want(False, level, "the group is ignored")
    if asked < policy.first:
        return Want(True, level, f"one of the first {policy.first} on this kernel build")
    if now - group["first_seen"] < policy.new_for and asked < policy.new_most:
        return Want(True, level, "the group is new")
    if _share(crash) < policy.sample:
        return Want(True, level, "chosen at random")
    return Want(False, level, "known")


def _share(crash: str) -> float:
    """A number from 0 to 1 that is the same whenever the same crash is asked about."""
    return int.from_bytes(hashlib.sha256(crash.encode()).digest()[:6]) / (1 << 48)
