"""rtnetlink, as much as bringing a network up takes: links, addresses, routes.

Sources: rtnetlink(7), netlink(7), include/uapi/linux/{netlink,rtnetlink,if_link,if_addr}.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_interface
from typing import Any

from kdump.capture.routes import Address, Route

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBi")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, dst len, src len, tos, table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type

_MAX_ERRNO = 4095  # MAX_ERRNO of include/linux/err.h
_CODE = struct.Struct("=i")  # struct nlmsgerr, its first field
_LENGTHS = {int(socket.AF_INET): 4, int(socket.AF_INET6): 16}  # bytes of an address

_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP, _CREATE, _EXCL, _REPLACE = 0x1, 0x4, 0x300, 0x400, 0x200, 0x100
_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _GETADDR, _NEWROUTE = 16, 17, 18, 20, 22, 24
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_CARRIER = 1, 3, 4, 5, 10, 18, 33
_INFO_KIND, _INFO_DATA = 1, 2
_VLAN_ID, _BOND_MODE, _BOND_MIIMON = 1, 1, 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_VIA = 1, 4, 5, 6, 7, 18
_ONLINK = 0x4  # RTNH_F_ONLINK
_UP = 0x1
_TENTATIVE, _NODAD = 0x40, 0x02
_TABLE_MAIN, _PROTOCOL_BOOT, _SCOPE_UNIVERSE, _SCOPE_LINK, _UNICAST = 254, 3, 0, 253, 1

# Source: drivers/net/bonding/bond_options.c, bond_mode_tbl.
BOND_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")


@dataclass(frozen=True)
class Link:
    """A network interface. `mac` is lower case with colons, empty if it has none; `master` 0 if it is nobody's port."""

    index: int
    name: str
    mac: str
    carrier: bool
    master: int = 0


