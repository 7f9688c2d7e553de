"""The network that leads to the targets, as it is configured now, in the terms of kdump.toml's [[network.interface]].

Asked of the kernel through ip(8) with JSON output; hardware is found in sysfs.
"""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import json
import socket
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from kdump.capture.place import lasting, place
from kdump.capture.routes import Route
from kdump.errors import KdumpError, reason
from kdump.host.config import Interface, Network, tables
from kdump.host.storage import hardware

# systemd-resolved's stub answers only on this machine; what it asks stands in the second file.
RESOLV: Final = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))
KINDS: Final = {"vlan": "8021q", "bond": "bonding", "bridge": "bridge"}  # what a link stands on others with: its module

_SIOCETHTOOL, _ETHTOOL_GPERMADDR = 0x8946, 0x20  # linux/sockios.h, linux/ethtool.h
IP6_METRIC: Final = 1024  # what the kernel gives an IPv6 route without one

Ask = Callable[[Sequence[str]], list[dict[str, Any]]]


@dataclass(frozen=True)
class Resolved:
    """The network that the capture kernel sets up (`kdump.capture.network` reads it), and the ports' modules and
    modaliases."""

    plan: dict[str, Any]
    modules: tuple[str, ...]
    modaliases: tuple[str, ...]


def ask_ip(arguments: Sequence[str]) -> list[dict[str, Any]]:
    """The output of `ip -json`. Raises KdumpError."""
    command = ["ip", "-json", "-details", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="backslashreplace", check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KdumpError(
            "ip did not run", why=reason(error), remedy="install iproute2, or configure [network]"
        ) from None
    if done.returncode:
        raise KdumpError(f"`{' '.join(command)}` failed", why=done.stderr.strip().removeprefix("RTNETLINK answers: "))
    try:
        answer = json.loads(done.stdout or "[]")
    except ValueError:
        answer = None
    if not isinstance(answer, list):
        raise KdumpError(f"`{' '.join(command)}` does not answer in JSON", remedy="install iproute2's ip")
    return answer


def resolve(
    wanted: Network, hosts: Iterable[str], *, anywhere: bool = False, ask: Ask = ask_ip, sysfs: Path = Path("/sys")
) -> Resolved:
    """The interfaces that lead to `hosts`, or those that the configuration names. Raises KdumpError.

    `anywhere`: those with default routes, too, for hooks of which we do not know whom they talk to.
    """
    links = {str(link["ifname"]): link for link in ask(["link", "show"])}
    servers = list(wanted.dns) or name_servers()
    if wanted.interface:
        interfaces = [_named(each, links, sysfs) for each in wanted.interface]
        ports = [_port(each, links, sysfs) for each in interfaces if each.mac or each.device]
    else:
        routes = [*ask(["-4", "route", "show", "table", "main"]), *ask(["-6", "route", "show", "table", "main"])]
        ways = [way for host in hosts for way in _ways(host, ask)]
        named = not all(_is_address(host) for host in hosts)
        ways += [way for server in servers if named for way in _way(server, ask)]
        if anywhere:
            ways += [
                hop["dev"] for route in routes if route["dst"] == "default" for hop in route.get("nexthops", [route])
            ]
        found: dict[str, Interface] = {}
        for name in dict.fromkeys(ways):
            _collect(name, links, routes, found, ask, sysfs)
        interfaces = list(found.values())
        ports = [
            _port(each, links, sysfs) if each.device else each.name for each in interfaces if each.mac or each.device
        ]
    modules: dict[str, None] = dict.fromkeys(kind for each in interfaces for kind in _kinds(each))
    modaliases: dict[str, None] = {}
    for port in ports:
        place = sysfs / "class/net" / port
        if not (place / "device").exists():
            raise KdumpError(
                f"the interface {port} has no hardware", why="it leads to a target", remedy="see [network]"
            )
        # A driver of its own may serve the PHY, and without it the link may stay down.
        for device in filter(Path.exists, (place / "phydev", place / "device")):
            names, aliases = hardware(device.resolve())
            modules |= dict.fromkeys(names)
            modaliases |= dict.fromkeys(aliases)
    plan: dict[str, Any] = {"interface": [tables.to_dict(each) for each in interfaces], "dns": servers}
    if domains := list(wanted.search) or search_domains():
        plan["search"] = domains
    return Resolved(plan, tuple(modules), tuple(modaliases))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _ways(host: str, ask: Ask) -> list[str]:
    """The interfaces through which the kernel reaches a host's addresses; one family is enough. Raises KdumpError."""
    problems: list[KdumpError] = []
    found = [name for address in addresses(host) for name in _way(address, ask, problems)]
    if not found:
        raise KdumpError(f"the target's host {host} cannot be reached", why=str(problems[0]) if problems else "")
    return found


def _way(address: str, ask: Ask, problems: list[KdumpError] | None = None) -> list[str]:
    """The interface that leads to an address, in a list; an empty one, and the problem noted, if there is no route."""
    try:
        (route,) = ask(["route", "get", address.partition("%")[0]])
    except KdumpError as error:
        if problems is not None:
            problems.append(error)
        return []
    if str(route.get("table", "main")) not in ("main", "254", "local", "255"):
        raise KdumpError(
            f"the route to {address} is chosen by policy (table {route['table']})",
            why="the capture kernel has the main routing table only",
            remedy="describe the interface and its routes in [[network.interface]]",
        )
    return [str(route["dev"])]


def addresses(host: str) -> list[str]:
    """Addresses of a host, without duplicates. Raises KdumpError."""
    try:
        return list(dict.fromkeys(str(each[4][0]) for each in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))
    except (OSError, ValueError) as error:  # the latter: a name that does not encode
        raise KdumpError(f"the target's host {host} is not known", why=reason(error)) from None


def name_servers(files: Sequence[Path] = RESOLV) -> list[str]:
    """The name servers of this machine that another one can ask, too. Words that are no addresses are ignored."""
    for path in files:
        named = [words[1] for words in _resolver(path) if words[0] == "nameserver"]
        told = [(each, each.partition("%")[0]) for each in named]
        found = [each for each, plain in told if _is_address(plain) and not ipaddress.ip_address(plain).is_loopback]
        if found:
            return found
    return []


def search_domains(files: Sequence[Path] = RESOLV) -> list[str]:
    """The domains that this machine appends to short names. The last `search` or `domain` counts: resolv.conf(5)."""
    for path in files:
        found = [words[1:] for words in _resolver(path) if words[0] in ("search", "domain")]
        if found:
            return [domain for domain in found[-1] if domain != "."]
    return []


def _resolver(path: Path) -> Iterator[list[str]]:
    """The words of each line of a resolv.conf that says something."""
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) > 1 and words[0][0] not in "#;":
                yield words


