"""A DHCPv4 client that asks once: enough to be reachable for the minutes that a dump takes.

Sources: RFC 2131 (messages, fixed fields), RFC 2132 (options), RFC 3442 (classless routes).
"""

from __future__ import annotations

import os
import socket
import struct
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from kdump.capture.routes import Route
from kdump.errors import KdumpError

_ANYWHERE = IPv4Network("0.0.0.0/0")
_CLIENT, _SERVER = 68, 67
_FIXED = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE = b"\x63\x82\x53\x63"
_BROADCAST_FLAG = 0x8000  # we cannot receive unicast before we have the address
_DISCOVER, _OFFER, _REQUEST, _ACK, _NAK = 1, 2, 3, 5, 6
_MASK, _ROUTER, _DNS, _REQUESTED, _LEASE, _TYPE, _SERVER_ID, _WANTED, _PAD, _END = 1, 3, 6, 50, 51, 53, 54, 55, 0, 255
_CLASSLESS = 121
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 8.0  # seconds before a message is sent again


@dataclass(frozen=True)
class Lease:
    """The server's answer."""

    address: str  # with prefix length
    routes: tuple[Route, ...]  # the default route, or what the server gives in its place
    dns: tuple[str, ...]
    server: str


def ask(interface: str, mac: str, seconds: float) -> Lease:
    """Discover, request, and return the lease. Raises `KdumpError` if no server answers within `seconds`."""
    end = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.bind(("", _CLIENT))
        identifier = int.from_bytes(os.urandom(4), "big")
        hardware = bytes.fromhex(mac.replace(":", ""))
        offer = _exchange(sock, _message(identifier, hardware, _DISCOVER, {}), identifier, (_OFFER,), end, interface)
        wanted = {_REQUESTED: offer[0].packed, _SERVER_ID: offer[1].get(_SERVER_ID, b"")}
        request = _message(identifier, hardware, _REQUEST, wanted)
        address, options = _exchange(sock, request, identifier, (_ACK, _NAK), end, interface)
        if options[_TYPE] == bytes([_NAK]):
            raise KdumpError(f"the DHCP server on {interface} withdrew its offer")
    return lease_in(address, options)


def lease_in(address: IPv4Address, options: dict[int, bytes]) -> Lease:
    """The lease in an answer. An invalid mask is ignored; other options count if their length is right."""
    return Lease(
        f"{address}/{_prefix_length(options.get(_MASK, b''))}",
        routes_in(options),
        tuple(str(each) for each in _addresses(options.get(_DNS, b""))),
        str(IPv4Address(options[_SERVER_ID])) if len(options.get(_SERVER_ID, b"")) == 4 else "",
    )


def _exchange(  # noqa: PLR0917
    sock: socket.socket, message: bytes, identifier: int, kinds: tuple[int, ...], end: float, interface: str
) -> tuple[IPv4Address, dict[int, bytes]]:
    """Send until a fitting answer comes: (address for us, options)."""
    wait = _FIRST_WAIT
    while (now := time.monotonic()) < end:
        sock.sendto(message, ("255.255.255.255", _SERVER))
        again = min(now + wait, end)
        wait = min(2 * wait, _LONGEST_WAIT)
        while (left := again - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                answer = parse(sock.recv(4096), identifier)
            except TimeoutError:
                break
            if answer and answer[1].get(_TYPE) in [bytes([kind]) for kind in kinds] and _fit(answer):
                return answer
    raise KdumpError(f"no DHCP server answers on {interface}", remedy="configure a static address for the capture")


def _fit(answer: tuple[IPv4Address, dict[int, bytes]]) -> bool:
    """Whether an answer gives an address that a host may have, or takes one back."""
    address, options = answer
    odd = address.is_unspecified or address.is_multicast or address.is_loopback or address.is_reserved
    return options[_TYPE] == bytes([_NAK]) or not odd


def _prefix_length(mask: bytes) -> int:
    """The length of a mask of ones and then zeros; that of a network of 256 addresses for anything else."""
    inverse = int.from_bytes(mask, "big") ^ 0xFFFFFFFF
    if len(mask) != 4 or inverse & (inverse + 1) or inverse == 0xFFFFFFFF:
        return 24
    return 32 - inverse.bit_length()


def _message(identifier: int, hardware: bytes, kind: int, options: dict[int, bytes]) -> bytes:
    zero = bytes(4)
    fixed = _FIXED.pack(
        1, 1, len(hardware), 0, identifier, 0, _BROADCAST_FLAG, zero, zero, zero, zero, hardware, b"", b"", _COOKIE
    )
    options = {_TYPE: bytes([kind]), _WANTED: bytes([_CLASSLESS, _MASK, _ROUTER, _DNS]), **options}
    return fixed + b"".join(bytes([code, len(value)]) + value for code, value in options.items()) + bytes([_END])


def parse(data: bytes, identifier: int) -> tuple[IPv4Address, dict[int, bytes]] | None:
    """(the address given, options by number) of an answer to the exchange `identifier`; None for anything else."""
    if len(data) < _FIXED.size:
        return None
    fields = _FIXED.unpack_from(data)
    if fields[0] != 2 or fields[4] != identifier or fields[14] != _COOKIE:
        return None
    options: dict[int, bytes] = {}
    at = _FIXED.size
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        if at + 2 > len(data) or at + 2 + data[at + 1] > len(data):
            return None
        options[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
    return IPv4Address(fields[8]), options


def routes_in(options: dict[int, bytes]) -> tuple[Route, ...]:
    """Classless routes, which replace the router option; a list of them that is damaged is ignored."""
    if routes := _classless(options.get(_CLASSLESS, b"")):
        return routes
    return tuple(Route(_ANYWHERE, router) for router in _addresses(options.get(_ROUTER, b""))[:1])


def _classless(raw: bytes) -> tuple[Route, ...]:
    """Each: prefix length, as many bytes of the destination as that has, router (0.0.0.0: on the link)."""
    found = []
    at = 0
    while at < len(raw):
        length = raw[at]
        middle = at + 1 + (length + 7) // 8
        if length > 32 or middle + 4 > len(raw):
            return ()
        network = IPv4Network((raw[at + 1 : middle].ljust(4, b"\0"), length), strict=False)
        router = IPv4Address(raw[middle : middle + 4])
        found.append(Route(network, None if router.is_unspecified else router))
        at = middle + 4
    return tuple(found)


def _addresses(raw: bytes) -> list[IPv4Address]:
    return [IPv4Address(raw[at : at + 4]) for at in range(0, len(raw) - 3, 4)]
