"""The network that leads to the targets, from answers as ip(8) gives them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kdump.capture.place import lasting
from kdump.errors import KdumpError
from kdump.host import network
from kdump.host.config import Interface, Network
from kdump.host.network import resolve

MACS = {"eth0": "52:54:00:00:00:01", "eth1": "52:54:00:00:00:02"}


def link(name: str, kind: str = "", **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"ifname": name, "mtu": 1500, "address": MACS.get(name, "52:54:00:ff:ff:ff"), **more}
    data = found.pop("data", None)
    return found | ({"linkinfo": {"info_kind": kind, "info_data": data or {}}} if kind else {})


class Machine:
    """Answers of ip(8) on a machine."""

    def __init__(
        self,
        links: list[dict[str, Any]],
        addresses: dict[str, list[dict[str, Any]]],
        route: dict[str, Any],
        table: Sequence[dict[str, Any]] = (),
    ):
        self.links, self.addresses, self.route, self.table = links, addresses, route, table

    def ask(self, arguments: Sequence[str]) -> list[dict[str, Any]]:
        if arguments[0] == "link":
            return self.links
        if arguments[0] in ("-4", "-6"):
            return [each for each in self.table if (":" in str(each)) == (arguments[0] == "-6")]
        if arguments[0] == "route":
            return [self.route]
        return [{"addr_info": self.addresses.get(arguments[-1], [])}]


def static(address: str, **more: Any) -> dict[str, Any]:
    local, _, length = address.partition("/")
    family = "inet6" if ":" in local else "inet"
    return {"family": family, "local": local, "prefixlen": int(length), "scope": "global", **more}


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    for number, name in enumerate(MACS):
        device = tmp_path / f"devices/pci0000:00/0000:00:0{number}.0"
        driver = tmp_path / "module/virtio_net"
        driver.mkdir(parents=True, exist_ok=True)
        (device / "driver").mkdir(parents=True)
        (device / "driver/module").symlink_to(driver)
        (device / "modalias").write_text(f"pci:{number}\n")
        (tmp_path / "class/net" / name).mkdir(parents=True)
        (tmp_path / "class/net" / name / "device").symlink_to(device)
    return tmp_path


def found(machine: Machine, sysfs: Path, wanted: Network | None = None) -> network.Resolved:
    return resolve(wanted or Network(dns=("9.9.9.9",)), ["192.0.2.9"], ask=machine.ask, sysfs=sysfs)


def interfaces(resolved: network.Resolved) -> list[dict[str, Any]]:
    """What is set of each interface."""
    return [{key: value for key, value in each.items() if value} for each in resolved.plan["interface"]]


def test_a_static_port(sysfs: Path) -> None:
    addresses = [static("192.0.2.7/24"), static("2001:db8::7/64"), static("2001:db8::1234/64", temporary=True)]
    table = [{"dst": "default", "gateway": "192.0.2.1", "dev": "eth0", "protocol": "static"}]
    machine = Machine([link("lo"), link("eth0", mtu=9000)], {"eth0": addresses}, {"dev": "eth0"}, table)
    resolved = found(machine, sysfs)
    assert interfaces(resolved) == [
        {
            "name": "eth0",
            "mac": MACS["eth0"],
            "addresses": ["192.0.2.7/24", "2001:db8::7/64"],
            "gateways": ["192.0.2.1"],
            "mtu": 9000,
        }
    ]
    assert (resolved.modules, resolved.modaliases) == (("virtio_net",), ("pci:0",))
    assert resolved.plan["dns"] == ["9.9.9.9"]


@pytest.mark.parametrize(
    ("assigned", "permanent", "keys"),
    [
        ("0", True, {"mac"}),
        ("1", True, {"device"}),
        ("2", False, {"mac"}),
        ("3", True, {"mac"}),
        ("3", False, {"mac", "device"}),
    ],
)
def test_hardware_without_an_address_of_its_own_is_known_by_its_place(
    assigned: str, permanent: bool, keys: set[str], sysfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a USB adapter that the kernel gives a random address at each boot, which udev replaces by a lasting one."""
    monkeypatch.setattr(network, "_has_permanent_address", lambda _name: permanent)
    (sysfs / "class/net/eth0/addr_assign_type").write_text(f"{assigned}\n")
    machine = Machine([link("eth0")], {"eth0": [static("192.0.2.7/24", dynamic=True)]}, {"dev": "eth0"}, [])
    for wanted in (None, Network(interface=(Interface(mac=MACS["eth0"], dhcp=True),))):
        resolved = found(machine, sysfs, wanted)
        (only,) = interfaces(resolved)
        assert {key: only[key] for key in ("mac", "device") if key in only} == {
            key: {"mac": MACS["eth0"], "device": "pci0000:00/0000:00:00.0"}[key] for key in keys
        }
        assert resolved.modaliases == ("pci:0",)


