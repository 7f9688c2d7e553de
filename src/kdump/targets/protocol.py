"""The one protocol of every target: check on the healthy host, open in the capture kernel, write, seal, describe.

A dump is written in an order that suits streams: the body front to back, then the head (header, bitmaps, descriptors),
whose contents are known last. A target without random access (object storage, encryption) therefore works as long as
the writer says beforehand where the body begins; see `Stream`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

LAST = "manifest.json"  # the file of a crash for which there must be room at the end


@dataclass(frozen=True)
class Spec:
    """A target as it travels in the image: its URL and the facts that the healthy host found out about it.

    `facts` are strings by name; each target module documents its own (file: uuid, fstype, options, path).
    """

    url: str
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> SplitResult:
        """The URL, split."""
        return urlsplit(self.url)


@dataclass(frozen=True)
class Ground:
    """The environment of a target in the capture kernel; a test replaces it.

    `mount(source, directory, fstype, flags, options)` and `unmount(directory, flags)` raise OSError; `say` prints a
    line; `remaining()` are the seconds that may still be spent; mounts and temporary files go below `run`.
    """

    mount: Callable[[str, str, str, int, str], None]
    unmount: Callable[[str, int], None]
    say: Callable[[str], None]
    remaining: Callable[[], float]
    dns: Sequence[str] = ()  # name servers
    search: Sequence[str] = ()  # domains that are appended to short names
    run: str = "/run/kdump"
    dev: str = "/dev"
    sysfs: str = "/sys"


class Stream(Protocol):
    """One file on a target while it is being written; its name ends in `.incomplete` until `seal`.

    Bytes go in front to back with `write`; `pwrite` may fill, once, a gap that `skip` left at the front. After `seal`
    the file is durable and has its name; after `abort` what there is stays, named incomplete, where the target can
    do that, and nothing stays where it cannot.
    """

    name: str

    def skip(self, size: int) -> None:
        """Leave the first `size` bytes to a later `pwrite`. Only before the first `write`."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append; returns the number of bytes, which is always all of them. Raises OSError or KdumpError."""

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Put bytes at an offset inside the gap at the front."""

    def seal(self) -> None:
        """Make the file durable under its final name."""

    def abort(self) -> None:
        """Stop; leave what there is marked as incomplete. Never raises."""


class Session(Protocol):
    """A target that is open: one crash is being saved to it."""

    where: str  # the crash's place as a person would name it, for messages and the manifest

    def free(self) -> int | None:
        """Bytes that may still be written; None if the target cannot tell."""

    def create(self, name: str) -> Stream:
        """Begin a file of the crash. `name` is a plain name such as "vmcore"."""

    def prune(self, keep: int, min_free: int) -> list[str]:
        """The new crash is safe: old ones of this host go, as `retention.prune` says; returns their names."""

    def close(self) -> None:
        """Let go: unmount, hang up. Raises OSError or KdumpError if what was written may not be durable."""


class Target(Protocol):
    """Where dumps go. `check` belongs to the healthy host, `open` to the capture kernel."""

    spec: Spec

    def describe(self) -> str:
        """One line for people, without secrets."""

    def files(self) -> Mapping[str, Path | bytes]:
        """Files of the image for this target, beyond those that its facts name: by path in the image."""

    def check(self) -> Spec:
        """On the healthy host: find out and verify everything that the capture kernel will need.

        Returns the specification with its facts filled in. Raises `KdumpError` with the reason and the remedy if this
        target could not take a dump.
        """

    def open(self, crash: str, ground: Ground) -> Session:
        """In the capture kernel: make the target ready and begin the crash of that (unique) name."""
