"""Interfaces in a network namespace of their own; a DHCP server and a DNS server played by the test."""

from __future__ import annotations

import ast
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from kdump.capture import dhcp, dhcp6, network
from kdump.capture.netlink import Link
from kdump.capture.network import _from_below
from kdump.capture.routes import parse_route
from kdump.errors import KdumpError
from kdump.targets import names

IN_NAMESPACE = """
import json, subprocess, sys
for command in sys.argv[2:]:
    subprocess.run(["ip", *command.split()], check=True)
from kdump.capture import network
from kdump.capture.network import bring_up
from kdump.capture.netlink import Netlink
network._SOLICITED = 0.3
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


NAMED = """
import sys
from kdump.capture import network
from kdump.capture.netlink import Netlink
network.place = {"one": "pci0000:00/0000:00:04.0/1/1:1.0", "other": ""}.get  # a veth has no hardware
kernel = Netlink()
wanted = {"name": "usb0", "device": network.place("one"), "mac": sys.argv[1]}
link = network._Interface(kernel, wanted, 0, print, 0)._port()
print(link.name, link.mac)
assert link in kernel.links()
"""


@pytest.mark.parametrize(
    ("mac", "said"),
    [
        ("52:54:00:00:00:07", "usb0 52:54:00:00:00:07\n"),
        ("", "usb0 52:54:00:00:00:01\n"),  # it keeps the random one
        (
            "01:00:5e:00:00:01",  # of a group, no device may have it
            "usb0: keeps the hardware address 52:54:00:00:00:01: Cannot assign requested address\n"
            "usb0 52:54:00:00:00:01\n",
        ),
    ],
)
def test_hardware_without_an_address_is_found_by_its_place_and_given_the_dead_kernels(mac: str, said: str) -> None:
    veth = "ip link add one address 52:54:00:00:00:01 type veth peer name other"
    command = ["unshare", "-n", "sh", "-c", f'{veth} && exec "$@"', "", sys.executable, "-c", NAMED, mac]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "src"})
    assert done.stdout == said


def test_an_address_beside_which_no_router_answers_is_enough() -> None:
    plan: dict[str, object] = {"interface": [{"name": "one", "addresses": ["192.0.2.7/24"], "ra": True}]}
    commands = ["link add one type veth peer name other", "link set other up"]
    _servers, links, said, failed = in_namespace(plan, *commands)
    assert failed == []
    assert links["one"] == ["192.0.2.7"]
    assert any("one: no IPv6 address from a router, going on" in line for line in said)


@pytest.mark.parametrize(("driver", "orders"), [("vmxnet3", [True, False, True]), ("e1000", [True])])
def test_a_device_that_the_dead_kernel_left_active_is_put_down_once(
    driver: str, orders: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU's vmxnet3 was found by the matrix: its link came up, and nothing came through it."""
    (tmp_path / "drivers" / driver).mkdir(parents=True)
    (tmp_path / "eth0/device").mkdir(parents=True)
    (tmp_path / "eth0/device/driver").symlink_to(tmp_path / "drivers" / driver)
    monkeypatch.setattr(network, "_DRIVER", f"{tmp_path}/{{}}/device/driver")
    given: list[bool] = []

    class Ports:
        def links(self) -> list[Link]:
            return [Link(2, "eth0", "52:54:00:00:00:01", carrier=True)]

        def set_link(self, _index: int, *, up: bool) -> None:
            given.append(up)

    wanted = {"name": "eth0", "mac": "52:54:00:00:00:01"}
    network._Interface(Ports(), wanted, time.monotonic() + 5, str, 0).up()  # type: ignore[arg-type]
    assert given == orders


