"""Short names are completed as resolv.conf(5) says, asked of dnsmasq(8)."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.targets.servers import free_port

from kdump.errors import KdumpError
from kdump.host.network import name_servers, search_domains
from kdump.targets import names

DNSMASQ = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin")


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of a name server that knows host.corp.example, host.lab.example and corp.example."""
    assert DNSMASQ, "dnsmasq is not installed: tools/bootstrap test installs it"
    port = free_port()
    known = ("host.corp.example,192.0.2.1,2001:db8::1", "host.lab.example,192.0.2.2", "corp.example,192.0.2.3")
    options = ["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--listen-address=127.0.0.1"]
    options += [
        "--bind-interfaces",
        f"--port={port}",
        "--local=/example/",
        *(f"--host-record={each}" for each in known),
    ]
    process = subprocess.Popen([DNSMASQ, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with socket.socket() as probe:
            end = time.monotonic() + 20
            while probe.connect_ex(("127.0.0.1", port)) and time.monotonic() < end:
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize(
    ("host", "search", "expected"),
    [
        ("host", ["corp.example", "lab.example"], ["192.0.2.1", "2001:db8::1"]),
        ("host", ["nowhere.example", "lab.example"], ["192.0.2.2"]),
        ("host.lab", ["example"], ["192.0.2.2"]),
        ("corp.example", ["lab.example"], ["192.0.2.3"]),
        ("corp.example.", ["lab.example"], ["192.0.2.3"]),
    ],
)
def test_short_names(
    host: str, search: list[str], expected: list[str], server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_PORT", server)
    assert names.resolve(host, ["127.0.0.1"], search=search) == expected


def test_a_name_that_no_domain_completes(server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_PORT", server)
    assert names.resolve("absent", ["127.0.0.1"], ["192.0.2.9"], search=["corp.example"]) == ["192.0.2.9"]
    with pytest.raises(KdumpError, match=r"the name host\. cannot be resolved"):
        names.resolve("host.", ["127.0.0.1"], search=["corp.example"])  # it is whole as it is


def test_a_dead_server_is_asked_once(server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one has its turn before the time is over, however many domains there are."""
    monkeypatch.setattr(names, "_PORT", server)
    began = time.monotonic()
    found = names.resolve("host", ["127.0.0.2", "127.0.0.1"], search=["lab.example", *["nowhere.example"] * 30])
    assert found == ["192.0.2.2"] and time.monotonic() - began < 9


@pytest.mark.parametrize(
    ("text", "servers", "domains"),
    [
        ("nameserver 192.0.2.53\nsearch corp.example lab.example\n", ["192.0.2.53"], ["corp.example", "lab.example"]),
        ("domain old.example\nsearch new.example\n# search no.example\n", [], ["new.example"]),
        ("search .\nnameserver 127.0.0.53\n", [], []),
        ("nameserver\n\n;x\nsearch\n", [], []),
    ],
)
def test_resolv_conf(text: str, servers: list[str], domains: list[str], tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    assert name_servers([tmp_path / "absent", path]) == servers
    assert search_domains([tmp_path / "absent", path]) == domains
