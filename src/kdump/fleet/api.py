"""Requests of hosts, by HTTP: reports, inventories, and the files of crashes. A token may write, and nothing else.

The report's path is the one that must be fast, so it is plain ASGI; docs/fleet.md describes all of it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from kdump.errors import KdumpError
from kdump.fleet import auth, evidence, inventory, uploads
from kdump.fleet.evidence import RefusedError
from kdump.fleet.ingest import Writer
from kdump.fleet.objects import CHUNK
from kdump.fleet.service import Service
from kdump.fleet.watch import Watch, take_events

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

CERTIFICATE: Final = "kdump.certificate"  # the extension of a request's scope: {"hosts": names in the certificate}
_HOSTS: Final = 200_000  # hosts whose rate is remembered
_encode = msgspec.json.Encoder().encode


class Rates:
    """How many reports each host has sent lately: a bucket of `burst` that fills at `rate` a second."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, host: str) -> bool:
        """Whether this host may send one more now."""
        now = time.monotonic()
        left, since = self._left.get(host, (float(self._burst), now))
        left = min(float(self._burst), left + (now - since) * self._rate)
        if len(self._left) > _HOSTS:
            self._left.clear()
        self._left[host] = (left - 1 if left >= 1 else left, now)
        return left >= 1


class Api:
    """The ASGI application below /v1/."""

    def __init__(self, service: Service, writer: Writer, watches: Sequence[Watch] = ()) -> None:
        self._service = service
        self._watches = watches
        self._writer = writer
        self._rates = Rates(service.options.host_rate, service.options.host_burst)
        self._revocations = auth.Revocations(service.database)
        self.refused: dict[int, int] = {}
        self._upload = "parts" if service.objects.direct else "pieces"  # how files arrive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            status, answer, headers = await self._route(scope, receive)
        except RefusedError as error:
            status, headers = error.status, []
            answer = {"error": error.what, "why": error.why, "remedy": error.remedy}
        except KdumpError as error:
            status, headers, answer = 502, [], {"error": error.what, "why": error.why, "remedy": error.remedy}
        except Exception as error:
            import logging

            logging.getLogger("kdump.fleet").exception("%s %s", scope["method"], scope["path"])
            status, headers, answer = 503, [], {"error": "the collector failed", "why": type(error).__name__}
        if status >= 400:
            self.refused[status] = self.refused.get(status, 0) + 1
        await _answer(send, status, answer, headers, empty=scope["method"] == "HEAD")

    async def _route(self, scope: Scope, receive: Receive) -> tuple[int, Any, list[tuple[bytes, bytes]]]:
        headers = dict(scope["headers"])
        method, path = scope["method"], scope["path"].rstrip("/").split("/")[2:]
        host = await self._host(scope, headers)
        match method, path:
            case "GET", ["check"]:
                return 200, {"host": host, "upload": self._upload}, []
            case "POST", ["crashes"]:
                return await self._crash(host, headers, receive)
            case "POST", ["events", "s3"]:
                if host != auth.ANY:
                    raise RefusedError(403, "a bucket's events come with a token for any host")
                event = _json(await _body(receive, headers, 1 << 20))
                return 200, {"new": await asyncio.to_thread(take_events, self._watches, event)}, []
            case "POST", ["inventory"]:
                return await self._inventory(host, headers, receive)
            case (("PUT" | "HEAD" | "POST" | "DELETE"), ["crashes", crash, "files", name, *rest]) if len(rest) < 2:
                return await self._file(host, scope, receive, crash, name, rest)
            case "PUT", ["crashes", crash, "manifest"]:
                body = await _body(receive, headers, evidence.PACKED)
                text = evidence.unpack(body, _coding(headers))
                await asyncio.to_thread(uploads.manifest, self._service, _own(host, headers), crash, text)
                return 200, {"stored": True}, []
        if path and path[0] in ("crashes", "inventory", "events"):
            raise RefusedError(405, "the method is not allowed here")
        raise RefusedError(404, "there is no such resource")

    async def _host(self, scope: Scope, headers: dict[bytes, bytes]) -> str:
        """The host that a request may write for, by its token or its certificate. Raises `RefusedError`."""
        given = headers.get(b"authorization", b"").decode("latin-1")
        if self._service.options.certificates:
            certified: tuple[str, ...] = scope.get("extensions", {}).get(CERTIFICATE, {}).get("hosts", ())
            if not certified:
                raise RefusedError(
                    401, "a host's certificate is needed", remedy="one that the CA of --client-ca signed"
                )
            named = headers.get(b"kdump-host", b"").decode("latin-1") or certified[0]
            if named not in certified:
                raise RefusedError(403, "this certificate is another host's")
            if given and await self._tokens_host(given) not in (auth.ANY, named):
                raise RefusedError(403, "this token is another host's")
            return named
        return await self._tokens_host(given)

    async def _tokens_host(self, given: str) -> str:
        """The host that a token is for. Raises `RefusedError`."""
        token = given[7:].strip() if given[:7].lower() == "bearer " else ""
        host = self._service.keys.host_of(token)
        if host is None or await self._revocations.holds(token):
            raise RefusedError(401, "a host's token is needed", remedy="`kdump fleet token HOST` makes one")
        return host

    async def _crash(
        self, host: str, headers: dict[bytes, bytes], receive: Receive
    ) -> tuple[int, Any, list[tuple[bytes, bytes]]]:
        coding = _coding(headers)
        body = await _body(receive, headers, evidence.PACKED)
        text = evidence.unpack(body, coding)
        crash = evidence.read(text)
        if host not in (auth.ANY, crash.host):
            raise RefusedError(403, "this token is another host's")
        if not self._rates.take(crash.host):
            raise RefusedError(429, "this host reports too often")
        answer = await self._writer.add(crash, body if coding == "zstd" else evidence.pack(text))
        return (200 if answer.again else 201), answer.to_dict() | {"upload": self._upload}, []

    async def _inventory(
        self, host: str, headers: dict[bytes, bytes], receive: Receive
    ) -> tuple[int, Any, list[tuple[bytes, bytes]]]:
        text = evidence.unpack(await _body(receive, headers, 1 << 20), _coding(headers))
        facts = inventory.read(text)
        if host not in (auth.ANY, facts.host):
            raise RefusedError(403, "this token is another host's")
        if not self._rates.take(facts.host):
            raise RefusedError(429, "this host reports too often")
        now = time.time()
        await asyncio.to_thread(self._service.database.run, lambda session: inventory.store(session, facts, now))
        return 200, {"stored": True}, []

    async def _file(
        self, host: str, scope: Scope, receive: Receive, crash: str, name: str, rest: list[str]
    ) -> tuple[int, Any, list[tuple[bytes, bytes]]]:
        headers = dict(scope["headers"])
        own = _own(host, headers)
        match scope["method"], rest:
            case "PUT", []:
                offset = _offset(scope)
                data = await _body(receive, headers, CHUNK)
                if not self._service.objects.direct:
                    await asyncio.to_thread(uploads.piece, self._service, own, crash, name, offset, data)
                    return 200, {"offset": offset, "size": len(data)}, []
                raise RefusedError(409, "this collector wants parts in its bucket", remedy="POST …/parts")
            case "HEAD", []:
                spans = await asyncio.to_thread(uploads.arrived, self._service, own, crash, name)
                first = spans[0][1] if spans and spans[0][0] == 0 else 0
                text = ",".join(f"{begin}-{end}" for begin, end in spans)
                return 200, None, [(b"upload-offset", str(first).encode()), (b"upload-spans", text.encode())]
            case "POST", ["parts"]:
                asked = _json(await _body(receive, headers, 1 << 16))
                return 200, await asyncio.to_thread(uploads.parts, self._service, own, crash, name, asked), []
            case "POST", ["complete"]:
                asked = _json(await _body(receive, headers, 4 << 20))
                done = await asyncio.to_thread(uploads.complete, self._service, own, crash, name, asked)
                return 200, done, []
            case "DELETE", []:
                await asyncio.to_thread(uploads.abandon, self._service, own, crash, name)
                return 200, {"abandoned": True}, []
        raise RefusedError(405, "the method is not allowed here")


