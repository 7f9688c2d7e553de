"""Where the files of a crash go: to all open targets at once, encrypted if there are recipients, with their digests."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from kdump.capture.console import Console
from kdump.capture.crash import VMCORE
from kdump.capture.outlet import Outlet
from kdump.capture.plan import ENCRYPTION
from kdump.capture.tee import Tee
from kdump.errors import KdumpError, describe
from kdump.files.drafts import INCOMPLETE
from kdump.targets.protocol import Session, Stream
from kdump.units import size_text

ENCRYPTED = ".age"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Begin = Callable[[], Stream]


class Vault:
    """The files of one crash on the targets of one group. `outlets` say which of them dropped out, and why."""

    def __init__(
        self,
        sessions: Sequence[Session],
        recipients: Sequence[str],
        console: Console,
        fault: Callable[[str], None],
    ) -> None:
        """`fault` fails on purpose if a test asks for it: see `Stages.fault`."""
        self.outlets = [Outlet(session) for session in sessions]
        self.entries: list[dict[str, Any]] = []  # as the manifest lists them
        self._recipients = recipients
        self._console = console
        self._fault = fault

    @property
    def encrypted(self) -> bool:
        """Whether only ciphertext leaves."""
        return bool(self._recipients)

    def room(self) -> int | None:
        """Bytes that may be written to each of the targets that are left; None if none of them can tell."""
        known: list[int] = []
        for outlet in self.outlets:
            with contextlib.suppress(OSError, KdumpError):  # it is gone: writing to it will say so
                if outlet.takes and (free := outlet.session.free()) is not None:
                    known.append(free)
        return min(known, default=None)

    def save(self, name: str, write: Callable[[Begin], None]) -> bool:
        """Save one file: sealed if `write` ends well; if it raises, what there is stays, named incomplete.

        `write` gets a function that begins the file, and begins it anew if it is called again.
        """
        tee: list[Tee] = []
        top: list[Stream] = []

        def begin() -> Stream:
            if top:
                top.pop().abort()
                tee.pop()
            tee.append(Tee(self._called(name), self._takers(name), self._lose))
            top.append(self._over(tee[0]))
            return top[0]

        try:
            write(begin)
            self._fault(f"seal {name}")
            top[0].seal()
        except BaseException:
            if top:
                top[0].abort()
                self.entries.append({**tee[0].describe(), "name": self._called(name) + INCOMPLETE})
            raise
        self.entries.append(tee[0].describe())
        self._console.say(f"{name} saved, {size_text(self.entries[-1]['size'])}")
        return True

    @property
    def unwanted(self) -> str:
        """Why none of the sessions that are left wants the dump; empty if one does, or none is left."""
        left = [outlet.declined for outlet in self.outlets if outlet.takes]
        return "; ".join(filter(None, left)) if None not in left else ""

    def _takers(self, name: str) -> list[Outlet]:
        """Who gets a file: everybody that is left, but the dump only those that want it."""
        return [each for each in self.outlets if each.takes and (name != VMCORE or each.declined is None)]

    def put(self, outlet: Outlet, name: str, text: Callable[[], bytes], *, public: bool = False) -> None:
        """A small file for one target, all at once. `public`: as it is, even if everything else is encrypted."""
        session = outlet.session
        stream = session.create(name) if public else self._over(session.create(self._called(name)))
        try:
            stream.write(text())
            stream.seal()
        except BaseException:
            stream.abort()
            raise

    def _called(self, name: str) -> str:
        return name + ENCRYPTED if self.encrypted else name

    def _over(self, below: Stream) -> Stream:
        """Encryption, if asked for, on top of a stream."""
        if not self.encrypted:
            return below
        # By name: the image holds it, and the library it needs, only if the plan has recipients.
        encrypted: Stream = import_module(ENCRYPTION).EncryptedStream(below, self._recipients)
        return encrypted

    def _lose(self, outlet: Outlet, error: Exception, last: bool) -> None:
        """A target failed. The last one that is merely full may be tried with something smaller."""
        full = isinstance(error, OSError) and error.errno in _FULL
        if full and last:
            return
        outlet.lost = describe(error)
        outlet.gone = outlet.gone or (isinstance(error, OSError) and not full)
        self._console.say(f"{outlet.session.where} failed: {describe(error)}")
