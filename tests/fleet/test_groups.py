"""What people decide about groups, with an audit; a new version of the signature loses none of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.fleet.client import Client
from tests.fleet.evidence import crash, log_text, report_of

from kdump.errors import UsageError
from kdump.fleet import groups
from kdump.report import signature as signatures


def two_groups(client: Client) -> tuple[int, int]:
    one = client.crash(crash("web1", 1)).json()["group"]
    client.crash(crash("web2", 1))
    other = client.crash(crash("web1", 2, "list")).json()["group"]
    client.sweep()
    return one, other


def row(client: Client, group: int) -> dict[str, Any]:
    with client.service.database.read() as session:
        return groups.found(session, group)


def test_a_merge_moves_everything_and_is_remembered(client: Client) -> None:
    one, other = two_groups(client)
    client.form(f"/groups/{one}", owner="net team", fixed_in="6.1.120")
    assert client.form(f"/groups/{one}/merge", into=str(other)).status_code == 303
    merged = row(client, other)
    assert (merged["crashes"], merged["hosts"], merged["owner"]) == (3, 2, "net team")
    assert row(client, one)["status"] == "merged"
    # The next crash of the merged signature belongs to the target.
    answer = client.crash(crash("web3", 1)).json()
    assert answer["group"] == other
    assert answer["fixed_in"] == "6.1.120"
    client.sweep()
    assert row(client, other)["crashes"] == 4
    page = client.get(f"/groups/{other}").text
    assert "merge" in page
    with client.service.database.read() as session:
        assert session.value("SELECT SUM(crashes) AS n FROM days") == 4
    assert client.form(f"/groups/{one}/merge", into=str(other)).status_code == 400


def test_a_split_takes_signatures_out_again(client: Client) -> None:
    one, other = two_groups(client)
    client.form(f"/groups/{one}/merge", into=str(other))
    signature = report_of("softlockup")["verdict"]["signature"]
    answer = client.form(f"/groups/{other}/split", signature=signature)
    assert answer.status_code == 303
    new = int(answer.headers["location"].rpartition("/")[2])
    assert row(client, new)["crashes"] == 2
    assert row(client, other)["crashes"] == 1
    assert row(client, new)["title"] == report_of("softlockup")["verdict"]["title"]
    assert client.crash(crash("web9", 1)).json()["group"] == new
    assert client.form(f"/groups/{new}/split", signature=signature).status_code == 400  # all of it is no split


def test_forms_of_another_site_are_refused(client: Client) -> None:
    one, _ = two_groups(client)
    answer = client.request("POST", f"/groups/{one}", data={"key": "guessed", "owner": "nobody"})
    assert answer.status_code == 403
    assert row(client, one)["owner"] == ""


@pytest.mark.parametrize(
    ("field", "value"), [("status", "gone"), ("link", "javascript:alert(1)"), ("collect", "99"), ("origin", "x")]
)
def test_values_that_cannot_be_are_refused(client: Client, field: str, value: str) -> None:
    one, _ = two_groups(client)
    before = row(client, one)
    with pytest.raises(UsageError):
        client.service.database.run(lambda session: groups.edit(session, one, "me", field, value))
    assert row(client, one) == before


def test_collect_more_asks_for_every_dump_at_that_level(client: Client) -> None:
    one, _ = two_groups(client)
    client.form(f"/groups/{one}", collect="1")
    for number in range(12):
        want = client.crash(crash(f"db{number}", 1)).json()["want"]
        assert (want["dump"], want["level"]) == (True, 1)
    client.form(f"/groups/{one}", collect="", status="ignored")
    assert not client.crash(crash("db99", 1)).json()["want"]["dump"]


def test_an_unsigned_crash_is_put_into_a_group_by_hand(client: Client) -> None:
    one, _ = two_groups(client)
    envelope = crash("web7")
    envelope["report"] = {**report_of("softlockup"), "verdict": {"kind": "none", "title": "", "signature": ""}}
    number = client.crash(envelope).json()["id"]
    client.sweep()
    assert client.form(f"/crashes/{number}/adopt", into=str(one)).status_code == 303
    assert row(client, one)["crashes"] == 3
    with client.service.database.read() as session:
        assert session.value("SELECT SUM(crashes) AS n FROM days") == 4


def test_stacks_are_compared_from_the_inside_out() -> None:
    stack = list("abcdefgh")
    assert groups.similarity(stack, stack) == pytest.approx(1)
    assert groups.similarity(stack, list("zyxwvuts")) == 0
    assert groups.similarity(stack, list("abcdefgz")) > groups.similarity(stack, list("zbcdefgh")) > 0.5
    assert groups.similarity([], stack) == 0


def test_a_new_signature_version_keeps_what_people_decided(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = two_groups(client)
    client.form(f"/groups/{one}", owner="me", fixed_in="6.1.120")
    version = signatures.VERSION + 1

    def next_version(envelope: bytes) -> Any:
        from kdump.fleet import evidence

        known = evidence.opened(envelope)
        report = json.loads(json.dumps(report_of("softlockup" if known["log"] == log_text("softlockup") else "list")))
        _, _, digest = report["verdict"]["signature"].partition("-")
        report["verdict"]["signature"] = f"{version}-{digest}"
        return evidence.read(evidence.compose(known["manifest"], json.dumps(report).encode(), ""))

    monkeypatch.setattr(groups, "signed_again", next_version)
    database = client.service.database
    assert groups.regroup_all(database, str(version), lambda: True)  # told to end before it began
    assert groups.regroup_all(database, str(version))
    assert not groups.regroup_all(database, str(version))
    assert (row(client, one)["crashes"], row(client, one)["owner"]) == (2, "me")
    assert row(client, other)["crashes"] == 1
    with client.service.database.read() as session:
        assert session.value("SELECT COUNT(*) AS n FROM groups") == 2
        found = {each["signature"]: each["grp"] for each in session.all("SELECT signature, grp FROM signatures")}
    assert sum(key.startswith(f"{version}-") for key in found) == 2
    assert set(found.values()) == {one, other}
