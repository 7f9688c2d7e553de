"""Commands of crash(8) that drgn lacks, and options that its commands lack.

drgn ships a framework and most of the commands (`drgn.commands`); each module here adds to them when it is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from kdump.bench.commands.base import KEY, Session

if TYPE_CHECKING:
    from drgn import Program

    from kdump.kernel.kernel import Kernel

MODULES = ("aliases", "code", "corelens", "files", "layout", "log", "memory", "search", "stacks", "symbols")


def install(program: Program, kernel: Kernel) -> Session:
    """Make the commands work on a program of `kernel`; they are drgn's own on any other program."""
    session = program.config[KEY] = Session(program, kernel)
    for name in MODULES:
        import_module(f"{__name__}.{name}")
    return session
