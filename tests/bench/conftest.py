"""A dump, and the vmlinux that `kdump debuginfo` makes of it, for other tools; the machines of tests/dump, too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.conftest import CrashMaker, Once
from tests.dump.conftest import whole
from tests.report.machines import MACHINES

from kdump.cli.main import main

__all__ = ["made", "vmcore", "whole"]


@pytest.fixture(scope="session")
def vmcore(lab_crash: CrashMaker) -> Path:
    """A dump of 6.1."""
    return lab_crash("6.1", **MACHINES["6.1"]).directory / "vmcore"


@pytest.fixture(scope="session")
def made(vmcore: Path, once: Once) -> Path:
    """A directory: `crash` and `drgn` are made of the dump, `elf` is the dump as ELF."""

    def make(directory: Path) -> Path:
        shutil.copy(vmcore, directory / "vmcore")
        for tool in ("crash", "drgn"):
            assert main(["debuginfo", str(vmcore), "-o", str(directory / tool), "--for", tool]) == 0
        assert main(["convert", "--elf", str(vmcore), str(directory / "elf")]) == 0
        return directory

    found: Path = once("debuginfo 6.1", make)
    return found
