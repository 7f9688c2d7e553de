"""Debian's PostgreSQL on a socket of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

_PROGRAMS = Path("/usr/lib/postgresql/15/bin")


class Postgres:
    """A server that can be killed and started again. Its data survive."""

    def __init__(self, directory: Path, socket: Path) -> None:
        self.directory, self.socket = directory, socket
        self.process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.socket}"

    def start(self) -> None:
        (self.directory / "data/postmaster.pid").unlink(missing_ok=True)
        command = [_PROGRAMS / "postgres", "-D", self.directory / "data", "-k", self.socket, "-h", ""]
        command += ["-c", "max_connections=80", "-c", "shared_buffers=64MB"]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(_as_other(command), stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
            except psycopg.Error:
                assert time.monotonic() < end, (self.directory / "log").read_text()[-2000:]
                time.sleep(0.1)
            else:
                return

    def kill(self) -> None:
        """As a power cut would end it."""
        assert self.process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def new_database(self) -> str:
        self._databases += 1
        name = f"fleet{self._databases}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)


def _as_other(command: list[object]) -> list[str]:
    """PostgreSQL does not run as root."""
    plain = [str(word) for word in command]
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *plain] if os.geteuid() == 0 else plain


@contextlib.contextmanager
def postgres(directory: Path) -> Iterator[Postgres]:
    socket = Path(tempfile.mkdtemp(prefix="kdump-pg-"))  # a socket's path has little room
    home = Path(tempfile.mkdtemp(prefix="kdump-pgdata-"))  # the directory of a test is root's alone
    if os.geteuid() == 0:
        for each in (socket, home):
            shutil.chown(each, "postgres", "postgres")
    initdb: list[object] = [_PROGRAMS / "initdb", "-D", home / "data", "-U", "postgres", "--auth=trust", "-E", "UTF8"]
    subprocess.run(_as_other([*initdb, "--locale=C.UTF-8", "-N"]), check=True, capture_output=True)
    server = Postgres(home, socket)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(socket)
        shutil.rmtree(home)
        del directory
