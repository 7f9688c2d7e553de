"""Signed requests to an S3 service over one connection, tried again when the service or the line fails for a moment."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from kdump.errors import KdumpError
from kdump.files.digest import hmac_sha256, sha256
from kdump.targets.https import Answer, Server, exchange

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


class Client:
    """Requests for the objects of one bucket, path style. `address` is where the endpoint's name leads."""

    def __init__(  # noqa: PLR0917
        self, endpoint: str, bucket: str, region: str, credentials: Credentials, address: str = "", ca_file: str = ""
    ) -> None:
        try:
            self._server = Server.of(endpoint)
        except KdumpError:
            raise KdumpError(
                f"{endpoint!r} is not an S3 endpoint", remedy="write https://host or http://host:port"
            ) from None
        self.secure, self.host = self._server.secure, self._server.host
        self._endpoint = endpoint.rstrip("/")
        self._bucket = bucket
        self._region = region
        self._credentials = credentials
        self._address = address or self.host
        self._ca_file = ca_file
        self._connection: http.client.HTTPConnection | None = None

    def connect(self) -> None:
        """Open the connection. Raises `KdumpError`."""
        self.close()
        self._connection = self._server.connect(self._address, self._ca_file, _TIMEOUT)

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
            except OSError as error:
                self.close()
                why = error.strerror or str(error) or type(error).__name__
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
        said = ": ".join(found[1][:200].decode("utf-8", "replace") for found in (code, message) if found)
        remedy = "check the credentials and the clock" if answer.status == 403 else ""
        return KdumpError(what, why=f"HTTP {answer.status} {said}".strip(), remedy=remedy)

    def _once(self, method: str, key: str, query: Mapping[str, str], body: bytes) -> Answer:
        if self._connection is None:
            self.connect()
        assert self._connection is not None
        path, text = self._path(key), _query(query)
        headers = self._signed(method, path, text, body)
        return exchange(self._connection, method, f"{path}?{text}" if text else path, body, headers)

    def presigned(self, method: str, key: str, query: Mapping[str, str], seconds: int) -> str:
        """A URL with which anybody may make this one request for so long.

        Source: "Authenticating Requests: Using Query Parameters" in the Amazon S3 API reference.
        """
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        scope = f"{moment[:8]}/{self._region}/s3/aws4_request"
        signed = {
            **query,
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{self._credentials.access_key}/{scope}",
            "X-Amz-Date": moment,
            "X-Amz-Expires": str(seconds),
            "X-Amz-SignedHeaders": "host",
            **({"X-Amz-Security-Token": self._credentials.token} if self._credentials.token else {}),
        }
        path, text = self._path(key), _query(signed)
        lines = f"host:{self._server.authority}\n"
        canonical = "\n".join((method, path, text, lines, "host", _UNSIGNED))
        return f"{self._endpoint}{path}?{text}&X-Amz-Signature={self._signature(canonical, moment, scope)}"

    def _signed(self, method: str, path: str, query: str, body: bytes) -> dict[str, str]:
        """The request's headers with its signature, version 4."""
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        digest = _UNSIGNED if self.secure else _hex(body)
        headers = {"host": self._server.authority, "x-amz-content-sha256": digest, "x-amz-date": moment}
        if self._credentials.token:
            headers["x-amz-security-token"] = self._credentials.token
        names = ";".join(headers)
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        scope = f"{moment[:8]}/{self._region}/s3/aws4_request"
        canonical = "\n".join((method, path, query, lines, names, digest))
        signature = self._signature(canonical, moment, scope)
        credential = f"{self._credentials.access_key}/{scope}"
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
        )
        headers["content-length"] = str(len(body))
        return headers

    def _signature(self, canonical: str, moment: str, scope: str) -> str:
        to_sign = "\n".join(("AWS4-HMAC-SHA256", moment, scope, _hex(canonical.encode())))
        key = b"AWS4" + self._credentials.secret_key.encode()
        for part in scope.split("/"):
            key = hmac_sha256(key, part.encode())
        return hmac_sha256(key, to_sign.encode()).hex()

    def _path(self, key: str) -> str:
        return f"/{self._bucket}/{quote(key, safe='/~')}"


def _query(query: Mapping[str, str]) -> str:
    return "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in sorted(query.items()))


def _hex(data: bytes) -> str:
    digest = sha256()
    digest.update(data)
    return digest.hexdigest()
