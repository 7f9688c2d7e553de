"""Processes: a collector under uvicorn, or a worker alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdump.display import shown
from kdump.errors import KdumpError, UsageError, reason
from kdump.fleet import evidence, queue
from kdump.fleet.api import CERTIFICATE
from kdump.fleet.app import App, background
from kdump.fleet.service import Service
from kdump.targets.https import show_certificate, trusting

_BACKLOG = 2048
_GRACE = 10  # seconds that requests under way may take when the process is told to end


@dataclass(frozen=True)
class Tls:
    """Certificate, its key, and the CA whose certificates hosts must show; None: none."""

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None


def names_of(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The hosts that a client's certificate names: its DNS names, or its common name if it has none."""
    if not certificate:
        return ()
    found = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    subject = [pair for entry in certificate.get("subject", ()) for pair in entry]
    found = found or [value for kind, value in subject if kind == "commonName"]
    return tuple(name for name in found if evidence.is_host(name))


def _protocol() -> type:
    """uvicorn's protocol, which also passes the names in the client's certificate on: see `CERTIFICATE`."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class Protocol(HttpToolsProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            secured = transport.get_extra_info("ssl_object")
            self.host_names = names_of(secured.getpeercert()) if secured else ()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.scope.setdefault("extensions", {})[CERTIFICATE] = {"hosts": self.host_names}

    return Protocol


def serve(service: Service, listen: tuple[str, int], tls: Tls, *, working: bool = True) -> int:
    """Serve until the process is told to end; 0."""
    import uvicorn

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if tls.certificate is None and listen[0] not in ("127.0.0.1", "localhost", "::1"):
        logging.getLogger("kdump.fleet").warning(
            "without --tls-cert, reports and tokens cross the network in the clear"
        )
    if tls.certificate:
        show_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), str(tls.certificate), str(tls.key or ""))
    if tls.client_ca:
        trusting(str(tls.client_ca))
    config = uvicorn.Config(
        App(service, working=working),
        http=_protocol(),
        loop="auto",
        backlog=_BACKLOG,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
        timeout_keep_alive=30,
        ssl_certfile=tls.certificate,
        ssl_keyfile=tls.key,
        ssl_ca_certs=str(tls.client_ca) if tls.client_ca else None,
        ssl_cert_reqs=ssl.CERT_OPTIONAL if tls.client_ca else ssl.CERT_NONE,
    )
    try:
        with _listening(*listen) as taken:
            address, port = taken.getsockname()[:2]
            host = f"[{address}]" if ":" in address else address
            scheme = "https" if tls.certificate else "http"
            print(f"kdump fleet: {scheme}://{host}:{port}/, data in {shown(service.options.data)}", flush=True)
            uvicorn.Server(config).run([taken])
    finally:
        service.close()
    return 0


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises `KdumpError`."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        raise KdumpError(f"the collector cannot listen on {host} port {port}", why=reason(error)) from None


def work(service: Service) -> int:
    """Work until the process is told to end; 0."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if not service.database.postgres:
        raise UsageError(
            "a separate worker needs PostgreSQL", remedy="with SQLite, `kdump fleet serve` contains the worker"
        )

    async def main() -> None:
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(each) for each in background(service, queue.opened(service.database))]
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: [task.cancel() for task in tasks])
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)

    try:
        asyncio.run(main())
    finally:
        service.close()
    return 0