@pytest.mark.parametrize("virtual_function", ["enslaved", "not yet"])
def test_of_hyper_vs_interface_and_its_virtual_function_the_former_is_used(
    virtual_function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have one address, and the function may come first."""
    for name, driver in (("vf", "mlx5_core"), ("eth9", "hv_netvsc")):
        (tmp_path / "drivers" / driver).mkdir(parents=True)
        (tmp_path / name / "device").mkdir(parents=True)
        (tmp_path / name / "device/driver").symlink_to(tmp_path / "drivers" / driver)
    monkeypatch.setattr(network, "_DRIVER", f"{tmp_path}/{{}}/device/driver")
    mac = "00:15:5d:00:00:01"
    names = {2: "vf", 3: "eth9"}

    class Ports:
        def links(self) -> list[Link]:
            master = 3 if virtual_function == "enslaved" else 0
            return [Link(2, names[2], mac, carrier=True, master=master), Link(3, names[3], mac, carrier=True)]

        def set_link(self, index: int, *, up: bool = False, name: str = "") -> None:
            if name:
                names[index] = name

    network._Interface(Ports(), {"name": "eth0", "mac": mac}, time.monotonic() + 5, str, 0)._port()  # type: ignore[arg-type]
    assert names == {2: "vf", 3: "eth0"}


def test_a_bonds_port_is_known_as_one() -> None:
    """As the kernel tells it."""
    script = "from kdump.capture.netlink import Netlink; print({x.name: x.master for x in Netlink().links()})"
    commands = "ip link add br9 type bridge && ip link add one type veth peer name other && ip link set one master br9"
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", f"{commands} && exec {sys.executable} -c '{script}'"],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "src"},
    )  # fmt: skip
    found = ast.literal_eval(done.stdout)
    assert found["other"] == 0 and found["one"] > 0


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


SERVED = """
set -e
ip link add c0 address 52:54:00:00:00:21 type veth peer name s0 address 52:54:00:00:00:22
ip addr add 192.0.2.1/24 dev s0
ip -6 addr add 2001:db8:5::1/64 dev s0 nodad
ip -6 addr add fe80::1/64 dev s0 nodad
ip link set s0 up
dnsmasq --conf-file=/dev/null --port=0 --interface=s0 --bind-dynamic --no-ping --user=root \
    --pid-file=$2/pid --dhcp-leasefile=$2/leases $3
unshare -n sleep 60 &
other=$!
trap 'kill $other $(cat $2/pid)' EXIT
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link set c0 netns $other
nsenter --net=/proc/$other/ns/net $4 - "$1" <<'END'
import json, subprocess, sys
from kdump.capture.network import bring_up
failed = []
servers = bring_up(json.loads(sys.argv[1]), 20, lambda text: None, failed.append)
def ip(*words):
    return json.loads(subprocess.check_output(["ip", "-json", *words]) or "[]")
found = [each for entry in ip("address", "show", "dev", "c0") for each in entry["addr_info"]]
addresses = [each["local"] for each in found if each.get("scope") == "global"]
routes = ip("-4", "route", "show", "dev", "c0") + ip("-6", "route", "show", "dev", "c0")
print(json.dumps([servers, addresses, {each["dst"]: each.get("gateway", "") for each in routes}, failed]))
END
"""


def served(tmp_path: Path, options: str, **wanted: bool) -> tuple[list[str], list[str], dict[str, str], list[str]]:
    """What comes of dnsmasq(8) on the other end of the cable: name servers, addresses, gateways by route, failures."""
    plan = json.dumps({"interface": [{"name": "c0", "mac": "52:54:00:00:00:21", **wanted}]})
    command = ["unshare", "-n", "bash", "-c", SERVED, "bash", plan, str(tmp_path), options, sys.executable]
    environment = {**os.environ, "PYTHONPATH": "src", "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    if "unshare" in done.stderr:
        pytest.skip(f"no network namespace: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    servers, addresses, routes, failed = json.loads(done.stdout)
    return servers, addresses, routes, failed


def test_classless_routes_replace_the_router(tmp_path: Path) -> None:
    options = "--dhcp-range=192.0.2.50,192.0.2.50,255.255.255.0 --dhcp-option=option:router,192.0.2.99"
    _servers, _addresses, routes, failed = served(tmp_path, options, dhcp=True)
    assert failed == []
    assert routes["default"] == "192.0.2.99"
    options += " --dhcp-option=121,198.51.100.0/24,192.0.2.2,0.0.0.0/0,192.0.2.3,203.0.113.0/24,0.0.0.0"
    _servers, addresses, routes, failed = served(tmp_path, options, dhcp=True)
    assert failed == []
    assert addresses == ["192.0.2.50"]
    wanted = {"default": "192.0.2.3", "198.51.100.0/24": "192.0.2.2", "203.0.113.0/24": ""}
    assert {name: routes[name] for name in wanted} == wanted


def test_dhcpv6_gives_the_address_and_a_router_the_way(tmp_path: Path) -> None:
    options = (
        "--enable-ra --dhcp-range=2001:db8:5::77,2001:db8:5::77,64,1h --dhcp-option=option6:dns-server,[2001:db8::53]"
    )
    servers, addresses, routes, failed = served(tmp_path, options, dhcp6=True, ra=True)
    assert failed == []
    assert addresses == ["2001:db8:5::77"]
    assert servers == ["2001:db8::53"]
    assert routes["default"].startswith("fe80::")


def test_router_advertisements_alone(tmp_path: Path) -> None:
    options = "--enable-ra --dhcp-range=2001:db8:5::,ra-only"
    _servers, addresses, routes, failed = served(tmp_path, options, ra=True)
    assert failed == []
    assert [each.startswith("2001:db8:5:") for each in addresses] == [True]
    assert routes["default"].startswith("fe80::")


def test_dhcpv6_answers_that_lie() -> None:
    address = struct.pack("!HH", 5, 24) + bytes.fromhex("20010db8000000000000000000000077") + struct.pack("!II", 60, 60)
    association = b"kdmp" + bytes(8) + address
    reply = bytes([7]) + b"abc" + struct.pack("!HH", 3, len(association)) + association
    assert dhcp6.parse(reply, 7, b"abc") == {3: association}
    assert str(dhcp6.address_in(association)) == "2001:db8::77"
    assert dhcp6.parse(reply, 2, b"abc") is None
    assert dhcp6.parse(reply, 7, b"abd") is None
    for cut in range(1, len(reply)):
        if (found := dhcp6.parse(reply[:cut], 7, b"abc")) is not None:
            assert dhcp6.address_in(found.get(3, b"")) is None
    assert dhcp6.address_in(association[:-4] + bytes(4)) is None  # its valid lifetime is over
    assert dhcp6.address_in(b"kdmp" + bytes(8) + struct.pack("!HHH", 13, 2, 2) + address) is None  # NoAddrsAvail


@pytest.mark.parametrize(
    ("raw", "routes"),
    [
        ("00c0000203", ["default via 192.0.2.3"]),
        ("18c63364c000020200c0000203", ["198.51.100.0/24 via 192.0.2.2", "default via 192.0.2.3"]),
        ("0a0a40c0000202", ["10.64.0.0/10 via 192.0.2.2"]),
        ("18c6336400000000", ["198.51.100.0/24"]),
        ("21c6336400000000", ["default via 192.0.2.99"]),  # a prefix of 33 bits
        ("18c63364c00002", ["default via 192.0.2.99"]),  # cut
        ("", ["default via 192.0.2.99"]),
    ],
)
def test_classless_routes(raw: str, routes: list[str]) -> None:
    options = {121: bytes.fromhex(raw), 3: bytes([192, 0, 2, 99])}
    assert [str(each) for each in dhcp.routes_in(options)] == routes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "default",
        "10.0.0.1/8",
        "10.0.0.0/8 via",
        "10.0.0.0/8 via x",
        "::/0 via 1.2.3.4",
        "1.0.0.0/8 src ::1",
        "10.0.0.0/8 metric -1",
        "10.0.0.0/8 metric 4294967296",
        "10.0.0.0/8 dev eth0",
        "10.0.0.0/8 via 1.1.1.1 via 1.1.1.1",
    ],
)
def test_routes_that_make_no_sense(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_route(text)


def test_routes_read_as_they_are_written() -> None:
    for text in (
        "default via 192.0.2.1",
        "10.0.0.0/8 via 192.0.2.2 src 192.0.2.7 metric 100",
        "0.0.0.0/0 via fe80::1",
        "::/0",
    ):
        assert str(parse_route(text)) == text


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
