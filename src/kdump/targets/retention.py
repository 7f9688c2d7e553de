"""Which old crashes of this host go when a new one is safe: one order, for the healthy host and the capture kernel.

Of what may go, crashes whose signature another one has that is as whole go first, incomplete ones before complete ones,
old before new:
the only trace of a kind of crash goes last. A crash's signature is in its manifest if the capture made a report; one
that has none is taken for the only one of its kind.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from kdump.dump import manifest_schema
from kdump.targets.protocol import LAST

_NAME = re.compile(r"^(.+)-(\d{8}T\d{6}Z)-[0-9a-f]{4}$")
_COMPLETE = "complete"


class Ranked(Protocol):
    """The facts that decide the order."""

    @property
    def status(self) -> str:
        """As in the manifest."""

    @property
    def when(self) -> float:
        """Grows with time."""

    @property
    def signature(self) -> str:
        """The signature, which crashes of one cause share; empty if it is not known."""


R = TypeVar("R", bound=Ranked)


def first_to_go(crashes: Sequence[R], candidates: Iterable[R]) -> R | None:
    """Which of `candidates` goes first if `crashes` are what there is; None if there is no candidate."""
    copies = Counter(crash.signature for crash in crashes if crash.signature)
    whole = Counter(crash.signature for crash in crashes if crash.signature and crash.status == _COMPLETE)

    def order(crash: R) -> tuple[bool, bool, float]:
        complete = crash.status == _COMPLETE
        # A complete crash has no copy in one that holds less.
        return (whole if complete else copies)[crash.signature] < 2, complete, crash.when

    return min(candidates, key=order, default=None)


class Store(Protocol):
    """A directory of crashes, wherever it is. Methods raise OSError or KdumpError."""

    def names(self) -> Iterable[str]:
        """Names of the directories in it."""

    def read(self, name: str) -> bytes:
        """A small file, "CRASH/FILE"."""

    def remove(self, name: str) -> None:
        """Delete a crash."""

    def free(self) -> int | None:
        """Bytes that may still be written; None if that is not known."""


@dataclass(frozen=True)
class _Old:
    name: str
    status: str
    when: float
    signature: str


def prune(store: Store, newest: str, keep: int, min_free: int) -> Iterator[str]:
    """Remove crashes beside `newest` (a crash's name); yields the name of each that went.

    At most `keep` of the same host stay, `newest` included (0: any number), and more go until `min_free` bytes are
    free. Other hosts' crashes and whatever is not named like a crash are not touched. Raises OSError, KdumpError.
    """
    names = older(store.names(), newest)
    crashes: list[_Old] = []

    def due() -> bool:
        free = store.free()
        return bool(keep and len(names) >= keep) or (free is not None and free < min_free)

    while names and due():
        crashes = crashes or [_look(store, name, age) for age, name in enumerate([*names, newest])]
        gone = first_to_go(crashes, (crash for crash in crashes if crash.name != newest))
        assert gone is not None
        store.remove(gone.name)
        names.remove(gone.name)
        crashes.remove(gone)
        yield gone.name


def older(names: Iterable[str], newest: str) -> list[str]:
    """Those of `names` that are other crashes of the host of the crash `newest`, oldest first."""
    found = _NAME.match(newest)
    if not found:
        return []
    mine = [name for name in names if (match := _NAME.match(name)) and match[1] == found[1] and name != newest]
    return sorted(mine, key=lambda name: name[len(found[1]) :])


def _look(store: Store, name: str, age: int) -> _Old:
    """The facts in a crash's manifest; none without a readable manifest. Its age is in its name."""
    try:
        found = manifest_schema.parse(store.read(f"{name}/{LAST}"))
    except Exception:  # noqa: BLE001 -- whatever is wrong with an old crash must not keep the new one from its place
        found = {}
    return _Old(name, str(found.get("status", "")), age, str(found.get("signature", "")))
