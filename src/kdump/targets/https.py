"""One connection to a server by HTTP or HTTPS, to an address that is known while the server's name is verified.

What a server answers is bounded, in bytes and in time; an invalid answer raises OSError, like a broken connection.
"""

from __future__ import annotations

import errno
import http.client
import io
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from kdump.errors import KdumpError, reason

if TYPE_CHECKING:
    import ssl

__capture_omits__ = ("ssl",)  # the plan asks for it if a target is reached by https

SYSTEM_CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora and similar
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/var/lib/ca-certificates/ca-bundle.pem",
    "/etc/ssl/cert.pem",  # Alpine without ca-certificates
)


_ANSWER_BYTES = 1 << 20  # of headers and body
_ANSWER_SECONDS = 600.0  # completing a large upload takes S3 minutes, in which it sends spaces


class _Bounded(io.RawIOBase):
    """The server's bytes, up to a number of bytes and for a time, however it is spread."""

    def __init__(self, inner: Any, sock: Any) -> None:
        self._inner = inner
        self._sock = sock
        self._silence = sock.gettimeout() or _ANSWER_SECONDS
        self._left = _ANSWER_BYTES
        self._end = time.monotonic() + _ANSWER_SECONDS

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Raises OSError past the bounds."""
        if (left := self._end - time.monotonic()) <= 0:
            raise TimeoutError(errno.ETIMEDOUT, f"no whole answer within {_ANSWER_SECONDS:g} s")
        self._sock.settimeout(min(self._silence, left))
        count: int | None = self._inner.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise OSError(errno.EMSGSIZE, f"an answer of more than {_ANSWER_BYTES >> 10} KiB")
        return count

    def close(self) -> None:
        """Close what is below."""
        self._inner.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer, headers and body, within bounds."""

    def __init__(self, sock: Any, *args: Any, **named: Any) -> None:
        super().__init__(sock, *args, **named)
        self.fp = io.BufferedReader(_Bounded(self.fp.detach(), sock))


class Answer(NamedTuple):
    """The server's answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def certificates(own: str) -> str:
    """The file of certificates to trust: the configured one, or the system's; empty if absent."""
    return own or next((path for path in SYSTEM_CERTIFICATES if Path(path).exists()), "")


def trusting(ca_file: str) -> ssl.SSLContext:
    """A client's context that trusts the certificates in a file (empty: Python's). Raises `KdumpError` naming it."""
    import ssl

    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        why = "there is no certificate (PEM) in it" if isinstance(error, ssl.SSLError) else reason(error)
        raise KdumpError(f"the certificates in {ca_file} cannot be used", why=why) from None


def show_certificate(context: ssl.SSLContext, certificate: str, key: str = "") -> None:
    """Let a context show a certificate; its key is in the same file (PEM), or in `key`. Raises `KdumpError`."""
    import ssl

    try:
        # An answer, so that nobody is asked for the passphrase of a key that has one.
        context.load_cert_chain(certificate, key or None, password=lambda: "")
    except OSError as error:
        why = "it is no certificate with its key (PEM), without a passphrase"
        files = f"{certificate} with the key {key}" if key else certificate
        raise KdumpError(
            f"the certificate {files} cannot be used", why=why if isinstance(error, ssl.SSLError) else reason(error)
        ) from None


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
        try:
            parts = urlsplit(url if url.isascii() else "")
            port = parts.port
        except ValueError:  # its brackets, or its port
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise KdumpError(f"{url!r} is not a server's address", remedy="write https://host or http://host:port")
        secure = parts.scheme == "https"
        return cls(secure, parts.hostname, port or (443 if secure else 80), parts.netloc)

    def connect(self, address: str, ca_file: str, seconds: float, identity: str = "") -> http.client.HTTPConnection:
        """A connection to `address`; each step may take `seconds`. Raises `KdumpError`.

        `identity` is a file (PEM) with this machine's own certificate and its key, for a server that asks for one.
        """
        context = self._context(ca_file, identity) if self.secure else None
        connection = http.client.HTTPConnection(self.host, self.port, timeout=seconds)
        connection.response_class = _Response
        # Not by http.client: its look-up of names wants codecs that the capture image lacks.
        plain = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            plain.settimeout(seconds)
            plain.connect((address, self.port))
            # The address is connected to, but the name is verified. As bytes: for a string the codec "idna" would be
            # asked, which the capture image lacks.
            name = self.host.encode("ascii")
            connection.sock = context.wrap_socket(plain, server_hostname=name) if context else plain
        except (OSError, ValueError) as error:  # the latter: a name that no certificate has
            plain.close()
            raise KdumpError(f"{self.host} cannot be reached", why=reason(error)) from None
        return connection

    def _context(self, ca_file: str, identity: str) -> ssl.SSLContext:
        context = trusting(ca_file)
        if identity:
            show_certificate(context, identity)
        return context


def exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: Mapping[str, str]
) -> Answer:
    """One request and its answer. Raises OSError, also if the answer is not HTTP or out of bounds."""
    try:
        connection.request(method, path, body or None, dict(headers))
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        content = answer.read(_ANSWER_BYTES + 1)
        if answer.length:
            raise OSError(errno.EBADMSG, f"an answer that lacks {answer.length} bytes")
        return Answer(answer.status, found, content)
    except (http.client.HTTPException, ValueError, OverflowError) as error:
        said = f"{type(error).__name__}: {error}"[:200]
        raise OSError(errno.EBADMSG, f"not an answer of HTTP ({said})") from None
