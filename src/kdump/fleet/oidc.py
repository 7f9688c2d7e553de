"""People sign in at an OpenID Connect provider: authorization code with PKCE, ID token checked by joserfc.

`kdump fleet serve --oidc FILE` names a TOML file (mode 0600, for it may hold the client's secret):

    issuer = "https://sso.example.net/realms/ops"
    client_id = "kdump"
    client_secret = "…"             # empty: a public client
    scopes = ["openid", "profile", "email"]
    claim = "groups"                # whose values choose the role
    default_role = "none"           # of people whose groups are not named below
    [roles]
    kernel-team = "engineer"
    kdump-admins = "admin"

What a sign-in needs between its two requests is in a cookie that the collector signed, so any collector can end it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httpx

from kdump.errors import KdumpError, UsageError
from kdump.files.secret import read_secret
from kdump.fleet import evidence
from kdump.fleet.auth import ROLES, Person

COOKIE: Final = "kdump_oidc"
BACK: Final = "/sign-in/oidc/back"
WITHIN: Final = 600  # seconds that a person may take at the provider
_TIMEOUT = 10.0  # seconds for one request to the provider
_KEPT = 600.0  # seconds for which what the provider publishes is believed
_LEEWAY = 60  # seconds that clocks may differ
_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")  # none that a client could forge
_NAMES: Final = ("preferred_username", "email", "sub")  # claims that may name a person, the first that is there
_KEYS: Final = frozenset(("issuer", "client_id", "client_secret", "scopes", "claim", "default_role", "roles"))


@dataclass(frozen=True)
class Settings:
    """The settings in the file."""

    issuer: str
    client_id: str
    client_secret: str = field(default="", repr=False)
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    claim: str = "groups"
    default_role: str = "none"
    roles: tuple[tuple[str, str], ...] = ()

    def role(self, claims: dict[str, Any]) -> str:
        """The highest role that the claims give."""
        said = claims.get(self.claim, ())
        values = {str(each) for each in (said if isinstance(said, list) else [said])}
        given = [self.default_role, *(role for value, role in self.roles if value in values)]
        return max(given, key=ROLES.index)


def load(path: Path) -> Settings:
    """Read the file. Raises `KdumpError`."""
    text = read_secret(path)
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise KdumpError(f"{path} cannot be read", why=str(error)) from None
    if unknown := sorted(raw.keys() - _KEYS):
        raise UsageError(f"{path}: {unknown[0]!r} is not a setting", remedy="settings: " + ", ".join(sorted(_KEYS)))
    roles, scopes = raw.get("roles", {}), raw.get("scopes", ["openid", "profile", "email"])
    texts = [raw.get(name, "") for name in ("issuer", "client_id", "client_secret", "claim", "default_role")]
    if not isinstance(roles, dict) or not isinstance(scopes, list) or not all(isinstance(x, str) for x in texts):
        raise UsageError(f"{path}: a setting has the wrong type", remedy="docs/fleet.md shows the file")
    if not texts[0] or not texts[1]:
        raise UsageError(f"{path}: issuer and client_id are needed")
    default = raw.get("default_role", "none")
    for role in (default, *roles.values()):
        if role not in ROLES:
            raise UsageError(f"{path}: there is no role {role!r}", remedy="roles: " + ", ".join(ROLES))
    _secure(texts[0])
    return Settings(
        texts[0], texts[1], texts[2], tuple(map(str, scopes)), texts[3] or "groups", default, tuple(roles.items())
    )


def _secure(url: str) -> str:
    """A URL of the provider: https, except on this machine. Raises `UsageError`."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")):
        return url
    raise UsageError(f"{url!r} is not an address of an OpenID provider", remedy="https://…")


