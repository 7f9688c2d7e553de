"""Alerts: decided once, sent once, tried again where that is safe."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fleet.client import Client
from tests.fleet.evidence import crash

from kdump.errors import UsageError
from kdump.fleet import alerts


class Receiver(http.server.ThreadingHTTPServer):
    """Takes what is posted; `mood` says how it answers."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Any]] = []
        self.mood = "good"
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.mood != "refuses":
            self.server.got.append((self.headers.get("Idempotency-Key", ""), body))
        if self.server.mood == "hangs up":
            self.connection.close()
            return
        self.send_response(500 if self.server.mood == "refuses" else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()


def channel(client: Client, *wanted: dict[str, str]) -> None:
    client.service.database.run(lambda session: alerts.set_channels(session, list(wanted)))


def states(client: Client) -> list[str]:
    with client.service.database.read() as session:
        return [row["state"] for row in session.all("SELECT state FROM outbox WHERE channel <> '' ORDER BY id")]


def due_now(client: Client) -> None:
    client.service.database.run(lambda session: session.execute("UPDATE outbox SET due = 0 WHERE state = 'due'"))


def test_a_new_group_is_told_once(client: Client, receiver: Receiver) -> None:
    channel(client, {"name": "hook", "kind": "webhook", "url": receiver.url})
    for host in range(5):
        client.crash(crash(f"web{host}"))
        client.sweep()
    assert alerts.deliver(client.service.database, "https://fleet") == 1
    assert alerts.deliver(client.service.database) == 0
    ((once, body),) = receiver.got
    assert once.startswith("new:")
    assert body["kind"] == "new"
    assert "https://fleet/groups/" in body["text"]
    assert states(client) == ["sent"]


def test_a_refusal_is_tried_again(client: Client, receiver: Receiver) -> None:
    channel(client, {"name": "hook", "kind": "webhook", "url": receiver.url})
    receiver.mood = "refuses"
    client.crash(crash())
    client.sweep()
    assert alerts.deliver(client.service.database) == 0
    assert states(client) == ["due"]
    receiver.mood = "good"
    assert alerts.deliver(client.service.database) == 0  # later, not at once
    due_now(client)
    assert alerts.deliver(client.service.database) == 1
    assert len(receiver.got) == 1


def test_what_may_have_arrived_is_not_sent_again(client: Client, receiver: Receiver) -> None:
    channel(client, {"name": "hook", "kind": "webhook", "url": receiver.url})
    receiver.mood = "hangs up"
    client.crash(crash())
    client.sweep()
    alerts.deliver(client.service.database)
    due_now(client)
    alerts.deliver(client.service.database)
    assert len(receiver.got) == 1
    assert states(client) == ["unsure"]
    assert "unsure" in client.get("/alerts").text


def test_a_receiver_that_knows_duplicates_gets_it_again(client: Client, receiver: Receiver) -> None:
    channel(client, {"name": "am", "kind": "alertmanager", "url": receiver.url})
    receiver.mood = "hangs up"
    client.crash(crash())
    client.sweep()
    alerts.deliver(client.service.database)
    receiver.mood = "good"
    due_now(client)
    assert alerts.deliver(client.service.database) == 1
    assert receiver.got[0] == receiver.got[1]
    assert receiver.got[0][1][0]["labels"]["alertname"] == "kdump_new"


def test_a_sender_that_was_killed_leaves_it_unsure(client: Client, receiver: Receiver) -> None:
    channel(client, {"name": "hook", "kind": "webhook", "url": receiver.url})
    client.crash(crash())
    client.sweep()
    claimed = client.service.database.run(lambda session: alerts._claim(session, time.time()))
    assert claimed is not None
    client.service.database.run(lambda session: session.execute("UPDATE outbox SET due = 0 WHERE state = 'sending'"))
    assert alerts.deliver(client.service.database) == 0
    assert states(client) == ["unsure"]
    assert receiver.got == []


def test_a_fixed_crash_that_is_back_is_a_regression(client: Client) -> None:
    group = client.crash(crash("web1", kernel="6.1.100")).json()["group"]
    client.sweep()
    client.form(f"/groups/{group}", fixed_in="6.1.120, 6.12.41", status="fixed")
    for number, kernel in enumerate(("6.1.119", "6.1.121", "6.1.121", "6.6.1")):
        client.crash(crash(f"db{number}", kernel=kernel))
    client.sweep()
    with client.service.database.read() as session:
        found = session.all("SELECT once FROM outbox WHERE kind = 'regression'")
    assert [row["once"] for row in found] == [f"regression:{group}:6.1.121@"]


def test_many_crashes_in_a_day_are_a_spike(client: Client) -> None:
    for number in range(25):
        client.crash(crash(f"web{number}"))
    client.sweep()
    with client.service.database.read() as session:
        assert session.value("SELECT COUNT(*) AS n FROM outbox WHERE kind = 'spike'") == 1


def test_mail_goes_through_sendmail(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sendmail"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/mail\n")
    program.chmod(0o755)
    channel(client, {"name": "mail", "kind": "mail", "to": "kernel@example.net"})
    monkeypatch.setattr(alerts, "SENDMAIL", str(program))
    client.crash(crash())
    client.sweep()
    assert alerts.deliver(client.service.database) == 1
    mail = (tmp_path / "mail").read_text()
    assert "To: kernel@example.net" in mail
    assert "New crash" in mail


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "x", "kind": "pigeon"},
        {"name": "x", "kind": "mail", "to": "kernel@example.net", "sendmail": "/bin/bash"},
        {"name": "x", "kind": "webhook", "url": "file:///etc/passwd"},
        {"name": "x", "kind": "mail"},
    ],
)
def test_channels_that_cannot_work_are_refused(client: Client, wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        channel(client, wrong)
