"""The capture kernel's side of a collector, against a real one: the report first, the dump if it is wanted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fleet.evidence import log_text, report_of
from tests.fleet.process import Collector, token_file
from tests.targets.servers import Weed, weed
from tests.targets.test_file import ground

from kdump.errors import KdumpError
from kdump.targets import target_for
from kdump.targets.collector import ANSWER, CollectorSession
from kdump.targets.protocol import Spec
from kdump.targets.s3 import MINIMUM, PART

MANIFEST = json.dumps({"status": "incomplete", "kernel": {"release": "6.1.0-1-amd64", "build_id": "ab"}}).encode()


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with Collector(tmp_path_factory.mktemp("collector") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with weed(tmp_path_factory.mktemp("weed")) as running:
        yield running


@pytest.fixture(scope="module")
def bucket_collector(bucket: Weed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    keys = {"AWS_ACCESS_KEY_ID": "kdump", "AWS_SECRET_ACCESS_KEY": "a secret of the tests"}
    store = f"s3://dumps/fleet?endpoint={bucket.endpoint}"
    data = tmp_path_factory.mktemp("bucket") / "data"
    with Collector(data, store=store, environment=keys) as running:
        yield running


def begin(
    collector: Collector, directory: Path, crash: str, host: str = "web1", as_host: str = "", **facts: str
) -> CollectorSession:
    token = token_file(directory, collector.token(host))
    spec = Spec(f"collector+{collector.url}", {"token": str(token), "host": as_host or host, **facts})
    session = target_for(target_for(spec).check()).open(crash, ground(directory, []))
    assert isinstance(session, CollectorSession)
    return session


def put(session: CollectorSession, name: str, content: bytes) -> None:
    stream = session.create(name)
    stream.write(content)
    stream.seal()


def report(session: CollectorSession, log: str = "softlockup") -> str:
    put(session, "vmcore-dmesg.txt", log_text(log).encode())
    put(session, "report.txt", b"not sent")
    put(session, "report.json", json.dumps(report_of(log)).encode())
    return session.decide(MANIFEST)


@pytest.mark.parametrize("which", ["collector", "bucket_collector"])
@pytest.mark.parametrize("body", [0, 10, MINIMUM, 2 * PART + MINIMUM + 7])
def test_a_dump_that_is_wanted_arrives_whole(
    request: pytest.FixtureRequest, which: str, body: int, tmp_path: Path
) -> None:
    running: Collector = request.getfixturevalue(which)
    name = f"web1-20261129T120000Z-{body:x}"
    session = begin(running, tmp_path, name, dump="always")
    assert report(session) == ""
    head, data = os.urandom(5000), os.urandom(body)
    stream = session.create("vmcore")
    stream.skip(len(head))
    for at in range(0, body, 3 << 20):
        stream.write(data[at : at + (3 << 20)])
    stream.pwrite(head, 0)
    stream.seal()
    put(session, "manifest.json", json.dumps({"crash": name, "host": "web1", "status": "complete"}).encode())
    put(session, "capture.log", b"what the capture said")
    session.close()
    number = session.answer["id"]
    found = running.get(f"/api/crashes/{number}")
    assert found["crash"]["status"] == "complete"
    assert found["crash"]["signature"] == report_of("softlockup")["verdict"]["signature"]
    assert {each["name"]: each["size"] for each in found["files"]} == {"vmcore": len(head) + body, "capture.log": 21}
    import httpx

    stored = httpx.get(f"{running.url}/crashes/{number}/files/vmcore", timeout=60).content
    assert hashlib.sha256(stored).digest() == hashlib.sha256(head + data).digest()


def test_a_known_crash_is_told_so(collector: Collector, tmp_path: Path) -> None:
    answers = []
    for number in range(12):
        session = begin(collector, tmp_path, f"db{number}-20261129T120000Z-0001", f"db{number}")
        began = time.monotonic()
        answers.append(report(session, "list"))
        assert time.monotonic() - began < ANSWER
        session.close()
    assert answers[:10] == [""] * 10
    assert all(answer.startswith("known: list_del corruption") for answer in answers[10:])


def test_a_lower_level_is_taken_only_where_the_host_allows_it(collector: Collector, tmp_path: Path) -> None:
    session = begin(collector, tmp_path, "web5-x", "web5", least_level="16")
    session.answer = {"want": {"dump": True, "level": 1}}
    assert session.level(31) == 16
    assert session.level(8) == 8
    session.answer = {"want": {"dump": True, "level": "1"}}
    assert session.level(31) == 31
    session.close()


def test_the_wrong_token_is_found_on_the_healthy_host(collector: Collector, tmp_path: Path) -> None:
    with pytest.raises(KdumpError, match="is for the host 'web1'"):
        begin(collector, tmp_path, "x", "web1", as_host="web2")
    path = tmp_path / "collector.token"
    path.write_text("kf1.web1.0000")
    with pytest.raises(KdumpError, match="401"):
        target_for(Spec(f"collector+{collector.url}", {"token": str(path), "host": "web1"})).check()
    path.chmod(0o644)
    with pytest.raises(KdumpError, match="read by others"):
        target_for(Spec(f"collector+{collector.url}", {"token": str(path), "host": "web1"})).check()


@pytest.mark.parametrize("how", ["silent", "garbage", "closes", "drips"])
def test_a_collector_that_does_not_answer_is_given_up_soon(how: str, tmp_path: Path) -> None:
    token = token_file(tmp_path, "kf1.*.00")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        stop = threading.Event()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                if how != "silent":
                    connection.recv(1 << 20)
                if how == "garbage":
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
                with contextlib.suppress(OSError):
                    while how == "drips" and not stop.wait(0.2):
                        connection.sendall(b"H")
                if how == "silent":
                    stop.wait(10)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = listening.getsockname()[1]
        spec = Spec(f"collector+http://127.0.0.1:{port}", {"token": str(token), "host": "web1"})
        session = target_for(spec).open("web1-x", ground(tmp_path, []))
        assert isinstance(session, CollectorSession)
        began = time.monotonic()
        with pytest.raises((KdumpError, OSError)):
            session.decide(MANIFEST)
        assert time.monotonic() - began < ANSWER + 1
        stop.set()
        thread.join()


def test_a_collector_that_is_not_there_is_given_up_at_once(tmp_path: Path) -> None:
    token = token_file(tmp_path, "kf1.*.00")
    began = time.monotonic()
    with pytest.raises(KdumpError, match="cannot be reached"):
        target_for(Spec("collector+http://127.0.0.1:9", {"token": str(token)})).open("web1-x", ground(tmp_path, []))
    assert time.monotonic() - began < ANSWER
