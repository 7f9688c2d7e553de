"""What the tests share: real kernels, and real crashes that are made once a session and used by many tests.

A test that boots a machine carries the marker `lab`. Crashes are keyed by what distinguishes them, so two tests that
ask for the same machine get the same dump.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kdump.image.kernel import KernelTree
    from kdump.lab.crash import Crash

SERIES = ("6.1", "6.12")

CrashMaker = Callable[..., "Crash"]


@pytest.fixture(scope="session")
def kernel() -> Callable[[str], KernelTree]:
    """`kernel("6.1")`: Debian's newest cloud kernel of that series, fetched once and cached."""
    from kdump.lab import kernels

    return functools.cache(kernels.find)


@pytest.fixture(scope="session")
def debug_vmlinux(kernel: Callable[[str], KernelTree]) -> Callable[[str], Path]:
    """`debug_vmlinux("6.1")`: that kernel's vmlinux with DWARF, for crash and for drgn."""
    from kdump.lab import kernels

    return functools.cache(lambda series: kernels.debug_vmlinux(kernel(series)))


@pytest.fixture(scope="session")
def lab_crash(tmp_path_factory: pytest.TempPathFactory, kernel: Callable[[str], KernelTree]) -> CrashMaker:
    """`lab_crash("6.1", "sysrq", cpus=2, …)`: a machine crashed that way; options as in `Scenario`."""
    from kdump.lab.causes import find_cause
    from kdump.lab.crash import Scenario, crash

    @functools.cache
    def make(series: str, cause: str = "sysrq", **options: Any) -> Crash:
        directory = tmp_path_factory.mktemp(f"crash-{series}-{cause}")
        result = crash(Scenario(kernel(series), find_cause(cause), **options), directory)
        result.disk.unlink()
        return result

    return make
