"""s3:// against a real S3 server (SeaweedFS), and through a proxy that fails as networks do."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from tests.targets.servers import Weed, certificate, client_of, free_port, take_large_answers, weed
from tests.targets.test_file import ground

from kdump.errors import KdumpError
from kdump.targets import s3http, target_for
from kdump.targets.https import Answer
from kdump.targets.protocol import Session, Spec
from kdump.targets.s3 import MINIMUM, PART, S3Session, read_credentials


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with weed(tmp_path_factory.mktemp("weed")) as running:
        yield running


@pytest.fixture(autouse=True)
def large_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    take_large_answers(monkeypatch)


def begin(server: Weed, tmp_path: Path, crash: str = "web1-x", **facts: str) -> Session:
    return target_for(Spec("s3://dumps/lab", {**server.facts, **facts})).open(crash, ground(tmp_path, []))


@pytest.mark.parametrize("gap", [0, 1000, MINIMUM, MINIMUM + 5])
@pytest.mark.parametrize("body", [0, 10, MINIMUM, MINIMUM + PART, 2 * PART + MINIMUM + 7])
def test_an_object_arrives_whole(server: Weed, tmp_path: Path, gap: int, body: int) -> None:
    head, data = os.urandom(gap), os.urandom(body)
    session = begin(server, tmp_path, f"web1-{gap}-{body}")
    stream = session.create("vmcore")
    stream.skip(gap)
    for at in range(0, body, 3 << 20):
        stream.write(data[at : at + (3 << 20)])
    stream.pwrite(head, 0)
    stream.seal()
    session.close()
    assert client_of(server).request("GET", f"lab/web1-{gap}-{body}/vmcore").body == head + data


def test_an_abort_leaves_nothing(server: Weed, tmp_path: Path) -> None:
    session = begin(server, tmp_path, "web1-aborted")
    stream = session.create("vmcore")
    stream.write(bytes(3 * PART))
    stream.abort()
    session.close()
    with pytest.raises(KdumpError, match="404"):
        client_of(server).request("GET", "lab/web1-aborted/vmcore")
    listing = client_of(server).request("GET", "", {"uploads": ""}).body
    assert b"web1-aborted" not in listing


def test_the_check_leaves_nothing(server: Weed) -> None:
    spec = target_for(Spec("s3://dumps/lab", server.facts)).check()
    assert spec.facts["addresses"] == "127.0.0.1"
    with pytest.raises(KdumpError, match="404"):
        client_of(server).request("GET", "lab/.kdump-check")


def test_wrong_credentials(server: Weed, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('access_key_id = "kdump"\nsecret_access_key = "wrong"\n')
    wrong.chmod(0o600)
    session = begin(server, tmp_path, credentials=str(wrong))
    with pytest.raises(KdumpError, match="403") as caught:
        session.create("vmcore").write(bytes(MINIMUM + PART))
    assert "wrong" not in str(caught.value).replace("wrong.toml", "")


def test_tls_with_a_certificate_that_is_known_and_with_one_that_is_not(tmp_path: Path) -> None:
    with weed(tmp_path / "tls", tls_for="10.0.2.2") as running:
        data = os.urandom(MINIMUM + PART + 9)
        session = begin(running, tmp_path, "web1-tls")
        stream = session.create("vmcore")
        stream.write(data)
        stream.seal()
        session.close()
        assert client_of(running).request("GET", "lab/web1-tls/vmcore").body == data
        target_for(Spec("s3://dumps/lab", running.facts)).check()
        (tmp_path / "other").mkdir()
        stranger = certificate(tmp_path / "other", "127.0.0.1")
        wrong_name = f"https://localhost:{running.port}"
        for facts in ({"ca_file": str(stranger)}, {"endpoint": wrong_name, "addresses": "127.0.0.1"}):
            with pytest.raises(KdumpError, match="certificate verify failed"):
                begin(running, tmp_path, "web1-refused", **facts)


def test_a_service_that_is_slow_is_waited_for_and_one_that_hangs_is_not(
    flaky: Weed, server: Weed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3http, "_TIMEOUT", 1.0)
    session = begin(flaky, tmp_path, "web1-slow")
    stream = session.create("vmcore")
    Flaky.failing = ["slow"] * 3
    stream.write(bytes(MINIMUM + PART))
    stream.seal()
    assert client_of(server).request("GET", "lab/web1-slow/vmcore").body == bytes(MINIMUM + PART)
    stream = session.create("report")
    Flaky.failing = ["hang"] * 20
    began = time.monotonic()
    with pytest.raises(KdumpError, match="does not answer"):
        stream.write(bytes(MINIMUM + PART))
    assert time.monotonic() - began < 10
    Flaky.failing = []


def test_credentials_that_others_may_read(tmp_path: Path) -> None:
    path = tmp_path / "s3.toml"
    path.write_text('access_key_id = "kdump"\n')
    path.chmod(0o644)
    with pytest.raises(KdumpError, match="may be read by others"):
        read_credentials(str(path))
    path.chmod(0o600)
    with pytest.raises(KdumpError, match="no secret_access_key"):
        read_credentials(str(path))


class Flaky(BaseHTTPRequestHandler):
    """Passes requests on to the server, after `failing` has said what goes wrong with the next ones."""

    failing: ClassVar[list[str]] = []
    upstream = 0
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        fault = self.failing.pop(0) if self.failing else ""
        if fault in ("slow", "hang"):
            time.sleep(0.5 if fault == "slow" else 2.0)
            fault = "drop" if fault == "hang" else ""
        if fault == "drop":
            self.close_connection = True
            return
        if fault:
            self.send_response(int(fault))
            self.send_header("content-length", "0")
            self.end_headers()
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstream)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = handle_any

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def flaky(server: Weed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Weed]:
    monkeypatch.setattr(s3http, "_FIRST_PAUSE", 0.01)
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    Flaky.upstream, Flaky.failing = server.port, []
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    yield Weed(proxy.server_port, server.directory)
    proxy.shutdown()
    proxy.server_close()


@pytest.mark.parametrize("faults", [["503"], ["500", "drop", "503"], ["drop", "drop", "drop"]])
def test_passing_failures_are_ridden_out(flaky: Weed, server: Weed, tmp_path: Path, faults: list[str]) -> None:
    data = os.urandom(MINIMUM + PART + 5)
    session = begin(flaky, tmp_path, "web1-flaky")
    stream = session.create("vmcore")
    Flaky.failing = [*faults]
    stream.write(data)
    Flaky.failing = [*faults]
    stream.seal()
    session.close()
    assert client_of(server).request("GET", "lab/web1-flaky/vmcore").body == data


def test_a_service_that_stays_broken(flaky: Weed, tmp_path: Path) -> None:
    session = begin(flaky, tmp_path)
    Flaky.failing = ["503"] * 20
    with pytest.raises(KdumpError, match="HTTP 503"):
        session.create("vmcore").write(bytes(MINIMUM + PART))


def test_nobody_listens(server: Weed, tmp_path: Path) -> None:
    with pytest.raises(KdumpError, match="cannot be reached"):
        begin(server, tmp_path, endpoint=f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(("url", "facts"), [("s3://", {}), ("s3://Bad_Bucket/x", {}), ("s3://b!/x", {})])
def test_urls_that_cannot_work(url: str, facts: dict[str, str]) -> None:
    with pytest.raises(KdumpError, match="bucket"):
        target_for(Spec(url, facts))


def test_parts_grow_so_that_their_number_is_enough() -> None:
    class Counting:
        """Stands in for a service: only the sizes of the parts matter here."""

        sizes: ClassVar[list[int]] = []

        def request(self, method: str, key: str, query: object = None, body: bytes = b"") -> Answer:
            self.sizes.append(len(body))
            return Answer(200, {"etag": "x"}, b"<UploadId>1</UploadId>")

    counting = Counting()
    stream = S3Session(counting, "p", "s3://b").create("vmcore")  # type: ignore[arg-type]
    stream._parts = dict.fromkeys(range(2, 1002), "")  # type: ignore[attr-defined]
    stream.write(bytes(MINIMUM + 2 * PART))
    assert counting.sizes == [0, 2 * PART]
