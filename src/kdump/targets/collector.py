"""collector+https://host: a fleet's collector. The report goes first, and the answer decides whether the dump follows.

It fails open: a collector that does not answer within ANSWER seconds is a target that failed, so the next one gets the
dump. The dump goes to the collector in pieces or, if it keeps its dumps in a bucket, straight there with URLs that it
signed. Facts: `token` (a file, mode 0600), `certificate` (a file, mode 0600, with this machine's certificate and key),
`ca_file`, `addresses`, `host` (this machine's name), `dump` ("asked" or "always"), `least_level` (the lowest dump level
that the collector may ask for). docs/fleet.md describes the requests.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kdump.display import shown
from kdump.errors import FormatError, KdumpError
from kdump.files.secret import read_secret
from kdump.foreign import load_object
from kdump.targets.https import Answer, Server, certificates, exchange
from kdump.targets.names import resolve, system_addresses
from kdump.targets.protocol import Ground, Session, Spec, Stream
from kdump.targets.s3 import PartStream

ALWAYS = "always"
ANSWER = 2.0  # seconds for the collector to answer before the capture goes on without it
_TIMEOUT = 20.0  # seconds without a byte once the dump is wanted
_TRIES = 4
_SAID = 500  # characters of what a collector says in a refusal
_FIRST_PAUSE = 0.5
_LOG = 1 << 20  # bytes of the log's end that go with the report
_SMALL = 16 << 20  # bytes of a file that is kept in memory until it is sealed
_ENVELOPE = {"vmcore-dmesg.txt": "log", "report.json": "report"}
_MADE_THERE = ("report.txt",)  # the collector renders the report itself
_MANIFEST = "manifest.json"
_DUMP = "vmcore"


class CollectorTarget:
    """A collector, by https, or by plain http in a laboratory."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.url = spec.url.removeprefix("collector+").rstrip("/")
        self.server = Server.of(self.url)

    def describe(self) -> str:
        """The collector's URL."""
        return f"collector {self.url}"

    def files(self) -> Mapping[str, Path | bytes]:
        """Certificates, for https."""
        found = self._certificates() if self.server.secure else ""
        return {found: Path(found)} if found else {}

    def check(self) -> Spec:
        """Ask the collector whether it takes this machine's reports."""
        answer, addresses = self._ask("GET", "/v1/check", b"")
        named, own = str(answer.get("host", "")), self.spec.facts.get("host", "")
        if named not in ("*", own):
            raise KdumpError(
                f"the collector's token is for the host {named!r}",
                why=f"this machine is called {own!r}",
                remedy=f"`kdump fleet token {own}` on the collector makes the right one; or set `name` in kdump.toml",
            )
        return replace(self.spec, facts={**self.spec.facts, "addresses": ",".join(addresses)})

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        """A request of the healthy host. Raises `KdumpError`."""
        return self._ask("POST", path, body)[0]

    def _ask(self, method: str, path: str, body: bytes) -> tuple[dict[str, Any], list[str]]:
        addresses = system_addresses(self.server.host)
        client = self._client(addresses[0], _TIMEOUT)
        try:
            return client.json(method, path, body), addresses
        finally:
            client.close()

    def open(self, crash: str, ground: Ground) -> Session:
        """Reach the collector; nothing is sent yet."""
        known = [each for each in self.spec.facts.get("addresses", "").split(",") if each]
        failure: KdumpError | None = None
        end = time.monotonic() + 2 * ANSWER
        for address in resolve(self.server.host, ground.dns, known, ANSWER, search=ground.search):
            client = self._client(address, ANSWER)
            try:
                client.connect()
            except KdumpError as error:
                failure = error
                if time.monotonic() > end:
                    break
                continue
            facts = self.spec.facts
            always, least = facts.get("dump") == ALWAYS, int(facts.get("least_level", "31"))
            found = CollectorSession(client, crash, facts.get("host", ""), always=always, least=least)
            found.dns, found.ca_file = ground.dns, certificates(facts.get("ca_file", ""))
            found.secure = self.server.secure
            return found
        raise failure or KdumpError(f"{self.server.host} has no address")

    def _client(self, address: str, seconds: float) -> Client:
        facts = self.spec.facts
        place, identity = facts.get("token", "/etc/kdump/collector.token"), facts.get("certificate", "")
        if identity:
            read_secret(identity)
        # Who shows a certificate needs no token.
        token = "" if identity and not Path(place).exists() else read_token(place)
        return Client(
            self.server, address, self._certificates(), token, facts.get("host", ""), seconds, identity=identity
        )

    def _certificates(self) -> str:
        return certificates(self.spec.facts.get("ca_file", "")) if self.server.secure else ""


