"""Commands that go by other tools' names, for scripts that call those: the same verbs, exit statuses and lines.

`kdump setup --replace` installs a wrapper for each below /usr/local/sbin, which comes before /usr/sbin.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kdump.errors import UsageError
from kdump.host.changes import Edit, file_change

NAMES: Final = ("kdumpctl", "kdump-config", "vmcore-dmesg")
PLACE: Final = "/usr/local/sbin"


def edit(command: str, root: Path = Path("/")) -> Edit:
    """The edit that installs the wrappers; `command` is the path of `kdump`."""
    return Edit(
        tuple(
            change
            for name in NAMES
            for change in file_change(f"{PLACE}/{name}", f'#!/bin/sh\nexec {command} {name} "$@"\n', root, 0o755)
        )
    )


def refuse_rest(verb: str, rest: Sequence[str]) -> None:
    """Raise UsageError if a verb that takes no arguments has some: doing it anyway would not be what was asked."""
    if rest:
        raise UsageError(f"{verb} takes no arguments here", why=" ".join(rest), remedy="nothing was done")


def call(arguments: Sequence[str]) -> int:
    """Run a command of ours and return its exit status; errors are printed as always."""
    from kdump.cli.main import main

    return main(arguments)


def operational() -> bool:
    """Whether a crash now would leave a dump, which is more than that something is loaded."""
    from kdump.host import in_force, readiness

    return readiness.Examination(in_force.load()).run().ready
