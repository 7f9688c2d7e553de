"""The API against its own description, by schemathesis: no answer that is not described, no failure of the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from tests.fleet.client import Client
from tests.fleet.evidence import crash

from kdump.fleet import render
from kdump.fleet.service import Options, Service

schema = schemathesis.openapi.from_dict(json.loads((render.HERE / "static/openapi.json").read_text()))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Client:
    client = Client(
        Service(Options(tmp_path_factory.mktemp("fleet") / "data", open_to="admin", host_rate=1e6, host_burst=1 << 20))
    )
    client.__enter__()
    client.crash(crash("web1"))
    client.sweep()
    return client


@schema.parametrize()
@settings(max_examples=10, suppress_health_check=list(HealthCheck))
def test_the_api_is_as_it_is_described(case: schemathesis.Case[Any], fleet: Client) -> None:
    arguments = case.as_transport_kwargs(base_url="http://fleet")
    headers = dict(arguments.pop("headers", None) or {})
    if case.path.startswith("/v1/"):
        headers |= fleet.token("*")
    arguments.pop("timeout", None)
    arguments.pop("verify", None)
    arguments.pop("cert", None)
    plain = {name: value for name, value in headers.items() if _sendable(name, str(value))}
    method, url = arguments.pop("method"), arguments.pop("url")
    cookies = arguments.pop("cookies", None)
    del cookies
    data = arguments.pop("data", None)
    if data is not None:
        arguments["content"] = data
    answer = fleet.request(method, url, headers=plain, **arguments)
    described = case.operation.definition.raw["responses"]
    assert str(answer.status_code) in described, (method, url, answer.status_code, answer.text[:300])
    assert answer.status_code < 500
    if method != "HEAD" and answer.status_code >= 400 and not url.startswith("http://fleet/api"):
        assert answer.json()["error"]


def _sendable(name: str, value: str) -> bool:
    return name.isascii() and value.isascii() and value.isprintable() and name.lower() not in ("host", "content-length")


def test_the_description_is_served(fleet: Client) -> None:
    assert fleet.get("/openapi.json").json()["openapi"] == "3.1.0"
    assert Path(render.HERE / "static/openapi.json").exists()
