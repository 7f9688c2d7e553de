"""Collector, worker, PostgreSQL and the S3 server are killed at random moments: nothing is lost, nothing is double."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fleet.evidence import crash, packed, report_of
from tests.fleet.postgres import postgres
from tests.fleet.process import Collector, Process
from tests.targets.servers import weed

from kdump.fleet import auth, policy
from kdump.fleet.database import Database
from kdump.fleet.service import Options, Service

KILLS = 5


class Hosts(threading.Thread):
    """Hosts that report and upload until they are told that it is stored, as often as it takes."""

    def __init__(self, collector: Collector, token: str, numbers: range, *, dumps: bool) -> None:
        super().__init__(daemon=True)
        self._collector, self._token, self._numbers, self._dumps = collector, token, numbers, dumps
        self.told: dict[str, int] = {}  # what the collector said it stored
        self.failure = ""

    def run(self) -> None:
        try:
            with httpx.Client(timeout=20) as client:
                for number in self._numbers:
                    self._one(client, number)
        except Exception as error:
            self.failure = repr(error)

    def _one(self, client: httpx.Client, number: int) -> None:
        host = f"host{number:04d}"
        envelope = crash(host, number, ("softlockup", "list", "uaf")[number % 3])
        headers = {"Authorization": f"Bearer {self._token}", "Kdump-Host": host}
        body = packed(envelope)
        name = envelope["manifest"]["crash"]
        url = f"{self._collector.url}/v1/crashes"
        send = lambda: client.post(url, content=body, headers=headers | {"Content-Encoding": "zstd"})  # noqa: E731
        answer = self._until_stored(send)
        self.told[name] = int(answer["id"])
        if self._dumps and number % 4 == 0:
            self._upload(client, f"{url}/{name}/files/vmcore", headers)

    def _upload(self, client: httpx.Client, url: str, headers: dict[str, str]) -> None:
        data = os.urandom(300_000)
        if self._collector_is_direct():
            found = self._until_stored(lambda: client.post(f"{url}/parts", json={"numbers": [1]}, headers=headers))
            tag = self._until_tagged(lambda: client.put(found["urls"]["1"], content=data))
            done = {"size": len(data), "parts": [[1, tag]]}
        else:
            for at in range(0, len(data), 100_000):
                piece = data[at : at + 100_000]
                self._until_stored(partial(client.put, f"{url}?offset={at}", content=piece, headers=headers))
            done = {"size": len(data)}
        self._until_stored(lambda: client.post(f"{url}/complete", json=done, headers=headers))

    def _collector_is_direct(self) -> bool:
        return "--store" in self._collector.place

    def _until_stored(self, send: Callable[[], httpx.Response]) -> dict[str, Any]:
        end = time.monotonic() + 90
        while True:
            try:
                answer = send()
                if answer.status_code < 300:
                    found: dict[str, Any] = answer.json()
                    return found
                assert answer.status_code >= 500 or answer.status_code == 429, answer.text
            except httpx.HTTPError:
                pass
            assert time.monotonic() < end, "the collector did not come back"
            time.sleep(0.2)

    def _until_tagged(self, send: Callable[[], httpx.Response]) -> str:
        end = time.monotonic() + 90
        while True:
            try:
                answer = send()
                if answer.status_code < 300:
                    return answer.headers["etag"]
            except httpx.HTTPError:
                pass
            assert time.monotonic() < end, "the bucket did not come back"
            time.sleep(0.2)


def settle(database: Database, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        with database.read() as session:
            left = session.value("SELECT COUNT(*) AS n FROM crashes WHERE state = 0 OR todo <> ''")
        if not left:
            return
        assert time.monotonic() < end, f"{left} crashes are left"
        time.sleep(0.3)


def judge(service: Service, told: dict[str, int], files: int) -> None:
    """Whatever a host was told is there, once, and counted once."""
    with service.database.read() as session:
        names = Counter(row["name"] for row in session.all("SELECT name FROM crashes"))
        ids = {row["name"]: row["id"] for row in session.all("SELECT name, id FROM crashes")}
        groups = session.all(
            "SELECT g.origin, g.crashes, (SELECT COUNT(*) FROM crashes c WHERE c.grp = g.id) AS rows FROM groups g"
        )
        days = session.value("SELECT SUM(crashes) AS n FROM days")
        hosts = session.value("SELECT SUM(crashes) AS n FROM hosts")
        bodies = session.value("SELECT COUNT(*) AS n FROM bodies")
        stored = session.all("SELECT place, size FROM files")
        alerts = session.value("SELECT COUNT(*) AS n FROM outbox WHERE kind IN ('new', 'rollout')")
    assert set(told) == set(names)
    assert set(names.values()) == {1}
    assert ids == told
    assert len(groups) == 3
    assert all(group["crashes"] == group["rows"] for group in groups)
    assert int(days) == int(hosts) == bodies == len(told)
    assert alerts == 3
    assert len(stored) == files
    assert all(service.objects.size(row["place"]) == row["size"] for row in stored)


def generous(service: Service) -> None:
    service.database.run(lambda session: policy.save(session, policy.Policy(first=5)))
    assert auth.keys(service.database).token("*") == service.keys.token("*")


def hunt(victims: list[Any], hosts: list[Hosts], seed: int) -> int:
    """Kill victims at random moments while the hosts send, KILLS times unless they are done before; how often."""
    rng = random.Random(seed)
    killed = 0
    while any(each.is_alive() for each in hosts):
        time.sleep(rng.uniform(0.2, 1.2))
        if killed < KILLS:
            victim = rng.choice(victims)
            victim.kill()
            time.sleep(rng.uniform(0, 0.4))
            victim.start()
            killed += 1
    return killed


def test_the_embedded_collector_is_killed(tmp_path: Path) -> None:
    service = Service(Options(tmp_path / "data"))
    generous(service)
    with Collector(tmp_path / "data") as collector:
        hosts = [Hosts(collector, service.keys.token("*"), range(n, 240, 4), dumps=True) for n in range(4)]
        for each in hosts:
            each.start()
        assert hunt([collector], hosts, 1) > 0
        assert [each.failure for each in hosts] == [""] * 4
        settle(service.database)
        told = {name: number for each in hosts for name, number in each.told.items()}
        assert len(told) == 240
        judge(service, told, files=60)
    service.close()


def test_every_server_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "kdump", "AWS_SECRET_ACCESS_KEY": "a secret of the tests"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    with postgres(tmp_path) as database, weed(tmp_path / "weed") as bucket:
        url, store = database.new_database(), f"s3://dumps/fleet?endpoint={bucket.endpoint}"
        service = Service(Options(tmp_path / "data", database=url, store=store))
        generous(service)
        place = ["--data", str(tmp_path / "data"), "--database", url, "--store", store]
        collector = Collector(tmp_path / "data", "--no-worker", database=url, store=store, environment=keys)
        worker = Process(["worker", *place], tmp_path / "worker.log", keys)
        with collector, worker:
            hosts = [Hosts(collector, service.keys.token("*"), range(n, 160, 4), dumps=True) for n in range(4)]
            for each in hosts:
                each.start()
            assert hunt([collector, worker, database, bucket], hosts, 2) > 0
            assert [each.failure for each in hosts] == [""] * 4
            settle(service.database)
            told = {name: number for each in hosts for name, number in each.told.items()}
            assert len(told) == 160
            judge(service, told, files=40)
        service.close()


def test_a_worker_that_is_killed_while_it_reads_leaves_the_crash_to_the_next(tmp_path: Path) -> None:
    from kdump.fleet import worker

    service = Service(Options(tmp_path / "data"))
    envelope = crash(with_report=False)
    from kdump.fleet import evidence, ingest

    text = json.dumps(envelope).encode()
    service.database.run(
        lambda session: ingest.store(session, [(evidence.read(text), evidence.pack(text))], time.time(), None)
    )
    taken = service.database.run(lambda session: worker.claim(session, time.time()))
    assert taken is not None
    assert service.worker.sweep() == 0  # it is leased
    service.database.run(lambda session: session.execute("UPDATE crashes SET lease = ?", time.time() - 1))
    assert service.worker.sweep() > 0
    with service.database.read() as session:
        row = session.one("SELECT * FROM crashes")
    assert row is not None
    assert row["state"] == 1
    assert row["signature"] == report_of("softlockup")["verdict"]["signature"]
    service.close()


def test_a_log_that_cannot_be_read_is_given_up_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdump.fleet import child, evidence, ingest

    service = Service(Options(tmp_path / "data"))
    text = json.dumps(crash(with_report=False)).encode()
    service.database.run(
        lambda session: ingest.store(session, [(evidence.read(text), evidence.pack(text))], time.time(), None)
    )

    monkeypatch.setattr(child, "run", lambda *_: (-9, ""))
    service.worker.sweep()
    with service.database.read() as session:
        row = session.one("SELECT * FROM crashes")
    assert row is not None
    assert (row["state"], row["todo"], row["tries"]) == (1, "", 3)
    assert "signal 9" in row["problem"]
    service.close()


def test_a_child_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdump.errors import KdumpError
    from kdump.fleet import child

    log = tmp_path / "log.txt"
    log.write_text("[    1.0] Kernel panic - not syncing: test\n")
    assert json.loads(child.report(log, "json"))["verdict"]["kind"] == "panic"
    monkeypatch.setattr(child, "MEMORY", 40 << 20)
    with pytest.raises(KdumpError, match="could not be made"):
        child.report(log, "json")
    monkeypatch.undo()
    monkeypatch.setattr(child, "TIME", 0.05)
    began = time.monotonic()
    with pytest.raises(KdumpError, match="longer than"):
        child.report(log, "json")
    assert time.monotonic() - began < 10