def _collect(  # noqa: PLR0917 -- what resolve() knows
    name: str, links: dict[str, Any], routes: list[Any], found: dict[str, Interface], ask: Ask, sysfs: Path
) -> None:
    """The interface `name` and those it stands on, each once."""
    if name == "lo":
        raise KdumpError("a target is this machine itself", why="its route leads through lo")
    if name in found:
        return
    link = links[name.partition("@")[0]]
    information = link.get("linkinfo", {})
    kind = str(information.get("info_kind", ""))
    if kind not in KINDS and not (sysfs / "class/net" / name / "device").exists():
        _refuse(name, kind)
    master = str(link.get("master", ""))
    if above := str(links.get(master, {}).get("linkinfo", {}).get("info_kind", "")):
        _refuse(master, above)
    data = information.get("info_data", {})
    below = _below(name, kind, link, links, sysfs)
    mac, device = ("", "") if below else _known_by(name, link, sysfs)
    for each in below:
        _collect(each, links, routes, found, ask, sysfs)
    given = _addresses(name, ask)
    routers = any(route.get("protocol") == "ra" for route in routes if route.get("dev") == name)
    static = [way for route in routes for way in _static_routes(route, name, given)]
    gateways = [str(way.gateway) for way in static if way == Route(way.destination, way.gateway) and _is_default(way)]
    found[name] = Interface(
        name=name,
        mac=mac,
        device=device,
        dhcp=given.dhcp,
        dhcp6=given.dhcp6,
        ra=given.ra or given.dhcp6 or routers,
        addresses=tuple(given.static),
        gateways=tuple(gateways),
        routes=tuple(str(way) for way in static if str(way.gateway) not in gateways or not _is_default(way)),
        mtu=int(link["mtu"]) if link.get("mtu", 1500) != 1500 else 0,
        vlan=int(data.get("id", 0)) if kind == "vlan" else 0,
        bond=str(data.get("mode", "")) if kind == "bond" else "",
        bridge=kind == "bridge",
        links=tuple(below),
    )


