"""Who may do what: hosts by token may only write, people by role see rows, reports or dumps.

A host's token is `kf1.HOST.MAC`: HMAC-SHA-256 of the host's name under the collector's secret, so checking one costs no
look-up; `*` as the host is a token for any host (for images that are the same everywhere). Revoked tokens are listed in
the database. People have a local account (scrypt); their session is a signed cookie.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import secrets
import time
from dataclasses import dataclass
from typing import Final

from kdump.errors import KdumpError, UsageError
from kdump.fleet.database import Database, Session

ROLES: Final = ("none", "metadata", "report", "dump", "engineer", "admin")  # each may do what those before it may
SESSION: Final = 12 * 3600  # seconds
COOKIE: Final = "kdump_session"
ANY: Final = "*"
_BELIEVED: Final = 5.0  # seconds for which the list of revoked tokens is believed
_LEAST, _LONGEST = 10, 1024  # characters of a password
_SECRET = "secret"  # noqa: S105 -- the name of a setting
_SCRYPT = {"n": 1 << 14, "r": 8, "p": 1, "maxmem": 64 << 20}


@dataclass(frozen=True)
class Person:
    """Who is signed in."""

    name: str
    role: str

    def may(self, role: str) -> bool:
        """Whether this person may do what `role` may."""
        return ROLES.index(self.role) >= ROLES.index(role)


NOBODY: Final = Person("", "none")


class Keys:
    """Everything that is signed with the collector's secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def token(self, host: str) -> str:
        """A token with which `host` may write (ANY: whatever host)."""
        return f"kf1.{host}.{self._mac('host', host)}"

    def host_of(self, token: str) -> str | None:
        """The host that a token is for, ANY for all; None if the token is not ours."""
        form, _, rest = token.partition(".")
        host, _, mac = rest.rpartition(".")
        good = form == "kf1" and host and hmac.compare_digest(mac.encode(), self._mac("host", host).encode())
        return host if good else None

    def is_ours(self, token: str) -> bool:
        """Whether a host's or a reader's token was made with our secret, however old it is."""
        text, _, mac = token.rpartition(".")
        if not token.isascii() or not text:
            return False
        return self.host_of(token) is not None or hmac.compare_digest(mac, self._mac("person", text))

    def cookie(self, person: Person, now: float, seconds: float = SESSION) -> str:
        """The cookie of a browser, or the token of a program that reads."""
        said = json.dumps([person.name, person.role, int(now + seconds)]).encode()
        text = base64.urlsafe_b64encode(said).decode().rstrip("=")
        return f"{text}.{self._mac('person', text)}"

    def person_of(self, cookie: str, now: float) -> Person:
        """Who a cookie says is there; NOBODY if it is not ours or too old."""
        text, _, mac = cookie.rpartition(".")
        if not text or not hmac.compare_digest(mac.encode(), self._mac("person", text).encode()):
            return NOBODY
        name, role, until = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return Person(name, role) if until > now and role in ROLES else NOBODY

    def sealed(self, purpose: str, values: dict[str, str], until: float) -> str:
        """Values that a browser keeps for us until a time, and cannot change."""
        text = base64.urlsafe_b64encode(json.dumps([values, int(until)]).encode()).decode().rstrip("=")
        return f"{text}.{self._mac(purpose, text)}"

    def unsealed(self, purpose: str, cookie: str, now: float) -> dict[str, str] | None:
        """Values out of `sealed`; None if they are not ours or too old."""
        text, _, mac = cookie.rpartition(".")
        if not text or not hmac.compare_digest(mac.encode(), self._mac(purpose, text).encode()):
            return None
        values, until = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return dict(values) if until > now else None

    def form_key(self, person: Person) -> str:
        """The key in our own forms, which no other site can know."""
        return self._mac("form", person.name)

    def _mac(self, purpose: str, text: str) -> str:
        return hmac.digest(self._secret, f"{purpose}:{text}".encode(), "sha256").hex()[:40]


def keys(database: Database) -> Keys:
    """The keys of a fleet; the secret is made when it is first asked for."""

    def work(session: Session) -> str:
        session.execute(
            "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING",
            _SECRET,
            secrets.token_hex(32),
        )
        return str(session.value("SELECT value FROM settings WHERE name = ?", _SECRET))

    return Keys(bytes.fromhex(database.run(work)))


def revoke(session: Session, token: str) -> None:
    """A token is not good any more."""
    session.execute(
        "INSERT INTO revoked (token, at) VALUES (?, ?) ON CONFLICT (token) DO NOTHING", _short(token), time.time()
    )


def revoked(session: Session) -> set[str]:
    """Digests of tokens that are not good any more; see `is_revoked`."""
    return {row["token"] for row in session.all("SELECT token FROM revoked")}


def is_revoked(token: str, known: set[str]) -> bool:
    """Whether a token is among them."""
    return bool(known) and _short(token) in known


class Revocations:
    """The tokens that were revoked, read again when the list is older than a few seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: set[str] = set()
        self._at = -_BELIEVED

    async def holds(self, token: str) -> bool:
        """Whether a token was revoked."""
        if time.monotonic() - self._at > _BELIEVED:
            self._at = time.monotonic()
            self._known = await asyncio.to_thread(self._read)
        return is_revoked(token, self._known)

    def _read(self) -> set[str]:
        with self._database.read() as session:
            return revoked(session)


def _short(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()[:32]


def set_person(session: Session, name: str, password: str, role: str) -> None:
    """Make or change a local account. Raises `UsageError`."""
    if role not in ROLES:
        raise UsageError(f"there is no role {role!r}", remedy="roles: " + ", ".join(ROLES))
    if not 1 <= len(name) <= 64 or not _LEAST <= len(password) <= _LONGEST:
        raise UsageError(f"a name has 1 to 64 characters, a password {_LEAST} to {_LONGEST}")
    if not name.isprintable() or not password.isprintable():  # nobody could type them into the page
        raise UsageError("a name and a password are one line of UTF-8 text without control characters")
    salt = os.urandom(16)
    stored = f"scrypt${salt.hex()}${_scrypt(password, salt)}"
    session.execute(
        "INSERT INTO people (name, password, role) VALUES (?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET password = excluded.password, role = excluded.role",
        name, stored, role,
    )  # fmt: skip


def sign_in(session: Session, name: str, password: str) -> Person:
    """The person of that name and password. Raises `KdumpError`; a wrong name takes as long as a wrong password."""
    row = session.one("SELECT * FROM people WHERE name = ?", name[:64])
    _, salt, digest = (row["password"] if row else f"scrypt${'00' * 16}$none").split("$")
    good = hmac.compare_digest(_scrypt(password[:_LONGEST], bytes.fromhex(salt)), digest)
    if not row or not good:
        raise KdumpError("name or password is wrong")
    return Person(row["name"], row["role"])


def _scrypt(password: str, salt: bytes) -> str:
    return hashlib.scrypt(password.encode(), salt=salt, dklen=32, **_SCRYPT).hex()
