"""Signed requests to an S3 service over one connection, tried again when the service or the line fails for a moment."""

from __future__ import annotations

import http.client
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from kdump.digest import hmac_sha256, sha256
from kdump.errors import KdumpError

__capture_omits__ = ("ssl",)  # the plan asks for it if the endpoint is https

_TIMEOUT = 20.0  # seconds without a byte
_TRIES = 4
_FIRST_PAUSE = 0.5  # seconds before the second try; doubled each time
_AGAIN = (500, 502, 503, 504, 429)
_UNSIGNED = "UNSIGNED-PAYLOAD"


@dataclass(frozen=True)
class Credentials:
    """Keys; never printed."""

    access_key: str
    secret_key: str
    token: str = ""

    def __repr__(self) -> str:
        return f"Credentials({self.access_key!r}, …)"


class Answer(NamedTuple):
    """What the service said. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """Requests for the objects of one bucket, path style. `address` is where the endpoint's name leads."""

    def __init__(  # noqa: PLR0917
        self, endpoint: str, bucket: str, region: str, credentials: Credentials, address: str = "", ca_file: str = ""
    ) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise KdumpError(f"{endpoint!r} is not an S3 endpoint", remedy="write https://host or http://host:port")
        self.secure = parts.scheme == "https"
        self.host = parts.hostname
        self._port = parts.port or (443 if self.secure else 80)
        self._authority = parts.netloc
        self._bucket = bucket
        self._region = region
        self._credentials = credentials
        self._address = address or self.host
        self._ca_file = ca_file
        self._connection: http.client.HTTPConnection | None = None

    def connect(self) -> None:
        """Open the connection. Raises `KdumpError`."""
        self.close()
        connection = http.client.HTTPConnection(self.host, self._port, timeout=_TIMEOUT)
        try:
            # Not by http.client: its look-up of names wants codecs that the capture image lacks.
            plain = socket.socket(socket.AF_INET6 if ":" in self._address else socket.AF_INET)
            plain.settimeout(_TIMEOUT)
            plain.connect((self._address, self._port))
            connection.sock = self._secured(plain) if self.secure else plain
        except OSError as error:
            raise KdumpError(f"{self.host} cannot be reached", why=error.strerror or str(error)) from None
        self._connection = connection

    def _secured(self, plain: socket.socket) -> socket.socket:
        """Connected to the address, but the name is verified."""
        import ssl

        context = ssl.create_default_context(cafile=self._ca_file or None)
        # As bytes: for a string the codec "idna" would be asked, which the capture image lacks.
        return context.wrap_socket(plain, server_hostname=self.host.encode("ascii"))

    def close(self) -> None:
        """Close the connection."""
        if self._connection:
            self._connection.close()
        self._connection = None

    def request(self, method: str, key: str, query: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
        """One request, tried up to four times. Raises `KdumpError` if the service refuses or stays silent."""
        pause = _FIRST_PAUSE
        for tried in range(1, _TRIES + 1):
            try:
                answer = self._once(method, key, query or {}, body)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                why = str(error) or type(error).__name__
                if tried == _TRIES:
                    raise KdumpError(f"{self.host} does not answer", why=why) from None
            else:
                if answer.status < 300:
                    return answer
                if answer.status not in _AGAIN or tried == _TRIES:
                    raise self.refusal(f"{self.host} refused {method} {key}", answer)
            time.sleep(pause)
            pause *= 2
        raise AssertionError

    def refusal(self, what: str, answer: Answer) -> KdumpError:
        """An error from what the service said."""
        code = re.search(rb"<Code>([^<]*)</Code>", answer.body)
        message = re.search(rb"<Message>([^<]*)</Message>", answer.body)
        said = ": ".join(found[1].decode("utf-8", "replace") for found in (code, message) if found)
        remedy = "check the credentials and the clock" if answer.status == 403 else ""
        return KdumpError(what, why=f"HTTP {answer.status} {said}".strip(), remedy=remedy)

    def _once(self, method: str, key: str, query: Mapping[str, str], body: bytes) -> Answer:
        if self._connection is None:
            self.connect()
        assert self._connection is not None
        path = f"/{self._bucket}/{quote(key, safe='/~')}"
        text = "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in sorted(query.items()))
        headers = self._signed(method, path, text, body)
        self._connection.request(method, f"{path}?{text}" if text else path, body or None, headers)
        answer = self._connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def _signed(self, method: str, path: str, query: str, body: bytes) -> dict[str, str]:
        """The request's headers with its signature, version 4."""
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        digest = _UNSIGNED if self.secure else _hex(body)
        headers = {"host": self._authority, "x-amz-content-sha256": digest, "x-amz-date": moment}
        if self._credentials.token:
            headers["x-amz-security-token"] = self._credentials.token
        names = ";".join(headers)
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        scope = f"{moment[:8]}/{self._region}/s3/aws4_request"
        canonical = "\n".join((method, path, query, lines, names, digest))
        to_sign = "\n".join(("AWS4-HMAC-SHA256", moment, scope, _hex(canonical.encode())))
        key = b"AWS4" + self._credentials.secret_key.encode()
        for part in scope.split("/"):
            key = hmac_sha256(key, part.encode())
        signature = hmac_sha256(key, to_sign.encode()).hex()
        credential = f"{self._credentials.access_key}/{scope}"
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
        )
        headers["content-length"] = str(len(body))
        return headers


def _hex(data: bytes) -> str:
    digest = sha256()
    digest.update(data)
    return digest.hexdigest()