def _own(host: str, headers: dict[bytes, bytes]) -> str:
    """The host that a request is about: the token's, or the one that a token for all names in a header."""
    named = headers.get(b"kdump-host", b"").decode("latin-1")
    if host == auth.ANY:
        if not named:
            raise RefusedError(400, "which host?", remedy="send its name in Kdump-Host")
        return named
    if named and named != host:
        raise RefusedError(403, "this token is another host's")
    return host


def _coding(headers: dict[bytes, bytes]) -> str:
    return headers.get(b"content-encoding", b"").decode("latin-1").lower()


def _offset(scope: Scope) -> int:
    from urllib.parse import parse_qs

    text = parse_qs(scope["query_string"].decode("latin-1")).get("offset", ["0"])[-1]
    if not (text.isascii() and text.isdigit()) or len(text) > 15:
        raise RefusedError(400, "offset is not a number of bytes")
    return int(text)


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "the request is not JSON", why=str(error)[:200]) from None
    if not isinstance(found, dict):
        raise RefusedError(400, "the request is not a JSON object")
    return found


async def _body(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
    """A request's body. Raises `RefusedError` as soon as it is too long."""
    said = headers.get(b"content-length", b"0")
    if said.isdigit() and int(said) > limit:
        raise RefusedError(413, f"a body of more than {limit >> 10} KiB")
    first = await receive()
    body: bytes = first.get("body", b"")
    if first.get("more_body"):
        pieces, size = [body], len(body)
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(400, "the connection broke off")
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > limit:
                raise RefusedError(413, f"a body of more than {limit >> 10} KiB")
            if not message.get("more_body"):
                break
        body = b"".join(pieces)
    return body


async def _answer(
    send: Send, status: int, answer: Any, headers: list[tuple[bytes, bytes]], *, empty: bool = False
) -> None:
    body = b"" if empty else _encode(answer)
    more = [(b"retry-after", b"2")] if status in (429, 503) else []
    more += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
                (b"cache-control", b"no-store"), *more, *headers,
            ],
        }
    )  # fmt: skip
    await send({"type": "http.response.body", "body": body})
