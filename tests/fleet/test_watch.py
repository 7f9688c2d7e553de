"""Buckets that hosts write to by themselves, on a real S3 server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fleet.client import Client
from tests.fleet.evidence import log_text, report_of
from tests.targets.servers import Weed, weed
from tests.targets.test_file import ground

from kdump.fleet.service import Options, Service
from kdump.targets import target_for
from kdump.targets.protocol import Spec


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with weed(tmp_path_factory.mktemp("weed")) as running:
        yield running


def write(bucket: Weed, directory: Path, crash: str, manifest: bytes, log: str = "list") -> None:
    """As the capture kernel of a host with an s3:// target does."""
    session = target_for(Spec("s3://dumps/prod", bucket.facts)).open(crash, ground(directory, []))
    for name, content in (
        ("vmcore-dmesg.txt", log_text(log).encode()),
        ("report.json", json.dumps(report_of(log)).encode()),
        ("manifest.json", manifest),
    ):
        stream = session.create(name)
        stream.write(content)
        stream.seal()


def test_what_hosts_write_to_their_bucket_is_taken_once(
    bucket: Weed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "kdump")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret of the tests")
    names = [f"web{number}-20261129T120000Z-000{number}" for number in (1, 2, 3)]
    for number, name in enumerate(names[:2], 1):
        manifest = {"host": f"web{number}", "crash": name, "status": "complete"}
        write(bucket, tmp_path, name, json.dumps(manifest).encode())
    write(bucket, tmp_path, "bad-20261129T120000Z-0001", b"not JSON")
    url = f"s3://dumps/prod?endpoint={bucket.endpoint}"
    with Client(Service(Options(tmp_path / "data", open_to="admin", watch=(url,)))) as client:
        (watch,) = client.app.watches
        assert watch.sweep() == 2
        assert watch.sweep() == 0
        assert list(watch.refused) == ["bad-20261129T120000Z-0001/manifest.json"]
        write(bucket, tmp_path, names[2], json.dumps({"host": "web3", "crash": names[2]}).encode(), "uaf")

        def event(key: str, name: str = "dumps") -> int:
            body = {"Records": [{"s3": {"bucket": {"name": name}, "object": {"key": key}}}]}
            answer = client.request("POST", "/v1/events/s3", json=body, headers=client.token("*"))
            assert answer.status_code == 200, answer.text
            return int(answer.json()["new"])

        assert event(f"prod/{names[2]}/vmcore") == 0
        assert event(f"prod/{names[2]}/manifest.json", "another") == 0
        assert event("prod/../x/manifest.json") == event("prod/nothing/manifest.json") == 0
        assert event(f"prod/{names[2]}/manifest.json") == 1
        assert event(f"prod/{names[2]}/manifest.json") == 0
        for body in ({"Records": 3}, {"Records": [3, {"s3": 1}, {"s3": {"bucket": 1}}]}, {}):
            headers = client.token("*")
            assert client.request("POST", "/v1/events/s3", json=body, headers=headers).json() == {"new": 0}
        assert client.request("POST", "/v1/events/s3", json={}, headers=client.token("web1")).status_code == 403
        client.sweep()
        with client.service.database.read() as session:
            rows = session.all("SELECT host, name, signature FROM crashes ORDER BY name")
        client.service.close()
    assert [(row["host"], row["name"]) for row in rows] == [(f"web{number}", names[number - 1]) for number in (1, 2, 3)]
    assert [row["signature"] for row in rows] == [
        report_of(log)["verdict"]["signature"] for log in ("list", "list", "uaf")
    ]