def test_ports_of_one_chip_without_addresses_of_their_own_are_refused(sysfs: Path) -> None:
    """Both are at one place: the capture kernel would take either."""
    (sysfs / "class/net/eth0/addr_assign_type").write_text("1\n")
    (sysfs / "class/net/eth1/device").unlink()
    (sysfs / "class/net/eth1/device").symlink_to((sysfs / "class/net/eth0/device").resolve())
    machine = Machine([link("eth0"), link("eth1")], {"eth0": [static("192.0.2.7/24")]}, {"dev": "eth0"}, [])
    for wanted in (None, Network(interface=(Interface(mac=MACS["eth0"], dhcp=True),))):
        with pytest.raises(KdumpError, match="eth0, eth1 are all at pci"):
            found(machine, sysfs, wanted)


def test_a_configured_place_is_written_as_sysfs_shows_it(sysfs: Path) -> None:
    wanted = Network(interface=(Interface(device="/sys/devices/pci0000:00/0000:00:01.0", dhcp=True),))
    resolved = found(Machine([link("eth0"), link("eth1")], {}, {}), sysfs, wanted)
    assert interfaces(resolved) == [{"name": "eth1", "device": "pci0000:00/0000:00:01.0", "dhcp": True}]
    assert resolved.modaliases == ("pci:1",)
    with pytest.raises(KdumpError, match=r"no interface of this machine is at pci0000:00/0000:00:99\.0"):
        found(Machine([link("eth0")], {}, {}), sysfs, Network(interface=(Interface(device="pci0000:00/0000:00:99.0"),)))


def test_a_lasting_place_has_no_numbers_of_one_boot() -> None:
    usb = "/sys/devices/pci0000:00/0000:00:14.0/usb%d/%d-1/%d-1.4/%d-1.4:1.0"
    assert lasting(usb % (1, 1, 1, 1)) == lasting(usb % (12, 12, 12, 12)) == "pci0000:00/0000:00:14.0/1/1.4/1.4:1.0"
    assert lasting("pci0000:00/0000:00:03.0/virtio7") == "pci0000:00/0000:00:03.0"
    assert lasting("platform/1c30000.ethernet") == "platform/1c30000.ethernet"


def test_an_interface_that_is_described_by_an_address_it_was_given_is_looked_for_by_its_own(sysfs: Path) -> None:
    """The capture kernel finds the card before anybody gives it another address."""
    given = "02:00:00:00:00:99"
    machine = Machine([link("eth0", address=given, permaddr=MACS["eth0"])], {}, {"dev": "eth0"})
    for mac in (given, given.upper(), MACS["eth0"]):
        for name in ("", "lan0"):
            wanted = Network(interface=(Interface(name=name, mac=mac, dhcp=True),))
            assert interfaces(found(machine, sysfs, wanted)) == [
                {"name": name or "eth0", "mac": MACS["eth0"], "dhcp": True}
            ]


def test_the_kernel_tells_whether_an_address_is_permanent() -> None:
    assert not network._has_permanent_address("lo")
    assert network._has_permanent_address("no-such-device")  # not known: nothing is refused