def read_token(path: str) -> str:
    """The token in a file that nobody else may read. Raises `KdumpError`."""
    token = read_secret(path, "the collector's token", "`kdump fleet token HOST` on the collector makes one").strip()
    if not token.isascii():
        raise KdumpError(f"the collector's token in {path} is not ASCII")
    return token


class Client:
    """Requests to the collector over one connection."""

    def __init__(  # noqa: PLR0917
        self, server: Server, address: str, ca_file: str, token: str, host: str, seconds: float, *, identity: str = ""
    ) -> None:
        self._server, self._address, self._ca_file, self._identity = server, address, ca_file, identity
        self._headers = {"host": server.authority, "kdump-host": host}
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        self._connection: http.client.HTTPConnection | None = None
        self._seconds = seconds

    def connect(self) -> None:
        """Open the connection. Raises `KdumpError`."""
        self.close()
        self._connection = self._server.connect(self._address, self._ca_file, self._seconds, self._identity)

    def close(self) -> None:
        """Hang up."""
        if self._connection:
            self._connection.close()
        self._connection = None

    def patient(self) -> None:
        """From now on the collector may take its time: it has said that it wants the dump."""
        self._seconds = _TIMEOUT
        if self._connection and self._connection.sock:
            self._connection.sock.settimeout(_TIMEOUT)

    @contextlib.contextmanager
    def _bound(self, connection: http.client.HTTPConnection) -> Iterator[None]:
        """A whole exchange takes no longer than one step of it may: a byte now and then is not an answer."""
        sock = connection.sock
        # The plain shutdown(2): SSLSocket's own would change what the other thread is using.
        timer = threading.Timer(self._seconds, socket.socket.shutdown, (sock, socket.SHUT_RDWR))
        if self._seconds <= ANSWER:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def json(self, method: str, path: str, body: bytes = b"", tries: int = 1) -> dict[str, Any]:
        """A request and its answer. Raises `KdumpError` if the collector refuses or stays silent."""
        answer = self.request(method, path, body, tries)
        try:
            found = load_object(answer.body)
        except FormatError as error:
            raise KdumpError(
                f"{self._server.host} is not a collector", why=f"HTTP {answer.status}; its answer is {error.what}"
            ) from None
        if answer.status >= 300:
            why = ": ".join(str(found[key])[:_SAID] for key in ("error", "why") if found.get(key))
            raise KdumpError(
                f"the collector refused {method} {path}",
                why=f"HTTP {answer.status} {why}".strip(),
                remedy=str(found.get("remedy", ""))[:_SAID],
            )
        return found

    def request(self, method: str, path: str, body: bytes, tries: int) -> Answer:
        """One request, tried again when the line fails or the collector is busy. Raises `KdumpError`."""
        pause = _FIRST_PAUSE
        for tried in range(1, tries + 1):
            try:
                if self._connection is None:
                    self.connect()
                assert self._connection is not None
                headers = self._headers | {"content-length": str(len(body))}
                with self._bound(self._connection):
                    answer = exchange(self._connection, method, path, body, headers)
            except (OSError, http.client.HTTPException, KdumpError) as error:
                self.close()
                if tried == tries:
                    raise KdumpError(
                        f"{self._server.host} does not answer", why=str(error) or type(error).__name__
                    ) from None
            else:
                if (answer.status < 500 and answer.status != 429) or tried == tries:
                    return answer
            time.sleep(pause)
            pause *= 2
        raise AssertionError


