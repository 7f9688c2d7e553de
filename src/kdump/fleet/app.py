"""The ASGI application of a collector: the hosts' API, the pages, metrics, and what runs beside them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from kdump.fleet import alerts, groups, housekeeping, metrics, queue
from kdump.fleet.api import Api, Receive, Scope, Send
from kdump.fleet.ingest import Writer
from kdump.fleet.pages import HEADERS, Pages, static
from kdump.fleet.service import Service
from kdump.fleet.watch import EVERY, Watch
from kdump.report.signature import VERSION

_ALERTS_EVERY = 5.0  # seconds
_log = logging.getLogger("kdump.fleet")


class App:
    """One collector. `working`: it also is a worker."""

    def __init__(self, service: Service, *, working: bool = True) -> None:
        self.service = service
        self._working = working
        self.queue = queue.opened(service.database)
        self.writer = Writer(service.database, self.queue.wake, self.queue.committed)
        self.watches = [Watch(service, url) for url in service.options.watch]
        self.api = Api(service, self.writer, self.watches)
        self.pages = Pages(service)
        self.metrics = metrics.Metrics(service, self.writer, self.api)
        self._web = Starlette(routes=[*self.pages.routes(), *self._plain()], lifespan=self._lifespan)
        self._web.add_exception_handler(404, self._missing)
        self._web.add_exception_handler(405, self._missing)
        self._web.add_exception_handler(Exception, self._failed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hosts' requests go to the API by the short way."""
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            await self.api(scope, receive, send)
        else:
            await self._web(scope, receive, send)  # type: ignore[arg-type]

    def _plain(self) -> list[Route]:
        async def style(_request: Request) -> Response:
            return static("style.css")

        async def script(_request: Request) -> Response:
            return static("htmx.min.js")

        async def health(_request: Request) -> Response:
            await self.pages.read(lambda session: session.value("SELECT 1 AS one"))
            return PlainTextResponse("ok\n")

        async def figures(_request: Request) -> Response:
            return Response(
                await asyncio.to_thread(self.metrics.text), 200, {"cache-control": "no-store"}, "text/plain"
            )

        async def openapi(_request: Request) -> Response:
            return static("openapi.json")

        return [
            Route("/static/style.css", style),
            Route("/static/htmx.min.js", script),
            Route("/healthz", health),
            Route("/metrics", figures),
            Route("/openapi.json", openapi),
        ]

    async def _missing(self, request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        return self.pages.message(request, self.pages.person(request), status, "There is no such page")

    async def _failed(self, request: Request, _error: Exception) -> Response:
        return Response("The page could not be made; the collector's log says why.\n", 500, HEADERS, "text/plain")

    async def _watch(self, watch: Watch) -> None:
        while True:
            try:
                if await asyncio.to_thread(watch.sweep):
                    self.queue.committed()
            except Exception as error:  # noqa: BLE001 -- the next listing tries again
                _log.warning("the bucket %s: %s", watch.bucket.bucket, error)
            await asyncio.sleep(EVERY)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Any) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(each) for each in background(self.service, self.queue)] if self._working else []
        tasks += [asyncio.create_task(self._watch(each)) for each in self.watches]
        try:
            yield
        finally:
            self.service.worker.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.writer.close()


def background(service: Service, waiting: queue.Queue) -> list[Any]:
    """The work of a worker, as coroutines that run until they are cancelled."""
    return [waiting.run(service.worker.sweep), _outbox(service), housekeeping.run(service), _regroup(service)]


async def _regroup(service: Service) -> None:
    """Once, after kdump's signature got a new version."""
    try:
        await asyncio.to_thread(groups.regroup_all, service.database, str(VERSION), service.worker.stopping)
    except Exception:  # noqa: BLE001 -- the next start goes on where this one ended
        _log.exception("stored reports could not be read again")


async def _outbox(service: Service) -> None:
    while True:
        began = time.monotonic()
        try:
            await asyncio.to_thread(alerts.deliver, service.database, service.options.page)
        except Exception:  # noqa: BLE001 -- the next round tries again
            _log.exception("alerts could not be sent")
        await asyncio.sleep(max(0.5, _ALERTS_EVERY - (time.monotonic() - began)))