def test_dhcp_and_router_advertisements_bring_their_own_gateways(sysfs: Path) -> None:
    addresses = [static("192.0.2.7/24", dynamic=True), static("2001:db8::7/64", dynamic=True)]
    # dhclient's script does not mark the route that it makes.
    table = [{"dst": "default", "gateway": "192.0.2.1", "dev": "eth0", "protocol": "boot"}]
    machine = Machine([link("eth0")], {"eth0": addresses}, {"dev": "eth0"}, table)
    assert interfaces(found(machine, sysfs)) == [{"name": "eth0", "mac": MACS["eth0"], "dhcp": True, "ra": True}]


def test_dhcpv6_is_told_from_router_advertisements(sysfs: Path) -> None:
    def given(*addresses: dict[str, Any], table: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        (only,) = interfaces(found(Machine([link("eth0")], {"eth0": list(addresses)}, {"dev": "eth0"}, table), sysfs))
        return {key: only[key] for key in ("dhcp6", "ra", "addresses") if key in only}

    router = {"dst": "default", "gateway": "fe80::1", "dev": "eth0", "protocol": "ra"}
    assert given(static("2001:db8::7/128", dynamic=True)) == {"dhcp6": True, "ra": True}
    assert given(static("2001:db8::7/64", dynamic=True, mngtmpaddr=True)) == {"ra": True}
    assert given(static("2001:db8::7/64"), table=[router]) == {"ra": True, "addresses": ["2001:db8::7/64"]}
    assert given(static("192.0.2.7/24")) == {"addresses": ["192.0.2.7/24"]}


def test_routes_of_every_kind(sysfs: Path) -> None:
    table: list[dict[str, Any]] = [
        {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0", "protocol": "static", "metric": 100},
        {"dst": "default", "gateway": "fe80::1", "dev": "eth0", "protocol": "static", "metric": 1024},
        {"dst": "10.0.0.0/8", "gateway": "192.0.2.2", "dev": "eth0", "protocol": "boot", "prefsrc": "192.0.2.7"},
        {"dst": "10.7.0.0/16", "dev": "eth0", "protocol": "static", "scope": "link"},
        {"dst": "172.16.0.0/12", "via": {"family": "inet6", "host": "fe80::2"}, "dev": "eth0", "protocol": "static"},
        {
            "dst": "10.8.0.0/16",
            "protocol": "bird",
            "nexthops": [{"dev": "eth1", "gateway": "1.1.1.1"}, {"dev": "eth0", "gateway": "192.0.2.3"}],
        },
        {"dst": "192.0.2.0/24", "dev": "eth0", "protocol": "kernel"},
        {"dst": "10.9.0.0/16", "gateway": "192.0.2.4", "dev": "eth1", "protocol": "static"},
        {"dst": "10.10.0.0/16", "dev": "eth0", "protocol": "static", "type": "blackhole"},
        {"dst": "10.11.0.0/16", "gateway": "192.0.2.4", "dev": "eth0", "protocol": "dhcp"},
    ]
    machine = Machine([link("eth0")], {"eth0": [static("192.0.2.7/24")]}, {"dev": "eth0"}, table)
    (only,) = interfaces(found(machine, sysfs))
    assert only["gateways"] == ["fe80::1"]
    assert set(only["routes"]) == {
        "default via 192.0.2.1 metric 100",
        "10.0.0.0/8 via 192.0.2.2 src 192.0.2.7",
        "10.7.0.0/16",
        "172.16.0.0/12 via fe80::2",
        "10.8.0.0/16 via 192.0.2.3",
    }


def test_a_vlan_on_a_bond_of_two_ports(sysfs: Path) -> None:
    links = [
        link("eth0", master="bond0", permaddr=MACS["eth0"]),
        link("eth1", master="bond0", permaddr=MACS["eth1"]),
        link("bond0", "bond", data={"mode": "802.3ad"}),
        link("bond0.7", "vlan", link="bond0", data={"id": 7}),
    ]
    resolved = found(Machine(links, {"bond0.7": [static("192.0.2.7/24")]}, {"dev": "bond0.7"}), sysfs)
    assert interfaces(resolved) == [
        {"name": "eth0", "mac": MACS["eth0"]},
        {"name": "eth1", "mac": MACS["eth1"]},
        {"name": "bond0", "bond": "802.3ad", "links": ["eth0", "eth1"]},
        {"name": "bond0.7", "addresses": ["192.0.2.7/24"], "vlan": 7, "links": ["bond0"]},
    ]
    assert resolved.modules == ("bonding", "8021q", "virtio_net")


def test_a_bridge_without_its_virtual_machines(sysfs: Path) -> None:
    links = [link("eth0", master="br0"), link("vnet3", "tun", master="br0"), link("br0", "bridge")]
    resolved = found(Machine(links, {"br0": [static("192.0.2.7/24")]}, {"dev": "br0"}), sysfs)
    assert interfaces(resolved)[1] == {"name": "br0", "addresses": ["192.0.2.7/24"], "bridge": True, "links": ["eth0"]}


def test_the_configuration_has_the_last_word(sysfs: Path) -> None:
    wanted = Network(interface=(Interface(name="x", mac=MACS["eth1"].upper(), dhcp=True),), dns=("9.9.9.9",))
    resolved = found(Machine([link("eth0"), link("eth1")], {}, {}), sysfs, wanted)
    assert interfaces(resolved) == [{"name": "x", "mac": MACS["eth1"].upper(), "dhcp": True}]
    assert resolved.modaliases == ("pci:1",)
    with pytest.raises(KdumpError, match="has the address 00:00"):
        found(Machine([], {}, {}), sysfs, Network(interface=(Interface(mac="00:00:00:00:00:00"),)))


def test_ways_that_lead_nowhere(sysfs: Path) -> None:
    with pytest.raises(KdumpError, match="this machine itself"):
        found(Machine([link("lo")], {}, {"dev": "lo"}), sysfs)
    for kind in ("wireguard", "team", "openvswitch", "tun", "vxlan", "macvlan"):
        with pytest.raises(KdumpError, match=f"x0 is of the kind {kind}"):
            found(Machine([link("x0", kind)], {}, {"dev": "x0"}), sysfs)
    for kind in ("vrf", "team", "openvswitch"):
        with pytest.raises(KdumpError, match=f"up0 is of the kind {kind}"):
            found(Machine([link("eth0", master="up0"), link("up0", kind)], {}, {"dev": "eth0"}), sysfs)
    with pytest.raises(KdumpError, match=r"chosen by policy \(table 100\)"):
        found(Machine([link("eth0")], {}, {"dev": "eth0", "table": "100"}), sysfs)
    with pytest.raises(KdumpError, match="has no hardware"):
        found(Machine([link("usb9")], {}, {"dev": "usb9"}), sysfs)
    with pytest.raises(KdumpError, match="is not known"):
        network.addresses("no-such-host.invalid")


def test_name_servers_that_only_this_machine_has_are_left_out(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("# x\nnameserver 127.0.0.53\n")
    real.write_text("nameserver 192.0.2.53\nnameserver fe80::1%eth0\n")
    assert network.name_servers([tmp_path / "absent", stub, real]) == ["192.0.2.53", "fe80::1%eth0"]
    assert network.name_servers([stub]) == []
    real.write_bytes(b"nameserver gateway.example\nnameserver 192.0.2.53#53\nnameserver \xff\nnameserver 192.0.2.54\n")
    assert network.name_servers([real]) == ["192.0.2.54"]  # as the resolver, which ignores the others


def test_ip_really_answers() -> None:
    assert any(entry["ifname"] == "lo" for entry in network.ask_ip(["link", "show"]))
    with pytest.raises(KdumpError, match="failed"):
        network.ask_ip(["link", "show", "dev", "no-such-device"])