class Provider:
    """One provider. `here` is the address that people use for the collector."""

    def __init__(self, settings: Settings, here: str) -> None:
        if not here:
            raise UsageError("--oidc needs --page", why="the provider sends people back to that address")
        self.settings = settings
        self._back = here + BACK
        self._published: tuple[float, dict[str, Any], Any] = (0.0, {}, None)
        self._lock = asyncio.Lock()

    async def begin(self) -> tuple[str, dict[str, str]]:
        """Where to send a person, and what to remember until they come back."""
        published, _ = await self._discover()
        kept = {name: secrets.token_urlsafe(32) for name in ("state", "nonce", "verifier")}
        digest = hashlib.sha256(kept["verifier"].encode()).digest()
        asked = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": self._back,
            "scope": " ".join(self.settings.scopes),
            "state": kept["state"],
            "nonce": kept["nonce"],
            "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        where = _secure(str(published["authorization_endpoint"]))
        return where + ("&" if "?" in where else "?") + urlencode(asked), kept

    async def end(self, code: str, kept: dict[str, str]) -> Person:
        """Who came back with a code. Raises `KdumpError`."""
        published, keys = await self._discover()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._back,
            "client_id": self.settings.client_id,
            "code_verifier": kept["verifier"],
        }
        secret = (self.settings.client_id, self.settings.client_secret) if self.settings.client_secret else None
        answer = await self._ask("POST", _secure(str(published["token_endpoint"])), data=form, auth=secret)
        claims = self._claims(str(answer.get("id_token", "")), keys, kept["nonce"])
        if "userinfo_endpoint" in published and self.settings.claim not in claims and answer.get("access_token"):
            headers = {"Authorization": f"Bearer {answer['access_token']}"}
            more = await self._ask("GET", _secure(str(published["userinfo_endpoint"])), headers=headers)
            if more.get("sub") == claims["sub"]:
                claims = {**more, **claims}
        name = next(evidence.clean(str(claims[each]), 64) for each in _NAMES if claims.get(each))
        return Person(name, self.settings.role(claims))

    def _claims(self, token: str, keys: Any, nonce: str) -> dict[str, Any]:
        """The claims of an ID token, after all checks."""
        from joserfc import jwt
        from joserfc.errors import JoseError

        try:
            found = jwt.decode(token, keys, algorithms=_ALGORITHMS)
            jwt.JWTClaimsRegistry(
                leeway=_LEEWAY,
                iss={"essential": True, "value": self.settings.issuer},
                aud={"essential": True, "value": self.settings.client_id},
                nonce={"essential": True, "value": nonce},
                exp={"essential": True},
                sub={"essential": True},
            ).validate(found.claims)
        except (JoseError, ValueError) as error:
            raise KdumpError("the provider's ID token is invalid", why=str(error)[:200]) from None
        return dict(found.claims)

    async def _discover(self) -> tuple[dict[str, Any], Any]:
        """The provider's endpoints and keys."""
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        async with self._lock:
            if time.monotonic() - self._published[0] > _KEPT or not self._published[1]:
                url = self.settings.issuer.rstrip("/") + "/.well-known/openid-configuration"
                found = await self._ask("GET", url)
                if found.get("issuer") != self.settings.issuer:
                    raise KdumpError("the provider says it is another issuer", why=str(found.get("issuer"))[:200])
                if not {"authorization_endpoint", "token_endpoint", "jwks_uri"} <= found.keys():
                    raise KdumpError("the provider does not publish its endpoints")
                try:
                    keys = KeySet.import_key_set(await self._ask("GET", _secure(str(found["jwks_uri"]))))  # type: ignore[arg-type]
                except (JoseError, ValueError, KeyError, TypeError) as error:
                    raise KdumpError("the provider's keys cannot be read", why=str(error)[:200]) from None
                self._published = (time.monotonic(), found, keys)
            return self._published[1], self._published[2]

    async def _ask(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        try:
            async with httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False) as client:
                answer = await client.request(method, url, **options)
            found = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise KdumpError("the OpenID provider does not answer", why=f"{type(error).__name__}: {error}") from None
        if answer.status_code != 200 or not isinstance(found, dict):
            raise KdumpError("the OpenID provider refuses", why=f"status {answer.status_code}")
        return found
