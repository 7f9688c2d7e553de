"""Dumps, and the vmlinux that `kdump debuginfo` makes of each, for other tools; the machines of tests/dump, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.conftest import CrashMaker, Once
from tests.dump.conftest import whole
from tests.report.machines import MACHINES
from tests.test_machines import NEWEST

from kdump.cli.main import main

__all__ = ["made", "series", "vmcore", "whole"]

CRASH = ("6.1", "6.12")  # what crash of Debian 12 knows, and what that of Debian 13 knows (tests/foreign.py)


def kernels(*series: str) -> list[Any]:
    """Parameters: the first kernel in the default run, the others with `-m matrix`."""
    return [pytest.param(each, marks=pytest.mark.matrix) if number else each for number, each in enumerate(series)]


@pytest.fixture(scope="session", params=kernels(*CRASH))
def series(request: pytest.FixtureRequest) -> str:
    """The kernel of the dump; those that a crash knows."""
    return str(request.param)


@pytest.fixture(scope="session")
def vmcore(series: str, lab_crash: CrashMaker) -> Path:
    """A dump of that kernel."""
    machine = NEWEST.options if series == NEWEST.kernel else MACHINES[series]
    return lab_crash(series, **machine).directory / "vmcore"


@pytest.fixture(scope="session")
def made(series: str, vmcore: Path, once: Once) -> Path:
    """A directory: `crash` and `drgn` are made of the dump, `elf` is the dump as ELF."""

    def make(directory: Path) -> Path:
        for tool in ("crash", "drgn"):
            assert main(["debuginfo", str(vmcore), "-o", str(directory / tool), "--for", tool]) == 0
        assert main(["convert", "--elf", str(vmcore), str(directory / "elf")]) == 0
        return directory

    found: Path = once(f"debuginfo {series}", make)
    return found
