"""After a crash: verified, reported, announced once; with a real HTTP server and real programs."""

from __future__ import annotations

import hashlib
import json
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from kdump.host import aftermath, notify
from kdump.host.config import Config, Notify, Retention

LOG = "[1.0] BUG: kernel NULL pointer dereference, address: 0000000000000040\n[1.1] Kernel panic - not syncing: Fatal\n"


def crash(place: Path, name: str = "h-20261123T120000Z-0001", status: str = "complete") -> Path:
    path = place / name
    path.mkdir(parents=True)
    (path / "vmcore-dmesg.txt").write_text(LOG)
    entry = {
        "name": "vmcore-dmesg.txt",
        "size": len(LOG),
        "sha256": hashlib.sha256(LOG.encode()).hexdigest(),
    }
    content = {"format": "kdump-manifest/1", "status": status, "host": "h", "panic_time": 1000, "files": [entry]}
    (path / "manifest.json").write_text(json.dumps(content))
    return path


class Server(HTTPServer):
    status = 200
    bodies: list[bytes]


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert isinstance(self.server, Server)
            self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(self.server.status)
            if 300 <= self.server.status < 400:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            """Keep quiet."""

    running = Server(("127.0.0.1", 0), Handler)
    running.bodies = []
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_new_crash_is_announced_once(tmp_path: Path, server: Server) -> None:
    crash(tmp_path / "crash")
    got = tmp_path / "got.json"
    command = ("/bin/sh", "-c", f"cat > {got}")
    url = f"http://token@127.0.0.1:{server.server_port}/hook/secret"
    config = Config(
        targets=(f"file://{tmp_path}/crash",),
        notify=Notify(command=command, webhook=f"http://127.0.0.1:{server.server_port}/hook/secret"),
        retention=Retention(keep=0, min_free=0),
    )
    (first,) = aftermath.deal_with_new(config, tmp_path / "state")
    assert first.good
    assert first.told == ("command /bin/sh", f"webhook 127.0.0.1:{server.server_port}")
    assert json.loads(got.read_text()) == json.loads(server.bodies[0])
    assert json.loads(server.bodies[0])["title"] == first.crash.title != ""
    assert list(aftermath.deal_with_new(config, tmp_path / "state")) == []
    assert "secret" not in str(notify._host(url))


def test_a_changed_file_is_found_and_a_failed_notification_is_tried_again(tmp_path: Path, server: Server) -> None:
    path = crash(tmp_path / "crash")
    (path / "vmcore-dmesg.txt").write_text(LOG.replace("NULL", "null"))
    server.status = 500
    config = Config(
        targets=(f"file://{tmp_path}/crash",), notify=Notify(webhook=f"http://127.0.0.1:{server.server_port}/x")
    )
    (first,) = aftermath.deal_with_new(config, tmp_path / "state")
    assert first.problems == ("vmcore-dmesg.txt has been changed",)
    assert "answered 500" in first.not_told[0]
    server.status = 200
    (second,) = aftermath.deal_with_new(config, tmp_path / "state")
    assert second.told
    assert not second.good


def test_failures_say_why(tmp_path: Path) -> None:
    config = Notify(command=("/nonexistent",), webhook="ftp://x/y", mail="ops@example.net")
    notified = dict(notify.notify(config, {"host": "h", "title": "t"}))
    assert "did not run" in notified["command /nonexistent"]
    assert "not an http://" in notified["webhook x"]
    failing = dict(notify.notify(Notify(command=("/bin/sh", "-c", "echo why >&2; exit 4")), {}))
    assert "status 4: why" in failing["command /bin/sh"]
    closed = dict(notify.notify(Notify(webhook="http://127.0.0.1:1/x"), {}))
    assert "cannot be reached" in closed["webhook 127.0.0.1:1"]


def test_a_webhook_that_moved_was_not_told(server: Server) -> None:
    for status in (301, 302, 303, 307, 308):
        server.status = status
        (said,) = dict(notify.notify(Notify(webhook=f"http://127.0.0.1:{server.server_port}/x"), {})).values()
        assert f"answered {status}" in said and "name the new address" in said


def test_mail_goes_to_sendmail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sendmail = tmp_path / "sendmail"
    sendmail.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/args\ncat > {tmp_path}/message\n")
    sendmail.chmod(sendmail.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(notify, "SENDMAIL", (str(sendmail),))
    notify.mail("ops@example.net", {"host": "h", "title": "BUG\nBcc: evil@example.net", "problems": []})
    message = (tmp_path / "message").read_text()
    assert "Subject: [kdump] h: BUG\\x0aBcc: evil@example.net" in message
    assert (tmp_path / "args").read_text().split() == ["-t", "-i"]


def test_an_incomplete_crash_is_dealt_with_but_not_good(tmp_path: Path) -> None:
    crash(tmp_path, status="incomplete")
    (found,) = aftermath.deal_with_new(Config(targets=(f"file://{tmp_path}",)), tmp_path / "state")
    assert not found.good
    assert found.problems == ()
