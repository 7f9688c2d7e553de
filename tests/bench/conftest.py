"""Dumps, and the vmlinux that `kdump debuginfo` makes of each, for other tools; the machines of tests/dump, too."""

from __future__ import annotations

from collections.abc import Callable
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
def dump_of(lab_crash: CrashMaker) -> Callable[[str], Path]:
    """A dump of a kernel, of a machine that other tests crash as well."""
    machines = {**MACHINES, NEWEST.kernel: NEWEST.options}
    return lambda series: lab_crash(series, **machines[series]).directory / "vmcore"


@pytest.fixture(scope="session")
def vmcore(series: str, dump_of: Callable[[str], Path]) -> Path:
    """The dump of that kernel."""
    return dump_of(series)


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