def _refuse(name: str, kind: str) -> None:
    """Raise KdumpError for an interface that the capture kernel does not make; one of the kinds it makes passes."""
    if kind in KINDS:
        return
    raise KdumpError(
        f"the interface {name} is of the kind {kind}" if kind else f"the interface {name} has no hardware",
        why="it leads to a target, and the capture kernel supports only " + ", ".join(KINDS),
        remedy="choose a target that another interface leads to, or describe one in [[network.interface]]",
    )


def _known_by(name: str, link: dict[str, Any], sysfs: Path) -> tuple[str, str]:
    """The hardware address that the capture kernel finds a port by; of hardware without one, its place.

    The kernel gives such hardware another address at each boot. The one beside the place is what the capture kernel
    gives it: udev sets a lasting one where it finds a random one, which is not worth keeping. Source:
    Documentation/ABI/testing/sysfs-class-net, addr_assign_type (0 permanent, 1 random, 2 of another device, 3 set).
    """
    if own := link.get("permaddr"):
        return str(own), ""
    mac = str(link.get("address", ""))
    assigned = sysfs / "class/net" / name / "addr_assign_type"
    kind = assigned.read_text().strip() if assigned.exists() else ""
    if kind == "1":
        return "", place(name, sysfs)
    if kind == "3" and not _has_permanent_address(name):
        return mac, place(name, sysfs)
    return mac, ""


def _has_permanent_address(name: str) -> bool:
    """Whether the hardware says what its address is; True if the kernel does not tell. Source: linux/ethtool.h."""
    answer = bytearray(struct.pack("=II32x", _ETHTOOL_GPERMADDR, 32))
    buffer = (ctypes.c_char * len(answer)).from_buffer(answer)
    request = struct.pack("=16sQ8x", name.encode(), ctypes.addressof(buffer))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
    except OSError:
        return True
    return any(answer[8:])


def _below(name: str, kind: str, link: dict[str, Any], links: dict[str, Any], sysfs: Path) -> list[str]:
    if kind == "vlan":
        return [str(link["link"])]
    if kind not in ("bond", "bridge"):
        return []
    # Ports without hardware (a virtual machine's tap on a bridge) lead nowhere in the capture kernel.
    ports = {port: str(each.get("linkinfo", {}).get("info_kind", "")) for port, each in links.items()}
    return [
        port
        for port, each in ports.items()
        if links[port].get("master") == name
        and (each in ("", "vlan", "bond") or (sysfs / "class/net" / port / "device").exists())
    ]


@dataclass
class _Given:
    """Where an interface's addresses come from: DHCP, DHCPv6, router advertisements; and the static ones."""

    dhcp: bool = False
    dhcp6: bool = False
    ra: bool = False
    static: list[str] = field(default_factory=list)


