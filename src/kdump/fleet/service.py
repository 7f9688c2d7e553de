"""One process of the fleet: the database, the store, the queue, the keys and the worker, opened together."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from kdump.errors import KdumpError
from kdump.fleet import auth, objects, oidc, queue, schema
from kdump.fleet.database import Database
from kdump.fleet.worker import Worker
from kdump.report import known

DATABASE, OBJECTS, KNOWN = "fleet.sqlite", "objects", known.NAME


@dataclass(frozen=True)
class Options:
    """How a process was started. `page` is the address people use; `open_to` the role of who is not signed in."""

    data: Path
    database: str = ""
    store: str = ""
    page: str = ""
    open_to: str = "none"
    oidc: oidc.Settings | None = None
    watch: tuple[str, ...] = ()  # buckets that hosts write to by themselves
    certificates: bool = False  # hosts must show one
    workers: int = 1
    host_rate: float = 2.0  # reports a second that one host may send, for long
    host_burst: int = 60
    host_quota: int = 64 << 30  # bytes of files that one host may have in the store


class Service:
    """Everything that the collector, the pages and the workers share."""

    def __init__(self, options: Options) -> None:
        self.options = options
        options.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.database = Database(options.database or f"sqlite://{options.data.absolute() / DATABASE}")
        schema.migrate(self.database)
        queue.install(self.database)
        self.objects = objects.opened(options.store or f"file://{options.data.absolute() / OBJECTS}")
        self.keys = auth.keys(self.database)
        self._index: tuple[float, known.Index | None] = (0.0, None)
        self._looked = 0.0
        self.worker = Worker(self.database, self.objects, self.index)

    def index(self) -> known.Index | None:
        """The index of known faults, from --data or from where `kdump report` has it; read again when the file
        changes."""
        if time.monotonic() - self._looked < 5.0:
            return self._index[1]
        self._looked = time.monotonic()
        own = self.options.data / KNOWN
        path = known.find_index(own if own.is_file() else None)
        try:
            changed = path.stat().st_mtime if path else 0.0
        except OSError:
            return self._index[1]
        if path is None:
            return None
        if changed != self._index[0]:
            try:
                self._index = (changed, known.load(path))
            except KdumpError:
                self._index = (changed, None)
        return self._index[1]

    def close(self) -> None:
        """Let go of the database."""
        self.worker.stop()
        self.database.close()
