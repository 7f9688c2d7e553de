"""The network of the capture kernel, brought up as the plan says: ports by hardware address or place, then the others.

An interface of the plan is a table as in the configuration (`kdump.host.config.Interface`). Where DHCP gives several
interfaces a default route, that of the one that comes up first is preferred.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kdump.capture import dhcp, dhcp6
from kdump.capture.netlink import Link, Netlink, bond_data, vlan_data
from kdump.capture.place import place
from kdump.capture.routes import Route, parse_route
from kdump.capture.stages import DeadlineError
from kdump.errors import KdumpError, describe

_POLL = 0.05
_ROUTER = 5.0  # seconds for a default route to follow an address
_SOLICITED = 10.0  # seconds for an address beside others: two solicitations, 4 s apart (RFC 4861, section 10)
_METRIC = 100  # of the first interface's routes from DHCP; each further one's is higher
_ROUTES6 = "/proc/net/ipv6_route"  # destination, its prefix length, … and the interface last
_DEFAULT6 = f"{0:032x} 00 "
_DRIVER = "/sys/class/net/{}/device/driver"
# Their devices go on working for the dead kernel, and ignore what this one sets up, until they are put down once
# (hw/net/vmxnet3.c of QEMU: "Vmxnet3 device is active").
_LEFT_ACTIVE = ("vmxnet3",)
_SYNTHETIC = "hv_netvsc"
_IPV6 = "/proc/sys/net/ipv6/conf/{}/{}"


def bring_up(
    plan: Mapping[str, Any], seconds: float, say: Callable[[str], None], degrade: Callable[[str], None]
) -> list[str]:
    """Bring up every interface of `plan`, loopback too; the name servers, the plan's before those that DHCP gave.

    Each step is printed with its time. `degrade` is told of an interface that does not come up in its share of the
    `seconds`: the others may still lead to a target.
    """
    end = time.monotonic() + seconds
    interfaces: Sequence[Mapping[str, Any]] = plan.get("interface", ())
    servers = list(plan.get("dns", ()))
    netlink = Netlink()
    try:
        loopback = next((link for link in netlink.links() if link.name == "lo"), None)
        if loopback:
            netlink.set_link(loopback.index, up=True)
        waiting = _from_below(interfaces)
        for number, interface in enumerate(waiting):
            now = time.monotonic()
            share = now + max(0.0, end - now) / (len(waiting) - number)
            try:
                servers += _Interface(netlink, interface, share, say, _METRIC + number).up()
            except DeadlineError:
                raise
            except Exception as error:  # noqa: BLE001 -- whatever a server said, the next interface has its turn
                degrade(describe(error))
    finally:
        netlink.close()
    return list(dict.fromkeys(servers))


class _Interface:
    """One interface on its way up."""

    def __init__(
        self, netlink: Netlink, wanted: Mapping[str, Any], end: float, say: Callable[[str], None], metric: int
    ) -> None:
        self.netlink = netlink
        self.wanted = wanted
        self.name = str(wanted["name"])
        self.end = end
        self.metric = metric
        self._say = say
        self._began = time.monotonic()

    def up(self) -> list[str]:
        """Make or find it, configure it, wait for its addresses; name servers that it brought."""
        wanted = self.wanted
        link = self._port() if not wanted.get("links") else self._virtual()
        if mtu := wanted.get("mtu"):
            self.netlink.set_link(link.index, mtu=mtu)
        if not wanted.get("ra"):
            _set(_IPV6.format(self.name, "accept_ra"), "0")
        self.netlink.set_link(link.index, up=True)
        if not any(wanted.get(key) for key in ("dhcp", "dhcp6", "ra", "addresses")):
            return []
        link = self._wait(self._carrier, "has no link")
        self._step("link up")
        for address in wanted.get("addresses", ()):
            self.netlink.add_address(link.index, address)
        for route in (*wanted.get("routes", ()), *(f"default via {each}" for each in wanted.get("gateways", ()))):
            self._add(link, parse_route(route))
        servers: list[str] = []
        if wanted.get("dhcp"):
            lease = dhcp.ask(self.name, link.mac, max(0.5, self.end - time.monotonic()))
            self.netlink.add_address(link.index, lease.address)
            for given in lease.routes:
                self._add(link, replace(given, metric=self.metric))
            servers += lease.dns
            self._step(f"{lease.address} from the DHCP server {lease.server}")
        if wanted.get("dhcp6"):
            self._wait(lambda: self.netlink.addresses(link.index, local=True), "got no link-local IPv6 address")
            lease6 = dhcp6.ask(self.name, link.index, link.mac, max(0.5, self.end - time.monotonic()))
            self.netlink.add_address(link.index, f"{lease6.address}/128")
            servers += lease6.dns
            self._step(f"{lease6.address} from a DHCPv6 server")
        if wanted.get("ra"):
            self._step(self._advertised(link.index, alone=not (wanted.get("dhcp") or wanted.get("addresses"))))
        return servers

    def _advertised(self, index: int, *, alone: bool) -> str:
        """Wait for an IPv6 address and a router; returns the result. Not `alone`, the others may lead to the target."""
        look = partial(self._address6, index)
        found = self._wait(look, "got no IPv6 address from a router") if alone else self._soon(look, _SOLICITED)
        if not found:
            return "no IPv6 address from a router, going on with the others"
        # A router need not offer one: the target may be on the link.
        default = self._soon(self._has_default6, _ROUTER)
        return f"{found} from a router{'' if default else ', which offers no default route'}"

    def _add(self, link: Link, route: Route) -> None:
        """Add a route; one that this kernel does not take is said, and the others may do."""
        try:
            self.netlink.add_route(link.index, route)
        except OSError as error:
            self._say(f"{self.name}: no route {route}: {error.strerror or error}")

    def _port(self) -> Link:
        """The port with the hardware address or at the place, under the name and with the address of the plan.

        Hyper-V's interface and the virtual function behind it have one address, and the former is the latter's master.
        """
        mac, device = str(self.wanted.get("mac", "")).lower(), str(self.wanted.get("device", ""))

        def suits(link: Link) -> bool:
            if device:
                return place(link.name) == device
            return link.mac == mac if mac else link.name == self.name

        def look() -> Link | None:
            links = sorted(self.netlink.links(), key=lambda link: (link.master > 0, _driver(link.name) != _SYNTHETIC))
            return next(filter(suits, links), None)

        wanted = f"place {device}" if device else f"hardware address {mac or 'any'}"
        link: Link = self._wait(look, f"({wanted}) does not exist")
        if link.name != self.name:
            self.netlink.set_link(link.index, up=False)
            self.netlink.set_link(link.index, name=self.name)
        if mac and link.mac != mac:  # servers and switches know the one that the dead kernel gave it
            try:
                self.netlink.set_link(link.index, up=False)
                self.netlink.set_link(link.index, mac=mac)
            except OSError as error:
                self._say(f"{self.name}: keeps the hardware address {link.mac}: {error.strerror or error}")
        if _driver(self.name) in _LEFT_ACTIVE:
            self.netlink.set_link(link.index, up=True)
            self.netlink.set_link(link.index, up=False)
        return self._by_name(self.name)

    def _virtual(self) -> Link:
        """A VLAN, bond or bridge on the interfaces below it, which are there already."""
        below = [self._by_name(name) for name in self.wanted["links"]]
        for link in self.netlink.links():
            if link.name == self.name:  # the bonding driver makes a bond0 of its own when it is loaded
                self.netlink.delete_link(link.index)
        if number := self.wanted.get("vlan"):
            self.netlink.add_link(self.name, "vlan", vlan_data(number), below[0].index)
        elif mode := self.wanted.get("bond"):
            self.netlink.add_link(self.name, "bond", bond_data(mode))
        else:
            self.netlink.add_link(self.name, "bridge")
        made = self._by_name(self.name)
        if not self.wanted.get("vlan"):
            for port in below:
                self.netlink.set_link(port.index, up=False)  # a bond takes only ports that are down
                self.netlink.set_link(port.index, master=made.index)
                self.netlink.set_link(port.index, up=True)
        return self._by_name(self.name)

    def _by_name(self, name: str) -> Link:
        link = next((link for link in self.netlink.links() if link.name == name), None)
        if link is None:
            raise KdumpError(f"the interface {name}, on which {self.name} depends, does not exist")
        return link

    def _carrier(self) -> Link | None:
        link = self._by_name(self.name)
        return link if link.carrier else None

    def _address6(self, index: int) -> str | None:
        return next((str(each) for each in self.netlink.addresses(index) if each.version == 6), None)

    def _has_default6(self) -> bool:
        return any(line.startswith(_DEFAULT6) and line.split()[-1] == self.name for line in _lines(_ROUTES6))

    def _wait(self, look: Callable[[], Any], problem: str) -> Any:
        while not (found := look()):
            if time.monotonic() >= self.end:
                there = ", ".join(f"{link.name} {link.mac}" for link in self.netlink.links() if link.mac)
                raise KdumpError(f"the interface {self.name} {problem}", why=f"interfaces here: {there or 'none'}")
            time.sleep(_POLL)
        return found

    def _soon(self, look: Callable[[], Any], seconds: float) -> Any:
        """The first result of `look` within `seconds`, or its last answer."""
        end = min(self.end, time.monotonic() + seconds)
        while not (found := look()) and time.monotonic() < end:
            time.sleep(_POLL)
        return found

    def _step(self, what: str) -> None:
        self._say(f"{self.name}: {what}, {time.monotonic() - self._began:.2f} s")


def _from_below(interfaces: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """In an order in which each comes after those it stands on. Raises `KdumpError` for a circle."""
    names = {interface["name"] for interface in interfaces}
    waiting, ordered = list(interfaces), list[Mapping[str, Any]]()
    done: set[str] = set()
    while waiting:
        ready = [each for each in waiting if all(link in done or link not in names for link in each.get("links", ()))]
        if not ready:
            raise KdumpError(
                "the interfaces depend on each other in a circle", why=", ".join(w["name"] for w in waiting)
            )
        ordered += ready
        done.update(each["name"] for each in ready)
        waiting = [each for each in waiting if each not in ready]
    return ordered


def _driver(interface: str) -> str:
    """The name of a port's driver; empty if it has none."""
    link = Path(_DRIVER.format(interface))
    return link.resolve().name if link.exists() else ""


def _lines(path: str) -> list[str]:
    """Lines of a file of /proc; none if this kernel has no such file."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _set(path: str, value: str) -> None:
    """A sysctl, if this kernel has it."""
    if Path(path).exists():
        Path(path).write_text(value, encoding="ascii")
