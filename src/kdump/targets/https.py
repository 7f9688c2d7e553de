"""One connection to a server by HTTP or HTTPS, to an address that is known while the server's name is verified."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from kdump.errors import KdumpError

__capture_omits__ = ("ssl",)  # the plan asks for it if a target is reached by https

SYSTEM_CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


class Answer(NamedTuple):
    """What the server said. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def certificates(own: str) -> str:
    """The file of certificates to trust: the configured one, or the system's; empty if there is none."""
    return own or next((path for path in SYSTEM_CERTIFICATES if Path(path).exists()), "")


@dataclass(frozen=True)
class Server:
    """Where a URL leads. `address` is where the name leads, `authority` what the Host header says."""

    secure: bool
    host: str
    port: int
    authority: str

    @classmethod
    def of(cls, url: str) -> Server:
        """The server that an http:// or https:// URL names. Raises `KdumpError`."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise KdumpError(f"{url!r} is not a server's address", remedy="write https://host or http://host:port")
        secure = parts.scheme == "https"
        return cls(secure, parts.hostname, parts.port or (443 if secure else 80), parts.netloc)

    def connect(self, address: str, ca_file: str, seconds: float) -> http.client.HTTPConnection:
        """A connection to `address`; each step may take `seconds`. Raises `KdumpError`."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=seconds)
        # Not by http.client: its look-up of names wants codecs that the capture image lacks.
        plain = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            plain.settimeout(seconds)
            plain.connect((address, self.port))
            connection.sock = self._secured(plain, ca_file) if self.secure else plain
        except OSError as error:
            plain.close()
            raise KdumpError(f"{self.host} cannot be reached", why=error.strerror or str(error)) from None
        return connection

    def _secured(self, plain: socket.socket, ca_file: str) -> socket.socket:
        """Connected to the address, but the name is verified."""
        import ssl

        context = ssl.create_default_context(cafile=ca_file or None)
        # As bytes: for a string the codec "idna" would be asked, which the capture image lacks.
        return context.wrap_socket(plain, server_hostname=self.host.encode("ascii"))


def exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: Mapping[str, str]
) -> Answer:
    """One request and its answer. Raises OSError and http.client.HTTPException."""
    connection.request(method, path, body or None, dict(headers))
    answer = connection.getresponse()
    return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
