"""Crashes come in: each once, each with its group and an answer, on both engines."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.fleet.client import Client
from tests.fleet.conftest import Opened
from tests.fleet.evidence import crash, log_text, packed, report_of

from kdump.fleet import evidence
from kdump.fleet.schema import MIGRATIONS, migrate


def test_a_crash_becomes_a_row_a_group_and_a_page(client: Client) -> None:
    first = client.crash(crash("web1", 1))
    assert first.status_code == 201
    answer = first.json()
    assert not answer["known"]
    assert answer["want"]["dump"]
    second = client.crash(crash("web2", 1)).json()
    assert second["known"]
    assert second["group"] == answer["group"]
    other = client.crash(crash("web1", 2, "list")).json()
    assert other["group"] != answer["group"]
    assert client.sweep() == 3
    page = client.get("/").text
    assert page.count('href="/groups/') == 2
    title = report_of("softlockup")["verdict"]["title"]
    assert title in page
    group = client.get(f"/groups/{answer['group']}").text
    assert "web1" in group
    assert "web2" in group
    assert report_of("softlockup")["verdict"]["signature"] in group


def test_a_replay_changes_nothing(client: Client) -> None:
    answer = client.crash(crash()).json()
    again = client.crash(crash())
    assert again.status_code == 200
    assert again.json() == {**answer, "again": True, "known": True}
    client.sweep()
    client.crash(crash())
    assert client.sweep() == 0
    with client.service.database.read() as session:
        assert session.value("SELECT COUNT(*) AS n FROM crashes") == 1
        assert session.value("SELECT crashes FROM groups") == 1
        assert session.value("SELECT asked FROM asks") == 1


def test_many_at_once_are_counted_once_each(client: Client) -> None:
    requests: list[dict[str, Any]] = []
    for host in range(40):
        for copy in range(2):
            envelope = crash(f"web{host}", 1, "softlockup" if host % 2 else "list")
            headers = client.token(f"web{host}") | {"Content-Encoding": "zstd"}
            requests.append({"method": "POST", "url": "/v1/crashes", "content": packed(envelope), "headers": headers})
            del copy
    answers = [each.json() for each in client.together(requests)]
    assert sum(not each["again"] for each in answers) == 40
    assert len({each["group"] for each in answers}) == 2
    assert client.sweep() == 40
    with client.service.database.read() as session:
        assert [row["crashes"] for row in session.all("SELECT crashes FROM groups")] == [20, 20]
        assert [row["hosts"] for row in session.all("SELECT hosts FROM groups")] == [20, 20]
        assert session.value("SELECT SUM(crashes) AS n FROM days") == 40


def test_only_the_first_dumps_are_wanted(client: Client) -> None:
    answers = [client.crash(crash(f"web{host}", 1, kernel="6.1.0-1-amd64")).json() for host in range(14)]
    wanted = [each["want"]["dump"] for each in answers]
    # Three by rule, and up to ten while the group is new.
    assert wanted == [True] * 10 + [False] * 4
    other_build = client.crash(crash("web99", 1, kernel="6.1.0-2-amd64")).json()
    assert other_build["want"]["dump"]


def test_a_log_without_a_report_is_read_by_a_worker(client: Client) -> None:
    answer = client.crash(crash(with_report=False)).json()
    assert answer["group"] is None
    assert answer["want"]["dump"]
    client.crash(crash("web2"))
    client.sweep()
    with client.service.database.read() as session:
        rows = session.all("SELECT signature, grp, todo, state, problem FROM crashes ORDER BY id")
    assert rows[0]["signature"] == rows[1]["signature"] == report_of("softlockup")["verdict"]["signature"]
    assert rows[0]["grp"] == rows[1]["grp"]
    assert {row["state"] for row in rows} == {1}


def test_a_crash_without_a_signature_stands_alone(client: Client) -> None:
    for host in ("web1", "web2"):
        envelope = crash(host)
        envelope["report"] = {**report_of("softlockup"), "verdict": {"kind": "none", "title": "", "signature": ""}}
        answer = client.crash(envelope).json()
        assert answer["group"] is None
        assert answer["want"]["dump"]
    client.sweep()
    assert client.get("/crashes?unsigned=1").text.count("no signature") == 2
    with client.service.database.read() as session:
        assert session.value("SELECT COUNT(*) AS n FROM groups") == 0


def test_a_token_is_good_for_its_host_only(client: Client) -> None:
    assert client.crash(crash("web1"), host="web2").status_code == 403
    assert client.crash(crash("web1"), host="*").status_code == 201
    wrong = client.request(
        "POST", "/v1/crashes", content=packed(crash()), headers={"Authorization": "Bearer kf1.web1.00"}
    )
    assert wrong.status_code == 401
    assert client.request("GET", "/v1/crashes", headers=client.token("*")).status_code == 405


def test_a_revoked_token_is_refused(client: Client) -> None:
    from kdump.fleet import auth

    token = client.service.keys.token("web1")
    client.service.database.run(lambda session: auth.revoke(session, token))
    assert client.crash(crash("web1")).status_code == 401
    assert client.crash(crash("web2")).status_code == 201


def test_a_host_that_reports_too_often_is_slowed_down(client: Client) -> None:
    codes = [client.crash(crash("web1", number)).status_code for number in range(80)]
    assert codes[:60] == [201] * 60
    assert 429 in codes[60:]
    assert client.crash(crash("web2")).status_code == 201


@pytest.mark.parametrize(
    ("body", "coding", "status"),
    [
        (b"", "", 400),
        (b"[]", "", 400),
        (b'{"manifest": {}}', "", 400),
        (b'{"manifest": {"host": "../../etc", "crash": "x"}}', "", 400),
        (b'{"manifest": {"host": "web1", "crash": "../x"}}', "", 400),
        (b"[" * 100_000, "", 400),
        (b'{"manifest": {"host": "web1", "crash": "x", "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}", "", 400),
        (b"not zstd", "zstd", 400),
        (packed({"manifest": {"host": "web1", "crash": "x"}, "log": "a" * (40 << 20)}), "zstd", 413),
        (b"x" * (9 << 20), "", 413),
        (b"{}", "gzip", 415),
        (b'{"manifest": {"host": "web1", "crash": "x"}, "report": {"verdict": {"title": "\xff"}}}', "", 400),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else str(value),
)
def test_bad_bodies_are_refused(client: Client, body: bytes, coding: str, status: int) -> None:
    headers = client.token("*") | ({"Content-Encoding": coding} if coding else {})
    answer = client.request("POST", "/v1/crashes", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]


def test_a_frame_that_lies_about_its_size_is_bounded() -> None:
    import zstandard

    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    bomb = compressor.compress(bytes(200 << 20)) + compressor.flush()
    with pytest.raises(evidence.RefusedError) as caught:
        evidence.unpack(bomb, "zstd")
    assert caught.value.status == 413


def test_hostile_text_stays_text(client: Client) -> None:
    envelope = crash()
    envelope["report"] = json.loads(json.dumps(report_of("softlockup")))
    evil = "<script>alert(1)</script>\"'>\u0000\u202e\n"
    envelope["report"]["verdict"] |= {"title": evil, "kind": evil, "module": evil}
    envelope["report"]["sections"] = {
        evil: {"title": evil, "facts": {evil: evil}, "table": [{evil: evil}], "text": [evil]}
    }
    envelope["report"]["findings"] = [{"severity": evil, "text": evil}]
    number = client.crash(envelope).json()["id"]
    client.sweep()
    for path in ("/", "/groups/1", f"/crashes/{number}", "/crashes", "/hosts/web1", "/alerts", "/search?q=script"):
        page = client.get(path)
        assert page.status_code == 200
        assert page.text.count("<script") == page.text.count('<script src="/static/htmx.min.js?') == 1  # ours
        assert "\u202e" not in page.text
        assert "unsafe" not in page.headers["content-security-policy"]
        assert "script-src 'self';" in page.headers["content-security-policy"]


def test_clocks_that_are_wrong_are_not_believed() -> None:
    now = 1_800_000_000.0
    for said in (0, 1, -5, now + 3 * 86400, 1e18, now - 40 * 366 * 86400):
        envelope = crash()
        envelope["manifest"]["panic_time"] = said
        assert evidence.read(json.dumps(envelope).encode(), now).crashed == now
    envelope["manifest"]["panic_time"] = now - 60
    assert evidence.read(json.dumps(envelope).encode(), now).crashed == now - 60


def test_migrations_are_applied_once(opened: Opened) -> None:
    service = opened()
    assert migrate(service.database) == 0
    with service.database.read() as session:
        assert session.value("SELECT MAX(number) AS n FROM migrations") == len(MIGRATIONS)


def test_the_log_is_kept_as_it_came(client: Client) -> None:
    number = client.crash(crash()).json()["id"]
    assert client.get(f"/crashes/{number}/log").text == log_text("softlockup")
