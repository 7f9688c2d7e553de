"""Who may see and do what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fleet.client import Client
from tests.fleet.conftest import Opened
from tests.fleet.evidence import crash

from kdump.cli.main import main
from kdump.errors import KdumpError, UsageError
from kdump.fleet import auth

PATHS = {
    "metadata": (
        "/",
        "/groups/1",
        "/crashes",
        "/crashes/1",
        "/hosts",
        "/hosts/web1",
        "/kernels",
        "/alerts",
        "/api/groups",
    ),
    "report": ("/crashes/1/report.json", "/crashes/1/log"),
    "dump": ("/crashes/1/files/vmcore",),
    "admin": ("/admin",),
}


@pytest.fixture
def closed(opened: Opened) -> Iterator[Client]:
    with Client(opened(open_to="none")) as running:
        running.crash(crash("web1"))
        running.sweep()
        headers = running.token("web1")
        name = crash("web1")["manifest"]["crash"]
        url = f"/v1/crashes/{name}/files/vmcore"
        assert running.request("PUT", f"{url}?offset=0", content=b"memory", headers=headers).status_code == 200
        assert running.request("POST", f"{url}/complete", json={"size": 6}, headers=headers).status_code == 200
        yield running


def cookie(client: Client, role: str) -> dict[str, str]:
    import time

    return {"Authorization": "Bearer " + client.service.keys.cookie(auth.Person("someone", role), time.time())}


def test_each_role_sees_what_it_may(closed: Client) -> None:
    for role in ("nobody", *auth.ROLES[1:]):
        headers = {} if role == "nobody" else cookie(closed, role)
        for needed, paths in PATHS.items():
            allowed = role != "nobody" and auth.ROLES.index(role) >= auth.ROLES.index(needed)
            for path in paths:
                answer = closed.get(path, headers=headers)
                assert (answer.status_code == 200) == allowed, (role, path, answer.status_code)
                if not allowed:
                    assert "memory" not in answer.text
                    assert "crash_softlockup" not in answer.text
    rows = closed.get("/crashes/1", headers=cookie(closed, "metadata")).text
    assert "insmod" not in rows  # the report's text is not for this role


def test_a_hosts_token_reads_nothing(closed: Client) -> None:
    for path in ("/", "/crashes/1/log", "/api/groups", "/v1/crashes/1", "/v1/groups"):
        assert closed.get(path, headers=closed.token("web1")).status_code in (303, 401, 404, 405)


def test_a_dump_that_was_fetched_is_noted(closed: Client) -> None:
    assert closed.get("/crashes/1/files/vmcore", headers=cookie(closed, "dump")).content == b"memory"
    with closed.service.database.read() as session:
        assert session.value("SELECT who FROM audit WHERE what = 'fetched'") == "someone"


def test_signing_in_and_out(closed: Client) -> None:
    closed.service.database.run(lambda session: auth.set_person(session, "ann", "correct horse", "engineer"))
    wrong = closed.request("POST", "/sign-in", data={"name": "ann", "password": "wrong horse"})
    assert wrong.status_code == 403
    assert "set-cookie" not in wrong.headers
    right = closed.request(
        "POST", "/sign-in", data={"name": "ann", "password": "correct horse", "next": "//evil.example"}
    )
    assert right.status_code == 303
    assert right.headers["location"] == "/"
    assert "HttpOnly" in right.headers["set-cookie"]
    value = right.headers["set-cookie"].partition("=")[2].partition(";")[0]
    assert "Sign out ann" in closed.get("/", headers={"Cookie": f"{auth.COOKIE}={value}"}).text
    forged = value[:-4] + "0000"
    assert closed.get("/", headers={"Cookie": f"{auth.COOKIE}={forged}"}).status_code == 303


def test_cookies_end(closed: Client) -> None:
    keys = closed.service.keys
    value = keys.cookie(auth.Person("ann", "admin"), 1000.0)
    assert keys.person_of(value, 1001.0).name == "ann"
    assert keys.person_of(value, 1001.0 + auth.SESSION) == auth.NOBODY
    for bad in ("", ".", "a.b", "é.x", "x" * 5000):
        assert keys.person_of(bad, 1001.0) == auth.NOBODY


def test_weak_accounts_are_refused(closed: Client) -> None:
    for name, password, role in (
        ("", "long enough password", "admin"),
        ("a", "short", "admin"),
        ("a", "long enough", "king"),
        ("a", "x" * 1025, "admin"),
        ("a", "two lines\nof text", "admin"),
        ("a\x1b[31m", "long enough", "admin"),
        ("a\udcff", "long enough", "admin"),
    ):
        with pytest.raises(UsageError):
            closed.service.database.run(lambda s, n=name, p=password, r=role: auth.set_person(s, n, p, r))  # type: ignore[misc]
    with pytest.raises(KdumpError):
        closed.service.database.run(lambda session: auth.sign_in(session, "nobody", "x"))


def test_the_longest_password_is_good(closed: Client) -> None:
    closed.service.database.run(lambda session: auth.set_person(session, "ann", "x" * 1024, "admin"))
    closed.service.database.run(lambda session: auth.sign_in(session, "ann", "x" * 1024))


def test_only_a_token_of_this_fleet_is_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--data", str(tmp_path / "data")]

    def made(*arguments: str) -> str:
        assert main(["fleet", "token", *place, *arguments]) == 0
        return capsys.readouterr().out.strip()

    for token in (made("web1"), made(), made("--reader", "dump", "ann")):
        assert main(["fleet", "token", *place, "--revoke", token]) == 0
        for wrong in (token[:-1], token + "0", token.partition(".")[2], "x", "\udcff." + token):
            assert main(["fleet", "token", *place, "--revoke", wrong]) == 1
            assert "nothing was revoked" in capsys.readouterr().err
    other = ["--data", str(tmp_path / "other")]
    assert main(["fleet", "token", *other, "--revoke", made("web1")]) == 1
    for ignored in (["--revoke", made("web1"), "web1"], ["--days", "3", "web1"]):
        assert main(["fleet", "token", *place, *ignored]) == 2


def test_a_damaged_database_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fleet.sqlite").write_bytes(b"no database " * 1000)
    assert main(["fleet", "token", "--data", str(tmp_path), "web1"]) == 1
    assert f"the database cannot be used: {tmp_path}: file is not a database" in capsys.readouterr().err


@pytest.mark.parametrize("listen", ["127.0.0.1:²", "ü:80", "127.0.0.1:65536", "127.0.0.1:"])
def test_what_is_no_address_to_listen_on_is_refused(tmp_path: Path, listen: str) -> None:
    assert main(["fleet", "serve", "--data", str(tmp_path), "--listen", listen]) == 2


def test_an_address_of_another_machine_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "serve", "--data", str(tmp_path), "--listen", "192.0.2.1:8765"]) == 1
    said = capsys.readouterr()
    assert "cannot listen on 192.0.2.1 port 8765" in said.err
    assert said.out == ""


def test_names_of_files_cannot_leave_the_store(closed: Client) -> None:
    headers = closed.token("web1")
    crash_name = crash("web1")["manifest"]["crash"]
    for name in ("..", "%2e%2e", "..%2f..%2fx", "a%2fb", ".hidden", "x" * 300):
        answer = closed.request("PUT", f"/v1/crashes/{crash_name}/files/{name}?offset=0", content=b"x", headers=headers)
        assert answer.status_code in (400, 404, 405), name
    other = closed.request(
        "PUT", f"/v1/crashes/{crash_name}/files/x?offset=0", content=b"x", headers=closed.token("web2")
    )
    assert other.status_code == 404


def test_a_token_is_for_a_host_that_can_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--data", str(tmp_path)]
    for name in ("a/b", "-x", "a b", "é", "x" * 200, "a\n"):
        assert main(["fleet", "token", *place, "--", name]) == 2
        assert "is not a valid host name" in capsys.readouterr().err
    for name in ("web1", "web_1.example.net", "*"):
        assert main(["fleet", "token", *place, name]) == 0
        assert capsys.readouterr().out.startswith(f"kf1.{name}.")