class CollectorSession:
    """One crash: its small files are gathered for the report, the dump is sent if it is wanted."""

    def __init__(self, client: Client, crash: str, host: str, *, always: bool, least: int) -> None:
        self.client = client
        self.where = f"collector/{host}/{crash}"
        self.answer: dict[str, Any] = {}
        self._crash, self._host, self._always = crash, host, always
        self._least = least
        self._gathered: dict[str, bytes] = {}
        self.dns: Sequence[str] = ()  # for the name of the collector's bucket
        self.ca_file = ""
        self.secure = False  # whether the collector is reached by https

    def free(self) -> int | None:
        """Not known."""
        return None

    def create(self, name: str) -> Stream:
        """Begin a file."""
        if name.startswith(_DUMP + ".") or name == _DUMP:
            self.introduce()
            if self.answer.get("upload") == "parts":
                return PartsStream(self, name)
            return PiecesStream(self, name)
        return SmallStream(self, name)

    def decide(self, manifest: bytes) -> str:
        """Report the crash: empty if the collector wants the dump, else why not. Raises if it does not answer."""
        self.introduce(manifest)
        want = self.answer.get("want")
        if self._always or not isinstance(want, dict) or want.get("dump") is not False:
            return ""
        title = str(self.answer.get("title", ""))
        fixed = str(self.answer.get("fixed_in", ""))
        return shown(f"{want.get('why', 'not wanted')}: {title}" + (f", fixed in {fixed}" if fixed else ""))[:_SAID]

    def level(self, own: int) -> int:
        """The dump level: `own`, or a lower one that the collector asks for and this machine's configuration allows."""
        want = self.answer.get("want")
        asked = want.get("level") if isinstance(want, dict) else None
        return max(asked, min(self._least, own)) if isinstance(asked, int) and 0 <= asked < own else own

    def introduce(self, manifest: bytes = b"") -> None:
        """Send report and log, once."""
        if self.answer:
            return
        said: dict[str, Any] = json.loads(manifest) if manifest else {}
        said |= {"crash": self._crash, "host": self._host}
        parts = [b'{"manifest":' + json.dumps(said).encode()]
        if report := self._gathered.get("report"):
            parts.append(b',"report":' + report)
        if log := self._gathered.get("log"):
            parts.append(b',"log":' + json.dumps(log[-_LOG:].decode("utf-8", "replace")).encode())
        self.answer = self.client.json("POST", "/v1/crashes", b"".join(parts) + b"}")
        self.client.patient()

    def take(self, name: str, content: bytes) -> None:
        """A small file is complete."""
        if name in _ENVELOPE and not self.answer:
            self._gathered[_ENVELOPE[name]] = content
        elif name == _MANIFEST:
            self.introduce(content)
            self.client.json("PUT", f"/v1/crashes/{quote(self._crash)}/manifest", content, _TRIES)
        elif name not in _MADE_THERE:
            self.introduce()
            stream = PartsStream(self, name) if self.answer.get("upload") == "parts" else PiecesStream(self, name)
            stream.write(content)
            stream.seal()

    def path(self, name: str, rest: str = "") -> str:
        """The resource of one file."""
        return f"/v1/crashes/{quote(self._crash)}/files/{quote(name)}{rest}"

    def address_of(self, server: Server) -> str:
        """Where a server's name leads. Raises `KdumpError`."""
        return resolve(server.host, self.dns)[0]

    def prune(self, keep: int, min_free: int) -> list[str]:
        """The collector has its own retention."""
        return []

    def close(self) -> None:
        """Hang up."""
        self.client.close()


class SmallStream:
    """A file that is kept in memory until it is sealed."""

    def __init__(self, session: CollectorSession, name: str) -> None:
        self.name = name
        self._session = session
        self._content = bytearray()

    def skip(self, size: int) -> None:
        """Leave a gap at the front."""
        self._content = bytearray(size)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append."""
        raw = memoryview(data).cast("B")
        if len(self._content) + len(raw) > _SMALL:
            raise KdumpError(f"{self.name} is too large for a collector")
        self._content += raw
        return len(raw)

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Fill the gap."""
        raw = memoryview(data).cast("B")
        self._content[offset : offset + len(raw)] = raw
        return len(raw)

    def seal(self) -> None:
        """Hand it over."""
        self._session.take(self.name, bytes(self._content))

    def abort(self) -> None:
        """Forget it."""
        self._content.clear()


