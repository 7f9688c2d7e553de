"""Host names to addresses in the capture kernel: a small DNS client, with what the healthy host knew as the fallback.

The C library's resolver would want /etc/resolv.conf and nsswitch.conf on a file system that is read-only.
Source: RFC 1035.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Sequence
from ipaddress import ip_address

from kdump.errors import KdumpError

_PORT = 53
_HEADER = struct.Struct("!HHHHHH")
_A, _AAAA, _IN = 1, 28, 1
_SIZES = {_A: 4, _AAAA: 16}  # bytes of an address
_RECURSION = 0x0100
_ANSWER = 0x80  # in the third byte
_TRY = 2.0  # seconds for one server to answer


def resolve(
    host: str,
    servers: Sequence[str],
    fallback: Sequence[str] = (),
    seconds: float = 10.0,
    *,
    search: Sequence[str] = (),
) -> list[str]:
    """Addresses of `host`, IPv4 first. A literal address is returned as it is.

    The domains of `search` are appended as resolv.conf(5) has it: after the bare name if that has a dot, before it if
    not, never if it ends in one. Raises `KdumpError` if no server knows it and there is no fallback.
    """
    bare = host.strip("[]")
    try:
        return [str(ip_address(bare))]
    except ValueError:
        pass
    end = time.monotonic() + seconds
    reasons = []
    for server in servers:
        for name in candidates(bare, search):
            found: list[str] = []
            try:
                for kind in (_A, _AAAA):
                    found += _ask(server, name, kind, max(0.1, min(_TRY, end - time.monotonic())))
            except (OSError, ValueError) as error:  # the latter: a name that no question can hold
                reasons.append(f"{server}: {getattr(error, 'strerror', '') or error}")
                if isinstance(error, OSError) and not found:
                    break  # it would not answer for another name, either
            if found:
                return found
    if fallback:
        return list(fallback)
    why = "; ".join(reasons) or ("no name server is known" if not servers else "the name servers do not know it")
    raise KdumpError(f"the name {host} cannot be resolved", why=why, remedy="write an address into the target's URL")


def candidates(host: str, search: Sequence[str]) -> list[str]:
    """The names to ask for, in order."""
    if host.endswith("."):
        return [host]
    longer = [f"{host}.{domain.strip('.')}" for domain in search if domain.strip(".")]
    return [host, *longer] if "." in host else [*longer, host]


def system_addresses(host: str) -> list[str]:
    """Addresses by the healthy host's own resolver. Raises `KdumpError`."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # the latter: a name that does not encode
        why = getattr(error, "strerror", "") or str(error)
        raise KdumpError(f"the name {host} cannot be resolved", why=why) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _ask(server: str, host: str, kind: int, seconds: float) -> list[str]:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    identifier = int.from_bytes(os.urandom(2), "big")
    end = time.monotonic() + seconds
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(seconds)
        sock.connect((server, _PORT))
        sock.send(query(identifier, host, kind))
        while (left := end - time.monotonic()) > 0:  # whatever else comes meanwhile
            sock.settimeout(left)
            answer = sock.recv(4096)
            if len(answer) >= _HEADER.size and answer[:2] == identifier.to_bytes(2, "big") and answer[2] & _ANSWER:
                return addresses(answer, kind)
    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def query(identifier: int, host: str, kind: int) -> bytes:
    """A question for A (1) or AAAA (28) records. Names are ASCII: international ones in their "xn--" form.

    Raises ValueError for a name that cannot be asked for: its labels have 1 to 63 bytes, and all together 255.
    """
    if not host.isascii():
        raise ValueError("the name is not ASCII")
    labels = [label.encode("ascii") for label in host.removesuffix(".").split(".")]
    if not all(0 < len(label) < 64 for label in labels) or sum(len(label) + 1 for label in labels) > 254:
        raise ValueError("no host has such a name")
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return _HEADER.pack(identifier, _RECURSION, 1, 0, 0, 0) + name + struct.pack("!HH", kind, _IN)


def addresses(answer: bytes, kind: int) -> list[str]:
    """The addresses in an answer; aliases need no following, because servers that recurse add their targets."""
    found: list[str] = []
    try:
        _, _, questions, answers, _, _ = _HEADER.unpack_from(answer)
        at = _HEADER.size
        for _ in range(questions):
            at = _skip_name(answer, at) + 4
        for _ in range(answers):
            at = _skip_name(answer, at)
            record, _, _, size = struct.unpack_from("!HHIH", answer, at)
            at += 10
            if record == kind and size == _SIZES[kind] and at + size <= len(answer):
                found.append(str(ip_address(answer[at : at + size])))
            at += size
    except (IndexError, struct.error, ValueError):
        return found  # cut short or nonsense: what was read before is good
    return found


def _skip_name(data: bytes, at: int) -> int:
    while data[at]:
        if data[at] & 0xC0:
            return at + 2
        at += 1 + data[at]
    return at + 1