class Netlink:
    """A socket to rtnetlink. Every method raises OSError with the kernel's errno."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def links(self) -> list[Link]:
        """All interfaces."""
        found = []
        for body in self._request(_GETLINK, _DUMP, _LINK.pack(0, 0, 0, 0, 0)):
            _, _, index, _, _ = _unpacked(_LINK, body)
            values = dict(_attributes(body[_LINK.size :]))
            name = values.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "surrogateescape")
            mac, carrier = values.get(_IFLA_ADDRESS, b"").hex(":"), values.get(_IFLA_CARRIER) == b"\1"
            found.append(Link(index, name, mac, carrier, int.from_bytes(values.get(_IFLA_MASTER, b""), sys.byteorder)))
        return found

    def set_link(
        self, index: int, *, up: bool | None = None, name: str = "", mtu: int = 0, master: int = 0, mac: str = ""
    ) -> None:
        """Change a link; what is left out stays."""
        flags, change = (0, 0) if up is None else (_UP if up else 0, _UP)
        values = {}
        if name:
            values[_IFLA_IFNAME] = name.encode() + b"\0"
        if mtu:
            values[_IFLA_MTU] = struct.pack("=I", mtu)
        if mac:
            values[_IFLA_ADDRESS] = bytes.fromhex(mac.replace(":", ""))
        if master:
            values[_IFLA_MASTER] = struct.pack("=I", master)
        self._change(_NEWLINK, 0, _LINK.pack(0, 0, index, flags, change), values)

    def add_link(self, name: str, kind: str, data: bytes = b"", below: int = 0) -> None:
        """Make a virtual link: "vlan" (with `vlan_data`, on the link `below`), "bond" (`bond_data`) or "bridge"."""
        info = _attribute(_INFO_KIND, kind.encode()) + (_attribute(_INFO_DATA, data) if data else b"")
        values = {_IFLA_IFNAME: name.encode() + b"\0", _IFLA_LINKINFO: info}
        if below:
            values[_IFLA_LINK] = struct.pack("=I", below)
        self._change(_NEWLINK, _CREATE | _EXCL, _LINK.pack(0, 0, 0, 0, 0), values)

    def delete_link(self, index: int) -> None:
        """Remove a virtual link."""
        self._change(_DELLINK, 0, _LINK.pack(0, 0, index, 0, 0), {})

    def addresses(self, index: int, *, local: bool = False) -> list[Address]:
        """Usable addresses of a link: valid beyond it (or `local` to it), and for IPv6 past duplicate detection."""
        found: list[Address] = []
        for body in self._request(_GETADDR, _DUMP, _ADDRESS.pack(0, 0, 0, 0, 0)):
            family, _, flags, scope, at = _unpacked(_ADDRESS, body)
            values = dict(_attributes(body[_ADDRESS.size :]))
            if at != index or (scope >= _SCOPE_LINK) != local or flags & _TENTATIVE or _IFA_ADDRESS not in values:
                continue
            raw = values[_IFA_ADDRESS]
            if len(raw) == _LENGTHS.get(family):
                found.append(IPv4Address(raw) if family == socket.AF_INET else IPv6Address(raw))
        return found

    def add_address(self, index: int, address: str) -> None:
        """Give a link an address with prefix length, "192.0.2.7/24"; usable at once. It may have it already."""
        wanted = ip_interface(address)
        family = socket.AF_INET if wanted.version == 4 else socket.AF_INET6
        values = {_IFA_LOCAL: wanted.ip.packed, _IFA_ADDRESS: wanted.ip.packed}
        if wanted.version == 6:  # duplicate detection would take a second, and this machine had the address until now
            values[_IFA_FLAGS] = struct.pack("=I", _NODAD)
        body = _ADDRESS.pack(family, wanted.network.prefixlen, 0, _SCOPE_UNIVERSE, index)
        self._change(_NEWADDR, _CREATE | _REPLACE, body, values)

    def add_route(self, index: int, route: Route) -> None:
        """Add a route through a link. The gateway may be outside the link's prefix."""
        destination, gateway = route.destination, route.gateway
        family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
        on_link = gateway is None and destination.version == 4
        scope, flags = (_SCOPE_LINK, 0) if on_link else (_SCOPE_UNIVERSE, _ONLINK if gateway else 0)
        body = _ROUTE.pack(family, destination.prefixlen, 0, 0, _TABLE_MAIN, _PROTOCOL_BOOT, scope, _UNICAST, flags)
        values = {_RTA_OIF: struct.pack("=I", index)}
        if destination.prefixlen:
            values[_RTA_DST] = destination.network_address.packed
        if gateway is not None and gateway.version == destination.version:
            values[_RTA_GATEWAY] = gateway.packed
        elif gateway is not None:
            values[_RTA_VIA] = struct.pack("=H", socket.AF_INET6) + gateway.packed
        if route.source is not None:
            values[_RTA_PREFSRC] = route.source.packed
        if route.metric:
            values[_RTA_PRIORITY] = struct.pack("=I", route.metric)
        self._change(_NEWROUTE, _CREATE | _REPLACE, body, values)

    def _change(self, kind: int, flags: int, body: bytes, values: Mapping[int, bytes]) -> None:
        for _ in self._request(kind, _ACK | flags, body + b"".join(_attribute(*item) for item in values.items())):
            pass

    def _request(self, kind: int, flags: int, body: bytes) -> Iterator[bytes]:
        """Send one request; the bodies of its answers."""
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST, self._sequence, 0) + body)
        while True:
            data = self._socket.recv(1 << 17)
            while data:
                length, kind, _, sequence, _ = _unpacked(_HEADER, data)
                if not _HEADER.size <= length <= len(data):
                    raise _damaged()
                body, data = data[_HEADER.size : length], data[length + 3 & ~3 :]
                if sequence != self._sequence:
                    continue  # of a request that was given up
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    (code,) = _unpacked(_CODE, body)
                    if not code:
                        return
                    if not -_MAX_ERRNO <= code < 0:
                        raise _damaged()
                    raise OSError(-code, os.strerror(-code), "rtnetlink")
                yield body


def vlan_data(number: int) -> bytes:
    """The data of `add_link` for a VLAN id."""
    return _attribute(_VLAN_ID, struct.pack("=H", number))


def bond_data(mode: str) -> bytes:
    """The data of `add_link` for a bonding mode by name. Links are watched every 100 ms."""
    return _attribute(_BOND_MODE, bytes([BOND_MODES.index(mode)])) + _attribute(_BOND_MIIMON, struct.pack("=I", 100))


def _attribute(kind: int, data: bytes) -> bytes:
    return (_ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data).ljust(
        _ATTRIBUTE.size + len(data) + 3 & ~3, b"\0"
    )


def _unpacked(layout: struct.Struct, data: bytes) -> tuple[Any, ...]:
    if len(data) < layout.size:
        raise _damaged()
    return layout.unpack_from(data)


def _damaged() -> OSError:
    return OSError(errno.EBADMSG, os.strerror(errno.EBADMSG), "rtnetlink")


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[_ATTRIBUTE.size : length]
        data = data[length + 3 & ~3 :]