class PiecesStream(PartStream):
    """A file that goes through the collector: each piece to its place."""

    def __init__(self, session: CollectorSession, name: str) -> None:
        super().__init__(name)
        self._session = session
        self._at = 0  # where the next piece after the first belongs

    def _put(self, number: int, data: bytes) -> str:
        offset = 0 if number == 1 else len(self._first) + self._at
        self._piece(offset, data)
        if number != 1:
            self._at += len(data)
        return ""

    def _piece(self, offset: int, data: bytes) -> None:
        self._session.client.json("PUT", self._session.path(self.name, f"?offset={offset}"), data, _TRIES)

    def _whole(self, data: bytes) -> None:
        self._piece(0, data)
        self._complete(len(data))

    def _finish(self, parts: list[tuple[int, str]]) -> None:
        self._complete(len(self._first) + self._at)

    def _complete(self, size: int) -> None:
        asked = json.dumps({"size": size}).encode()
        # The collector reads the whole file once more for its digest.
        self._session.client.json("POST", self._session.path(self.name, "/complete"), asked, _TRIES)

    def _forget(self) -> None:
        self._session.client.json("DELETE", self._session.path(self.name))


class PartsStream(PartStream):
    """A file that goes to the collector's bucket, part by part, with URLs that the collector signed."""

    def __init__(self, session: CollectorSession, name: str) -> None:
        super().__init__(name)
        self._session = session
        self._urls: dict[int, str] = {}
        self._server: Server | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._size = 0

    def _put(self, number: int, data: bytes) -> str:
        self._size += len(data)
        failure = ""
        for tried in range(_TRIES):
            if tried:
                time.sleep(_FIRST_PAUSE * 2 ** (tried - 1))
            try:
                answer = self._request(self._url(number, again=bool(tried)), data)
            except (OSError, http.client.HTTPException) as error:
                self._hang_up()
                failure = str(error) or type(error).__name__
                continue
            if answer.status < 300:
                return answer.headers.get("etag", "")
            failure = f"HTTP {answer.status}"
        raise KdumpError("the collector's bucket does not take the dump", why=failure)

    def _url(self, number: int, *, again: bool) -> str:
        if number not in self._urls or again:
            wanted = [1] if number == 1 else list(range(number, min(number + 16, 10_000)))
            asked = json.dumps({"numbers": wanted}).encode()
            found = self._session.client.json("POST", self._session.path(self.name, "/parts"), asked, _TRIES)
            urls = found.get("urls")
            given = {each: urls.get(str(each)) for each in wanted} if isinstance(urls, dict) else {}
            self._urls |= {each: url for each, url in given.items() if isinstance(url, str)}
        if number not in self._urls:
            raise KdumpError("the collector gave no URL for a part of the dump")
        return self._urls[number]

    def _request(self, url: str, data: bytes) -> Answer:
        server = Server.of(url)
        if self._session.secure and not server.secure:
            raise KdumpError(
                "the dump would go unencrypted to the collector's bucket",
                why="its URL is http://, the collector's own https://",
                remedy="give the collector an https:// endpoint for its bucket",
            )
        if self._connection is None or server != self._server:
            self._hang_up()
            self._server = server
            self._connection = server.connect(self._session.address_of(server), self._session.ca_file, _TIMEOUT)
        path = url.partition("://")[2].partition("/")[2]
        headers = {"host": server.authority, "content-length": str(len(data))}
        return exchange(self._connection, "PUT", f"/{path}", data, headers)

    def _hang_up(self) -> None:
        if self._connection:
            self._connection.close()
        self._connection = None

    def _whole(self, data: bytes) -> None:
        self._finish([(1, self._put(1, data))])

    def _finish(self, parts: list[tuple[int, str]]) -> None:
        self._hang_up()
        asked = json.dumps({"size": self._size, "parts": [list(part) for part in parts]}).encode()
        self._session.client.json("POST", self._session.path(self.name, "/complete"), asked, _TRIES)

    def _forget(self) -> None:
        with contextlib.suppress(OSError):
            self._hang_up()
        self._session.client.json("DELETE", self._session.path(self.name))