def _addresses(name: str, ask: Ask) -> _Given:
    given = _Given()
    for entry in ask(["address", "show", "dev", name]):
        for each in entry.get("addr_info", []):
            if each.get("scope") != "global" or each.get("temporary"):
                continue
            length = int(each["prefixlen"])
            if not each.get("dynamic"):
                # Beside a peer's address, the prefix is the peer's.
                whole = 32 if each["family"] == "inet" else 128
                given.static.append(f"{each['local']}/{whole if 'address' in each else length}")
            elif each["family"] == "inet":
                given.dhcp = True
            elif length == 128 and not each.get("mngtmpaddr"):  # routers advertise prefixes, DHCPv6 gives addresses
                given.dhcp6 = True
            else:
                given.ra = True
    return given


def _static_routes(route: dict[str, Any], name: str, given: _Given) -> Iterator[Route]:
    """The static routes of an interface: entries of the main table that the administrator made."""
    if route.get("type", "unicast") != "unicast" or route.get("protocol") in ("kernel", "dhcp", "ra", "redirect"):
        return
    for hop in route.get("nexthops", [route]):
        if hop.get("dev") != name:
            continue
        gateway = hop.get("gateway") or hop.get("via", {}).get("host")
        destination = str(route["dst"])
        if destination == "default":
            six = ":" in str(gateway or route.get("prefsrc", "")) and "via" not in hop
            if given.ra if six else given.dhcp:
                continue  # some DHCP clients do not mark their routes
            destination = "::/0" if six else "0.0.0.0/0"
        yield Route(
            ipaddress.ip_network(destination),
            ipaddress.ip_address(gateway) if gateway else None,
            ipaddress.ip_address(route["prefsrc"]) if "prefsrc" in route else None,
            0 if ":" in destination and route.get("metric") == IP6_METRIC else int(route.get("metric", 0)),
        )
        return


def _is_default(route: Route) -> bool:
    return route.destination.prefixlen == 0 and route.gateway is not None


def _named(interface: Interface, links: dict[str, Any], sysfs: Path) -> Interface:
    """The interface under the name that the capture kernel gives it, with what it is known by there."""
    if not interface.mac and not interface.device:
        if interface.name:
            return interface
        raise KdumpError("an interface has neither a name nor a hardware address", remedy="see [[network.interface]]")
    interface = replace(interface, device=lasting(interface.device))
    port = _port(interface, links, sysfs)
    mac, device = (interface.mac, interface.device) if interface.device else _known_by(port, links[port], sysfs)
    return replace(interface, name=interface.name or port, mac=mac, device=device)


def _port(interface: Interface, links: dict[str, Any], sysfs: Path) -> str:
    """What this machine calls the port."""
    if not interface.device:
        return _by_mac(interface.mac, links)
    found = [name for name in links if place(name, sysfs) == interface.device]
    if len(found) == 1:
        return found[0]
    if found:  # the ports of one chip
        raise KdumpError(
            f"the interfaces {', '.join(found)} are all at {interface.device}",
            why="the capture kernel could not tell which of them leads to a target",
            remedy="choose a target that another interface leads to",
        )
    raise KdumpError(
        f"no interface of this machine is at {interface.device}", remedy="see [[network.interface]] device"
    )


def _by_mac(mac: str, links: dict[str, Any]) -> str:
    # The virtual function behind Hyper-V's interface has its address, and it for its master.
    for name, link in sorted(links.items(), key=lambda each: "master" in each[1]):
        if mac.lower() in (link.get("address", ""), link.get("permaddr", "")) and not link.get("linkinfo"):
            return name
    raise KdumpError(f"no interface of this machine has the address {mac}", remedy="see [[network.interface]] mac")


def _kinds(interface: Interface) -> list[str]:
    given = {"vlan": interface.vlan, "bond": interface.bond, "bridge": interface.bridge}
    return [KINDS[kind] for kind, value in given.items() if value]
