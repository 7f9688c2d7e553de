"""A collector and its workers as processes of their own, which a test may kill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
from tests.targets.servers import free_port

KDUMP = str(Path(sys.executable).with_name("kdump"))


class Process:
    """`kdump fleet …`, started again at will."""

    def __init__(self, arguments: list[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._arguments, self._log = arguments, log
        self._environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            command = [KDUMP, "fleet", *self._arguments]
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )

    def kill(self) -> None:
        assert self.process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process and self.process.poll() is None:
            self.kill()


class Collector(Process):
    """`kdump fleet serve` on a port of its own."""

    def __init__(
        self, data: Path, *more: str, database: str = "", store: str = "", environment: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
    ) -> None:  # fmt: skip
        self.port = free_port()
        self.url = f"http://{address}:{self.port}"
        self._tokens: dict[str, str] = {}
        place = ["--data", str(data), *(["--database", database] if database else [])]
        self.place = [*place, *(["--store", store] if store else [])]
        data.parent.mkdir(parents=True, exist_ok=True)
        listen = ["--listen", f"{address}:{self.port}", "--open-to", "admin"]
        super().__init__(["serve", *self.place, *listen, *more], data.parent / "collector.log", environment)

    def start(self) -> None:
        super().start()
        end = time.monotonic() + 40
        while True:
            try:
                assert httpx.get(f"{self.url}/healthz", timeout=5).status_code == 200
            except (httpx.HTTPError, AssertionError):
                assert self.process
                assert self.process.poll() is None, self._log.read_text()[-3000:]
                assert time.monotonic() < end, self._log.read_text()[-3000:]
                time.sleep(0.1)
            else:
                return

    def token(self, host: str = "*") -> str:
        if host in self._tokens:
            return self._tokens[host]
        done = subprocess.run(
            [KDUMP, "fleet", "token", *self.place, host],
            capture_output=True, text=True, check=True, env=self._environment,
        )  # fmt: skip
        self._tokens[host] = done.stdout.strip()
        return self._tokens[host]

    def get(self, path: str) -> Any:
        answer = httpx.get(self.url + path, timeout=30)
        answer.raise_for_status()
        return answer.json() if path.startswith("/api/") else answer.text

    def wait_for(self, path: str, wanted: str, seconds: float = 40) -> str:
        """A page, once it says something."""
        end = time.monotonic() + seconds
        while True:
            text = str(self.get(path))
            if wanted in text:
                return text
            assert time.monotonic() < end, text
            time.sleep(0.2)


def token_file(directory: Path, token: str) -> Path:
    path = directory / "collector.token"
    path.write_text(token + "\n")
    path.chmod(0o600)
    return path
