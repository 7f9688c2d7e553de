"""The network of the capture kernel, brought up as the plan says: ports by hardware address, then what stands on them.

An interface of the plan is a table as in the configuration (`kdump.host.config.Interface`): name, mac, dhcp, ra,
addresses, gateways, mtu, vlan, bond, bridge, links.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from kdump.capture.dhcp import ask
from kdump.capture.netlink import Link, Netlink, bond_data, vlan_data
from kdump.capture.stages import DeadlineError, describe
from kdump.errors import KdumpError

_POLL = 0.05
_IPV6 = "/proc/sys/net/ipv6/conf/{}/{}"


def bring_up(
    plan: Mapping[str, Any], seconds: float, say: Callable[[str], None], degrade: Callable[[str], None]
) -> list[str]:
    """Bring up every interface of `plan`, loopback too; the name servers, the plan's before those that DHCP gave.

    Each step is printed with its time. `degrade` is told of an interface that does not come up in its share of the
    `seconds`: the others may lead to a target all the same.
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
                servers += _Interface(netlink, interface, share, say).up()
            except DeadlineError:
                raise
            except (KdumpError, OSError) as error:
                degrade(describe(error))
    finally:
        netlink.close()
    return list(dict.fromkeys(servers))


class _Interface:
    """One interface on its way up."""

    def __init__(self, netlink: Netlink, wanted: Mapping[str, Any], end: float, say: Callable[[str], None]) -> None:
        self.netlink = netlink
        self.wanted = wanted
        self.name = str(wanted["name"])
        self.end = end
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
        needs_address = wanted.get("dhcp") or wanted.get("ra") or wanted.get("addresses")
        if not needs_address:
            return []
        link = self._wait(self._carrier, "has no link")
        self._step("link up")
        for address in wanted.get("addresses", ()):
            self.netlink.add_address(link.index, address)
        for gateway in wanted.get("gateways", ()):
            self.netlink.add_default_route(link.index, ip_address(gateway))
        servers: list[str] = []
        if wanted.get("dhcp"):
            lease = ask(self.name, link.mac, max(0.5, self.end - time.monotonic()))
            self.netlink.add_address(link.index, lease.address)
            if lease.gateway:
                self.netlink.add_default_route(link.index, lease.gateway)
            servers += lease.dns
            self._step(f"{lease.address} from the DHCP server {lease.server}")
        if wanted.get("ra"):
            found = self._wait(lambda: self._routed(link.index), "got no IPv6 address from a router")
            self._step(f"{found} from a router")
        return servers

    def _port(self) -> Link:
        """The port with the hardware address, under the name that the plan gives it."""
        mac = str(self.wanted.get("mac", "")).lower()

        def look() -> Link | None:
            links = self.netlink.links()
            return next((link for link in links if (link.mac == mac if mac else link.name == self.name)), None)

        link: Link = self._wait(look, f"(hardware address {mac or 'any'}) does not exist")
        if link.name != self.name:
            self.netlink.set_link(link.index, up=False)
            self.netlink.set_link(link.index, name=self.name)
        return link

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
            raise KdumpError(f"the interface {name}, which {self.name} stands on, is not there")
        return link

    def _carrier(self) -> Link | None:
        link = self._by_name(self.name)
        return link if link.carrier else None

    def _routed(self, index: int) -> str | None:
        return next((str(each) for each in self.netlink.addresses(index) if each.version == 6), None)

    def _wait(self, look: Callable[[], Any], problem: str) -> Any:
        while (found := look()) is None:
            if time.monotonic() >= self.end:
                there = ", ".join(f"{link.name} {link.mac}" for link in self.netlink.links() if link.mac)
                raise KdumpError(f"the interface {self.name} {problem}", why=f"interfaces here: {there or 'none'}")
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
                "the interfaces stand on each other in a circle", why=", ".join(w["name"] for w in waiting)
            )
        ordered += ready
        done.update(each["name"] for each in ready)
        waiting = [each for each in waiting if each not in ready]
    return ordered


def _set(path: str, value: str) -> None:
    """A sysctl, if this kernel has it."""
    if Path(path).exists():
        Path(path).write_text(value, encoding="ascii")
