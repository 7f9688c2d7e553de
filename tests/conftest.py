"""What the tests share: real kernels, and real crashes that are made once a session and used by many tests.

A test that boots a machine carries the marker `lab`. Crashes are keyed by what distinguishes them, so two tests that
ask for the same machine get the same dump, whichever of pytest-xdist's workers they run in.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from kdump.image.kernel_tree import KernelTree
    from kdump.lab.crash import Crash

SERIES = ("6.1", "6.12")
# No test depends on how fast or busy the machine is; pytest-timeout ends one that hangs.
hypothesis.settings.register_profile("kdump", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("kdump")

CrashMaker = Callable[..., "Crash"]
# `once(key, make)`: what `make(directory)` returned when it was first called with that key in this session.
Once = Callable[[str, Callable[[Path], Any]], Any]


# Files whose tests may run in different workers: they share machines by `once`, or by having the same parameters.
APART = (
    "capture/test_lab_faults.py",
    "capture/test_lab_luks.py",
    "capture/test_lab_nfs.py",
    "capture/test_lab_targets.py",
    "capture/test_lab_volumes.py",
    "kexec/test_lab_load.py",
    "lab/test_aarch64.py",
    "lab/test_faults.py",
    "matrix/test_matrix.py",
    "report/test_crasher.py",
    "test_machines.py",
    "test_whole_path.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Machines come first: they take longest, and what is short fills the end."""
    items.sort(key=lambda item: item.get_closest_marker("lab") is None)


class Failures:
    """Names each failure when it happens, not only at the end of a run of twenty minutes."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            during = "" if report.when == "call" else f" ({report.when})"
            self._terminal.write_line(f"\nFAILED {report.nodeid}{during}", red=True)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """The process that prints is the one that has the terminal; pytest-xdist's workers have none."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Failures(terminal), "failures")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """What stays in one of pytest-xdist's workers: a file; of those in APART what has the same parameters."""
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):  # type: ignore[misc]  # has no annotations
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            name, _, parameters = test.partition("[")
            return f"{file} {parameters or name}" if file.endswith(APART) else file

    return Files(config, log)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes a thing once for all workers; what is returned must pickle and refer to files in the given directory."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)

    def find(key: str, make: Callable[[Path], Any]) -> Any:
        place = shared / hashlib.sha256(key.encode()).hexdigest()[:16]
        with place.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            result = place / "result"
            if not result.exists():
                # A failed try leaves its files for whoever looks into it; the next one gets its own directory.
                directory = place / f"try-{len(list(place.glob('try-*')))}"
                directory.mkdir(parents=True)
                result.write_bytes(pickle.dumps(make(directory)))
            return pickle.loads(result.read_bytes())

    return find


@pytest.fixture(scope="session")
def kernel() -> Callable[..., KernelTree]:
    """`kernel("6.1")`: Debian's newest cloud kernel of that series (`kernel("6.12", "aarch64")`: of another
    architecture), fetched once and cached.
    """
    from kdump.lab import kernels

    return functools.cache(kernels.find)


@pytest.fixture(scope="session")
def debug_vmlinux(kernel: Callable[[str], KernelTree]) -> Callable[[str], Path]:
    """`debug_vmlinux("6.1")`: that kernel's vmlinux with DWARF, for crash and for drgn."""
    from kdump.lab import kernels

    return functools.cache(lambda series: kernels.debug_vmlinux(kernel(series)))


@pytest.fixture(scope="session")
def lab_crash(once: Once, kernel: Callable[..., KernelTree]) -> CrashMaker:
    """`lab_crash("6.1", "sysrq", cpus=2, …)`: a machine crashed that way; options as in `Scenario`.

    `machine` is its architecture, if not this one's.
    """
    from kdump.lab.causes import find_cause
    from kdump.lab.crash import Scenario, crash

    def make(series: str, cause: str = "sysrq", machine: str = "", **options: Any) -> Crash:
        def boot(directory: Path) -> Crash:
            tree = kernel(series, machine) if machine else kernel(series)
            result = crash(Scenario(tree, find_cause(cause), **options), directory)
            result.disk.unlink()
            return result

        made: Crash = once(f"crash {machine} {series} {cause} {sorted(options.items())}", boot)
        return made

    return make
