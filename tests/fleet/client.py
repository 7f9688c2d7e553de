"""A collector's application, asked through ASGI from a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Self

import httpx
from tests.fleet.evidence import packed

from kdump.fleet.app import App
from kdump.fleet.service import Service


class Client:
    """`post`, `get` …: httpx's. The worker does nothing by itself: `sweep` lets it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.app = App(service, working=False)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False), base_url="http://fleet"  # type: ignore[arg-type]
        )  # fmt: skip

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._await(self._client.aclose())
        self._await(self.app.writer.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _await(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        found: httpx.Response = self._await(self._client.request(method, url, **options))
        return found

    def together(self, requests: list[dict[str, Any]]) -> list[httpx.Response]:
        """Many requests at once."""

        async def all_of_them() -> list[httpx.Response]:
            return list(await asyncio.gather(*(self._client.request(**each) for each in requests)))

        found: list[httpx.Response] = self._await(all_of_them())
        return found

    def get(self, url: str, **options: Any) -> httpx.Response:
        return self.request("GET", url, **options)

    def token(self, host: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.service.keys.token(host)}"}

    def crash(self, envelope: dict[str, Any], host: str = "") -> httpx.Response:
        """Report a crash as its host would."""
        headers = self.token(host or envelope["manifest"]["host"]) | {"Content-Encoding": "zstd"}
        return self.request("POST", "/v1/crashes", content=packed(envelope), headers=headers)

    def form(self, url: str, **values: str) -> httpx.Response:
        """Send one of our own forms."""
        from kdump.fleet.auth import Person

        key = self.service.keys.form_key(Person("", self.service.options.open_to))
        return self.request("POST", url, data={"key": key, **values})

    def sweep(self) -> int:
        return self.service.worker.sweep()
