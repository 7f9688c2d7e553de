"""Values of options: each reader has bounds, and an error that names them. For argparse's `type`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

from kdump.errors import UsageError
from kdump.units import LARGEST_SIZE, LONGEST, parse_duration, parse_size, whole_number

MOST_THREADS: Final = 4096  # of them no more are started than there are CPUs
MOST_CPUS: Final = 4096


def number(low: int, high: int) -> Callable[[str], int]:
    """A reader of whole numbers in bounds, both included."""

    def read(text: str) -> int:
        try:
            return whole_number(text, low, high)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: expected {error}") from None

    return read


def size(low: int = 0, high: int = LARGEST_SIZE) -> Callable[[str], int]:
    """A reader of sizes in bytes."""

    def read(text: str) -> int:
        try:
            return parse_size(text, low, high)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error).replace("\n  ", "; ")) from None

    return read


def duration(low: float = 0, high: float = LONGEST) -> Callable[[str], float]:
    """A reader of durations in seconds."""

    def read(text: str) -> float:
        try:
            return parse_duration(text, low, high)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: expected {error}") from None

    return read


def address(text: str) -> int:
    """A physical address: decimal, 0x… or 0…, below 2**64."""
    try:
        found = int(text, 0) if text.isascii() and len(text) <= 24 else -1
    except ValueError:
        found = -1
    if not 0 <= found < 1 << 64:
        raise argparse.ArgumentTypeError(f"{text!r}: expected an address from 0 to 0xffffffffffffffff")
    return found


def architecture(text: str) -> str:
    """An architecture, as `uname -m` or Debian's dpkg names it; gives the former."""
    from kdump import arch
    from kdump.errors import KdumpError

    try:
        found = arch.by_machine(text)
        found.emulated  # noqa: B018 - read for what it raises
        return found.name
    except KdumpError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a machine ({error.why or error.what})") from None


def path_there(text: str) -> str:
    """The absolute path of a file on the machine that crashed."""
    if not text.startswith("/") or ".." in text.split("/"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected the path of the file on that machine, from / on")
    return text


def web_address(text: str) -> str:
    """An http:// or https:// URL; gives it without a slash at its end."""
    from kdump.errors import KdumpError
    from kdump.targets.https import Server

    try:
        Server.of(text)
    except KdumpError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected https://host or http://host:port") from None
    return text.rstrip("/")


def place(address: str) -> Callable[[str], tuple[str, int]]:
    """A reader of "ADDRESS:PORT", "[ADDRESS]:PORT" or a port alone, which is one of `address`."""

    def read(text: str) -> tuple[str, int]:
        host, _, port = text.rpartition(":")
        if not host.isascii() or not (port.isascii() and port.isdecimal()) or len(port) > 5 or int(port) > 65535:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a port from 0 to 65535, or ADDRESS:PORT")
        return host.strip("[]") or address, int(port)

    return read
