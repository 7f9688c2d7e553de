"""The network that leads to the targets, as it is configured now, in the terms of kdump.toml's [[network.interface]].

Asked of the kernel through ip(8) with JSON output; hardware is found in sysfs.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from kdump.errors import KdumpError
from kdump.host.config import Interface, Network, tables
from kdump.host.storage import hardware

# systemd-resolved's stub answers only on this machine; what it asks stands in the second file.
RESOLV: Final = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))
KINDS: Final = {"vlan": "8021q", "bond": "bonding", "bridge": "bridge"}  # what a link stands on others with: its module

Ask = Callable[[Sequence[str]], list[dict[str, Any]]]


@dataclass(frozen=True)
class Resolved:
    """What the capture kernel brings up (`kdump.capture.network` reads it), and the ports' modules and modaliases."""

    plan: dict[str, Any]
    modules: tuple[str, ...]
    modaliases: tuple[str, ...]


def ask_ip(arguments: Sequence[str]) -> list[dict[str, Any]]:
    """What `ip -json` answers. Raises KdumpError."""
    command = ["ip", "-json", "-details", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KdumpError("ip did not run", why=str(error), remedy="install iproute2, or configure [network]") from None
    if done.returncode:
        raise KdumpError(f"`{' '.join(command)}` failed", why=done.stderr.strip().removeprefix("RTNETLINK answers: "))
    answer: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return answer


def resolve(wanted: Network, hosts: Iterable[str], *, ask: Ask = ask_ip, sysfs: Path = Path("/sys")) -> Resolved:
    """The interfaces that lead to `hosts`, or those that the configuration names. Raises KdumpError."""
    links = {str(link["ifname"]): link for link in ask(["link", "show"])}
    if wanted.interface:
        interfaces = [_named(each, links) for each in wanted.interface]
        ports = [_by_mac(each.mac, links) for each in interfaces if each.mac]
    else:
        found: dict[str, Interface] = {}
        for host in hosts:
            for address in addresses(host):
                (route,) = ask(["route", "get", address])
                _collect(str(route["dev"]), str(route.get("gateway", "")), links, found, ask)
        interfaces = list(found.values())
        ports = [each.name for each in interfaces if each.mac]
    modules: dict[str, None] = dict.fromkeys(kind for each in interfaces for kind in _kinds(each))
    modaliases: dict[str, None] = {}
    for port in ports:
        device = sysfs / "class/net" / port / "device"
        if not device.exists():
            raise KdumpError(
                f"the interface {port} has no hardware", why="it leads to a target", remedy="see [network]"
            )
        names, aliases = hardware(device.resolve())
        modules |= dict.fromkeys(names)
        modaliases |= dict.fromkeys(aliases)
    plan = {"interface": [tables.to_dict(each) for each in interfaces], "dns": list(wanted.dns) or name_servers()}
    return Resolved(plan, tuple(modules), tuple(modaliases))


def addresses(host: str) -> list[str]:
    """Addresses of a host, without duplicates. Raises KdumpError."""
    try:
        return list(dict.fromkeys(str(each[4][0]) for each in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))
    except OSError as error:
        raise KdumpError(f"the target's host {host} is not known", why=str(error)) from None


def name_servers(files: Sequence[Path] = RESOLV) -> list[str]:
    """The name servers of this machine that another one can ask, too."""
    for path in files:
        if path.exists():
            words = (line.split() for line in path.read_text().splitlines())
            servers = [each[1] for each in words if len(each) > 1 and each[0] == "nameserver"]
            found = [server for server in servers if not ipaddress.ip_address(server.partition("%")[0]).is_loopback]
            if found:
                return found
    return []


def _collect(name: str, gateway: str, links: dict[str, Any], found: dict[str, Interface], ask: Ask) -> None:
    """The interface `name` and those it stands on, each once."""
    if name == "lo":
        raise KdumpError("a target is this machine itself", why="its route leads through lo")
    if name in found:
        return
    link = links[name.partition("@")[0]]
    information = link.get("linkinfo", {})
    kind = str(information.get("info_kind", ""))
    data = information.get("info_data", {})
    below = _below(name, kind, link, links)
    for each in below:
        _collect(each, "", links, found, ask)
    dhcp, ra, static = _addresses(name, ask)
    version = ipaddress.ip_address(gateway).version if gateway else 0
    given = dhcp if version == 4 else ra
    found[name] = Interface(
        name=name,
        mac="" if below else str(link.get("permaddr") or link.get("address", "")),
        dhcp=dhcp,
        ra=ra,
        addresses=tuple(static),
        gateways=(gateway,) if gateway and not given else (),
        mtu=int(link["mtu"]) if link.get("mtu", 1500) != 1500 else 0,
        vlan=int(data.get("id", 0)) if kind == "vlan" else 0,
        bond=str(data.get("mode", "")) if kind == "bond" else "",
        bridge=kind == "bridge",
        links=tuple(below),
    )


def _below(name: str, kind: str, link: dict[str, Any], links: dict[str, Any]) -> list[str]:
    if kind == "vlan":
        return [str(link["link"])]
    if kind not in ("bond", "bridge"):
        return []
    # Ports without hardware (a virtual machine's tap on a bridge) lead nowhere in the capture kernel.
    ports = [port for port, each in links.items() if each.get("master") == name]
    return [port for port in ports if links[port].get("linkinfo", {}).get("info_kind", "") in ("", "vlan", "bond")]


def _addresses(name: str, ask: Ask) -> tuple[bool, bool, list[str]]:
    """Whether IPv4 comes by DHCP and IPv6 by router advertisements, and the static addresses."""
    dhcp = ra = False
    static = []
    for entry in ask(["address", "show", "dev", name]):
        for each in entry.get("addr_info", []):
            if each.get("scope") != "global" or each.get("temporary"):
                continue
            if each.get("dynamic"):
                dhcp |= each["family"] == "inet"
                ra |= each["family"] == "inet6"
            else:
                static.append(f"{each['local']}/{each['prefixlen']}")
    return dhcp, ra, static


def _named(interface: Interface, links: dict[str, Any]) -> Interface:
    """The interface under the name that the capture kernel gives it."""
    if interface.name:
        return interface
    if not interface.mac:
        raise KdumpError("an interface has neither a name nor a hardware address", remedy="see [[network.interface]]")
    return replace(interface, name=_by_mac(interface.mac, links))


def _by_mac(mac: str, links: dict[str, Any]) -> str:
    for name, link in links.items():
        if mac.lower() in (link.get("address", ""), link.get("permaddr", "")) and not link.get("linkinfo"):
            return name
    raise KdumpError(f"no interface of this machine has the address {mac}", remedy="see [[network.interface]] mac")


def _kinds(interface: Interface) -> list[str]:
    given = {"vlan": interface.vlan, "bond": interface.bond, "bridge": interface.bridge}
    return [KINDS[kind] for kind, value in given.items() if value]
