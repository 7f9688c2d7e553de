"""A DHCPv6 client that asks once for an address, as long as a dump takes.

Source: RFC 8415 (messages 18.2.1 and 18.2.2, options 21), RFC 3646 (name servers). The default route comes from
router advertisements, never by DHCPv6.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address

from kdump.errors import KdumpError

_CLIENT, _SERVER, _SERVERS = 546, 547, "ff02::1:2"
_SOLICIT, _ADVERTISE, _REQUEST, _REPLY = 1, 2, 3, 7
_CLIENT_ID, _SERVER_ID, _IA_NA, _IA_ADDRESS, _WANTED, _ELAPSED, _STATUS, _DNS = 1, 2, 3, 5, 6, 8, 13, 23
_ETHERNET = 1  # hardware type in a DUID of the link-layer kind
_IDENTITY = b"kdmp"  # of the one association that we ask for
_OPTION = struct.Struct("!HH")
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 8.0  # seconds before a message is sent again
_ADDRESS_LENGTH = 16


@dataclass(frozen=True)
class Lease6:
    """The server's answer: the address without a prefix, and name servers."""

    address: IPv6Address
    dns: tuple[str, ...]


def ask(interface: str, index: int, mac: str, seconds: float) -> Lease6:
    """Solicit, request, and return the lease. Raises KdumpError if no server gives an address within `seconds`.

    The interface needs its link-local address before.
    """
    end = time.monotonic() + seconds
    client = struct.pack("!HH", 3, _ETHERNET) + bytes.fromhex(mac.replace(":", ""))
    ours = {_CLIENT_ID: client, _IA_NA: _IDENTITY + bytes(8), _WANTED: struct.pack("!H", _DNS), _ELAPSED: bytes(2)}
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        sock.bind(("::", _CLIENT))
        offered = _exchange(sock, index, _SOLICIT, ours, _ADVERTISE, end, interface)
        request = {**ours, _SERVER_ID: offered[_SERVER_ID], _IA_NA: offered[_IA_NA]}
        given = _exchange(sock, index, _REQUEST, request, _REPLY, end, interface)
    address = address_in(given[_IA_NA])
    assert address is not None  # _exchange saw to it
    names = given.get(_DNS, b"")
    starts = range(0, len(names) - _ADDRESS_LENGTH + 1, _ADDRESS_LENGTH)
    return Lease6(address, tuple(str(IPv6Address(names[at : at + _ADDRESS_LENGTH])) for at in starts))


def _exchange(  # noqa: PLR0917
    sock: socket.socket, index: int, kind: int, options: dict[int, bytes], answer: int, end: float, interface: str
) -> dict[int, bytes]:
    """Send until an answer with an address comes; its options."""
    transaction = os.urandom(3)
    message = bytes([kind]) + transaction
    message += b"".join(_OPTION.pack(code, len(value)) + value for code, value in options.items())
    wait = _FIRST_WAIT
    refused = ""
    while (now := time.monotonic()) < end:
        sock.sendto(message, (_SERVERS, _SERVER, 0, index))
        again = min(now + wait, end)
        wait = min(2 * wait, _LONGEST_WAIT)
        while (left := again - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                data = sock.recv(4096)
            except TimeoutError:
                break
            found = parse(data, answer, transaction)
            if found is None or found.get(_CLIENT_ID) != options[_CLIENT_ID] or _SERVER_ID not in found:
                continue
            if address_in(found.get(_IA_NA, b"")) is not None:
                return found
            refused = "a DHCPv6 server answers, but gives no address"
    raise KdumpError(
        refused or f"no DHCPv6 server answers on {interface}", remedy="configure a static address for the capture"
    )


def parse(data: bytes, kind: int, transaction: bytes) -> dict[int, bytes] | None:
    """Options by number of a message of that kind in our exchange; None for anything else, damaged ones included."""
    if len(data) < 4 or data[0] != kind or data[1:4] != transaction:
        return None
    try:
        return dict(_options(data[4:]))
    except ValueError:
        return None


def address_in(association: bytes) -> IPv6Address | None:
    """The first usable address in an identity association (IA_NA); None if it has none."""
    try:
        for code, value in _options(association[12:]):
            if code == _STATUS and value[:2] not in (b"", b"\0\0"):
                return None
            if code == _IA_ADDRESS and len(value) >= 24 and value[20:24] != bytes(4):  # a valid lifetime of 0 ends it
                return IPv6Address(value[:_ADDRESS_LENGTH])
    except ValueError:
        pass
    return None


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, content) of each option. Raises ValueError if one ends beyond the data."""
    while data:
        if len(data) < _OPTION.size:
            raise ValueError("an option's header is cut")
        code, length = _OPTION.unpack_from(data)
        end = _OPTION.size + length
        if end > len(data):
            raise ValueError("an option ends beyond the message")
        yield code, data[_OPTION.size : end]
        data = data[end:]
