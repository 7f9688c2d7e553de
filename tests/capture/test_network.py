"""Interfaces in a network namespace of their own; a DHCP server and a DNS server played by the test."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from ipaddress import IPv4Address

import pytest

from kdump.capture import dhcp
from kdump.capture.network import _from_below
from kdump.errors import KdumpError
from kdump.targets import names

IN_NAMESPACE = """
import json, subprocess, sys
for command in sys.argv[2:]:
    subprocess.run(["ip", *command.split()], check=True)
from kdump.capture.network import bring_up
from kdump.capture.netlink import Netlink
said = []
failed = []
servers = bring_up(json.loads(sys.argv[1]), 3, said.append, failed.append)
n = Netlink()
links = {link.name: [str(a) for a in n.addresses(link.index)] for link in n.links()}
print(json.dumps([servers, links, said, failed]))
"""


def in_namespace(
    plan: dict[str, object], *commands: str
) -> tuple[list[str], dict[str, list[str]], list[str], list[str]]:
    """Name servers, addresses by interface, what was said, what failed; `commands` are ip(8)'s, run before."""
    command = ["unshare", "-n", sys.executable, "-c", IN_NAMESPACE, json.dumps(plan), *commands]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": "src"}
    )
    if "unshare" in result.stderr:
        pytest.skip(f"no network namespace: {result.stderr.strip()}")
    if result.returncode:
        raise KdumpError(result.stderr)
    servers, links, said, failed = json.loads(result.stdout)
    return servers, links, said, failed


def test_a_static_address_on_a_device_found_by_name() -> None:
    plan = {"dns": ["192.0.2.53"], "interface": [{"name": "lo", "addresses": ["192.0.2.7/24", "2001:db8::7/64"]}]}
    servers, links, said, failed = in_namespace(plan)
    assert failed == []
    assert servers == ["192.0.2.53"]
    assert {"192.0.2.7", "2001:db8::7"} <= set(links["lo"])
    assert said[0].startswith("lo: link up, ")


def test_what_does_not_come_up_is_named_and_does_not_keep_the_others() -> None:
    """No such port, a cable without a peer, DHCP that is silent: each has its share of the time."""
    plan: dict[str, object] = {
        "interface": [
            {"name": "eth0", "mac": "52:54:00:00:00:01", "addresses": ["192.0.2.7/24"]},
            {"name": "loose", "addresses": ["192.0.2.8/24"]},
            {"name": "silent", "dhcp": True},
            {"name": "br0", "bridge": True, "links": ["good"], "addresses": ["192.0.2.9/24"]},
            {"name": "good", "mac": "52:54:00:00:00:02", "mtu": 1400},
        ]
    }
    began = time.monotonic()
    _, links, said, failed = in_namespace(
        plan,
        "link add loose type veth peer name peer0",
        "link add silent type veth peer name peer1",
        "link set peer1 up",
        "link add other type veth peer name peer2",
        "link set other address 52:54:00:00:00:02",
        "link set peer2 up",
    )
    assert time.monotonic() - began < 6
    assert [line.partition(": interfaces here")[0] for line in failed] == [
        "the interface eth0 (hardware address 52:54:00:00:00:01) does not exist",
        "the interface loose has no link",
        "no DHCP server answers on silent",
    ]
    assert links["br0"] == ["192.0.2.9"]
    assert "good" in links
    assert [line.partition(",")[0] for line in said] == ["silent: link up", "br0: link up"]


def test_interfaces_come_up_from_below() -> None:
    wanted: list[dict[str, object]] = [
        {"name": "br0", "links": ["bond0.7"]},
        {"name": "bond0.7", "links": ["bond0"]},
        {"name": "bond0"},
    ]
    assert [each["name"] for each in _from_below(wanted)] == ["bond0", "bond0.7", "br0"]
    with pytest.raises(KdumpError, match="circle"):
        _from_below([{"name": "a", "links": ["b"]}, {"name": "b", "links": ["a"]}])


def answer(kind: int, options: bytes, identifier: int = 7) -> bytes:
    layout = "!BBBBIHH4s4s4s4s16s64s128s4s"
    given, cookie = IPv4Address("192.0.2.9").packed, b"\x63\x82\x53\x63"
    fixed = struct.pack(layout, 2, 1, 6, 0, identifier, 0, 0, b"", given, b"", b"", b"", b"", b"", cookie)
    return fixed + bytes([53, 1, kind]) + options + b"\xff"


def test_dhcp_answers() -> None:
    parsed = dhcp.parse(answer(5, b"\x00\x01\x04\xff\xff\xf0\x00\x06\x08" + bytes(range(8))), 7)
    assert parsed is not None
    assert str(parsed[0]) == "192.0.2.9"
    assert parsed[1][1] == b"\xff\xff\xf0\x00"
    assert dhcp.parse(answer(5, b""), 8) is None
    assert dhcp.parse(answer(5, b"\x06\xf0abc")[:-1], 7) is None
    for cut in range(0, 240, 13):
        assert dhcp.parse(answer(5, b"")[:cut], 7) is None


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    monkeypatch.setattr(names, "_PORT", server.getsockname()[1])

    def serve() -> None:
        while True:
            try:
                question, peer = server.recvfrom(512)
            except OSError:
                return
            kind = question[-3]
            record = IPv4Address("192.0.2.80").packed if kind == 1 else b""
            alias = b"\xc0\x0c" + struct.pack("!HHIH", 5, 1, 60, 3) + b"\x01x\x00"
            records = alias + (b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + record if record else b"")
            header = struct.pack("!HHHHHH", int.from_bytes(question[:2], "big"), 0x8180, 1, 2 if record else 1, 0, 0)
            server.sendto(header + question[12:] + records, peer)

    threading.Thread(target=serve, daemon=True).start()
    assert names.resolve("dumps.example", ["127.0.0.1"]) == ["192.0.2.80"]
    server.close()


def test_names_fall_back_on_what_the_host_knew() -> None:
    assert names.resolve("192.0.2.1", []) == ["192.0.2.1"]
    assert names.resolve("[2001:db8::1]", []) == ["2001:db8::1"]
    assert names.resolve("dumps.example", [], ["192.0.2.3"]) == ["192.0.2.3"]
    with pytest.raises(KdumpError, match="no name server is known"):
        names.resolve("dumps.example", [])
