"""A fleet on each engine: SQLite in a directory, and one PostgreSQL server for the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fleet.client import Client
from tests.fleet.postgres import Postgres, postgres

from kdump.fleet.service import Options, Service


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with postgres(tmp_path_factory.mktemp("postgres")) as running:
        yield running


Opened = Callable[..., Service]


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    """`opened(**options)`: a fleet of its own; asked again, another process's view of the same one."""
    url = ""
    if request.param == "postgresql":
        url = request.getfixturevalue("server").new_database()
    found: list[Service] = []

    def make(**options: object) -> Service:
        service = Service(Options(tmp_path / "data", database=url, **options))  # type: ignore[arg-type]
        found.append(service)
        return service

    yield make
    for service in found:
        service.close()


@pytest.fixture
def client(opened: Opened) -> Iterator[Client]:
    """A collector in this process, asked without a network; its worker is swept by hand."""
    with Client(opened(open_to="admin")) as running:
        yield running
