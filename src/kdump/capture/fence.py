"""Tells a cluster's nodes that this machine is saving its dump, so that they do not fence it meanwhile.

Messages as fence_kdump_send(8) sends them, for fence_kdump(8) to hear: two 32-bit numbers in the sender's byte order.
Source: fence-agents, agents/kdump/message.h (magic number and version of the protocol).
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Sequence

MAGIC = 0x1B302A40
VERSION = 1
MESSAGE = struct.pack("=II", MAGIC, VERSION)


def start(addresses: Sequence[str], port: int, interval: float, say: Callable[[str], None]) -> threading.Event:
    """Send to each address now and every `interval` seconds, in a thread that ends with the process.

    The event that is returned ends it earlier. An address that cannot be reached is said once.
    """
    stop = threading.Event()
    threading.Thread(target=_send, args=(tuple(addresses), port, interval, say, stop), daemon=True).start()
    return stop


def _send(
    addresses: Sequence[str], port: int, interval: float, say: Callable[[str], None], stop: threading.Event
) -> None:
    failed: set[str] = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four, _ipv6() as six:
        while True:
            for address in addresses:
                try:
                    (six if ":" in address else four).sendto(MESSAGE, (address, port))
                except OSError as error:
                    if address not in failed:
                        say(f"fence_kdump: no message to {address}: {error.strerror or error}")
                    failed.add(address)
            if stop.wait(interval):
                return


def _ipv6() -> socket.socket:
    try:
        return socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    except OSError:  # a kernel without IPv6: sending to such an address then fails and is said
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
