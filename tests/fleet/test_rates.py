"""Rates, factors, suspects, kernels against each other; inventories that hosts send."""

from __future__ import annotations

import json
import time

import pytest
from tests.fleet.client import Client
from tests.fleet.evidence import crash

from kdump.fleet import housekeeping, inventory, rates
from kdump.report.versions import has_fix, version


def send(client: Client, host: str, kernel: str = "6.1.0-1-amd64", *facts: str, ready: bool = True) -> int:
    content = {
        "host": host,
        "kernel": kernel,
        "hardware": "Model 1",
        "ready": ready,
        "problem": "" if ready else "no reservation",
    }
    headers = client.token(host)
    return client.request(
        "POST", "/v1/inventory", content=json.dumps(content | {"facts": list(facts)}), headers=headers
    ).status_code


def test_a_rate_has_the_interval_of_a_poisson_count() -> None:
    # Exact intervals by the chi-squared quantiles, to two places: Ulm, Am. J. Epidemiol. 131 (1990), 373-375.
    for count, low, high in ((1, 0.03, 5.57), (10, 4.80, 18.39), (100, 81.36, 121.63)):
        found = rates.interval(count)
        assert found[0] == pytest.approx(low, abs=0.15)
        assert found[1] == pytest.approx(high, abs=0.15)
    assert rates.interval(0)[0] == 0
    one = rates.rate("k", 10, 2000)
    assert one.rate == 5
    assert rates.rate("k", 10, 0).rate is None


def test_rates_by_kernel_come_from_inventories_and_crashes(client: Client) -> None:
    for number in range(10):
        assert send(client, f"web{number}") == 200
        assert send(client, f"web{number}") == 200  # a day counts once
    client.crash(crash("web1", 1, kernel="6.1.0-1-amd64"))
    client.sweep()
    with client.service.database.read() as session:
        (found,) = rates.by_kernel(session, int(time.time()) // 86400 - 1)
    assert (found.crashes, found.host_days, found.rate) == (1, 10, 100)
    assert "6.1.0-1-amd64" in client.get("/kernels").text


def test_a_kernel_that_crashes_more_may_not_roll_out(client: Client) -> None:
    database = client.service.database
    day = int(time.time()) // 86400
    with database.write() as session:
        session.insert("INSERT INTO kernel_days (day, kernel, hosts)", [(day, "6.1.1", 10_000), (day, "6.1.2", 10_000)])
        for table, span, at in (("days", "day", day), ("months", "month", day // 30)):
            rows = [(0, at, "6.1.1", 10), (0, at, "6.1.2", 60)]
            session.insert(f"INSERT INTO {table} (grp, {span}, kernel, crashes)", rows)
    page = client.get("/kernels/compare?old=6.1.1&new=6.1.2").text
    assert "No: the new kernel crashes" in page
    assert "Yes: the new kernel" in client.get("/kernels/compare?old=6.1.2&new=6.1.1").text
    assert "Not known" in client.get("/kernels/compare?old=6.1.2&new=6.9").text


def test_the_module_that_crashing_hosts_share_is_found_and_noise_is_not(client: Client) -> None:
    service = client.service
    noise = [f"module:m{number}" for number in range(60)]

    def fill(session: object) -> None:
        for number in range(400):
            facts = [fact for at, fact in enumerate(noise) if (number * 7 + at * 13) % 5 == 0]
            if number < 20 or number % 40 == 0:
                facts.append("module:culprit")
            found = inventory.Inventory(f"host{number:03d}", "6.1", "Model", True, "", facts)
            inventory.store(session, found, time.time())  # type: ignore[arg-type]

    service.database.run(fill)
    for number in range(20):
        group = client.crash(crash(f"host{number:03d}", 1)).json()["group"]
    client.sweep()
    assert housekeeping.once(service)["factors"] == 1
    with service.database.read() as session:
        (found,) = session.all("SELECT * FROM factors WHERE grp = ?", group)
    assert found["fact"] == "module:culprit"
    assert (found["crashed"], found["crashed_of"], found["healthy_of"]) == (20, 20, 380)
    assert found["low"] > 10
    assert "module:culprit" in client.get(f"/groups/{group}").text


def test_odds_ratios_are_those_of_the_table() -> None:
    odds, low, high, p = rates.odds_ratio(20, 40, 10, 100)
    assert odds == pytest.approx(20.5 * 90.5 / (20.5 * 10.5))
    assert low < odds < high
    assert p < 1e-4
    assert rates.odds_ratio(5, 50, 10, 100)[3] > 0.5


def test_hosts_with_machine_checks_or_many_groups_are_suspected(client: Client) -> None:
    for number, log in enumerate(("softlockup", "list", "uaf")):
        client.crash(crash("bad1", number, log))
    client.crash(crash("good1", 1))
    client.sweep()
    page = client.get("/hosts?which=suspect").text
    assert "bad1" in page
    assert "good1" not in page


def test_a_host_that_is_not_armed_is_shown_and_alerted_once(client: Client) -> None:
    for _ in range(3):
        send(client, "web1", ready=False)
    assert "no reservation" in client.get("/hosts?which=unarmed").text
    with client.service.database.read() as session:
        assert session.value("SELECT COUNT(*) AS n FROM outbox WHERE kind = 'unarmed'") == 1


@pytest.mark.parametrize("body", [b"", b"{}", b'{"host": "../x"}', b'{"host": "web1", "facts": [1]}'])
def test_bad_inventories_are_refused(client: Client, body: bytes) -> None:
    assert client.request("POST", "/v1/inventory", content=body, headers=client.token("*")).status_code == 400


def test_versions() -> None:
    assert version("6.1.0-56-cloud-amd64") == (6, 1, 0, 1 << 16)
    assert version("6.12-rc3") < version("6.12")  # type: ignore[operator]
    assert version("nothing") is None
    fixes = "6.1.120, 6.12.41, 6.17"
    for release, wanted in (
        ("6.1.119", False), ("6.1.120", True), ("6.1.121-x", True), ("6.6.5", False), ("6.12.41", True),
        ("6.12.40", False), ("6.17-rc1", False), ("6.18.1", True), ("", None),
    ):  # fmt: skip
        assert has_fix(release, fixes) is wanted, release
    assert has_fix("6.1", "") is None
