"""One open target of a crash, and its result."""

from __future__ import annotations

from kdump.targets.protocol import Session


class Outlet:
    """A session, and whether it still takes files: `lost` says why it dropped out, `declined` why it wants no dump.

    Nothing more is tried on one that is `gone`: each try may take half a minute.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.lost: str | None = None
        self.declined: str | None = None
        self.gone = False

    @property
    def takes(self) -> bool:
        """Whether it still takes files."""
        return self.lost is None

    def drop(self, why: str) -> None:
        """Nothing more goes to it."""
        self.lost, self.gone = why, True
