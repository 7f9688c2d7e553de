"""Can this processor run NumPy? From 2.4 on, NumPy's wheels need x86-64-v2, and die of an illegal instruction without.

The capture kernel runs on the same processor, so this is asked on the healthy machine, before an image is built.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kdump.errors import KdumpError

# What x86-64-v2 has beyond the first x86-64, as /proc/cpuinfo names it (System V psABI for x86-64, table 3.1).
_SECOND_LEVEL = ("cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3")
_PROBE = "import numpy as np; assert int(np.sort(np.arange(64, dtype=np.uint64)[::-1] & 62).sum()) == 1984"
_PATIENCE = 60.0  # seconds; a tenth of one on most machines


def missing(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """The features of x86-64-v2 that this processor lacks; empty on other architectures."""
    try:
        found = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    except OSError:
        return ()
    return tuple(sorted(set(_SECOND_LEVEL) - set(found[1].split()))) if found else ()


def require_numpy() -> None:
    """Raise KdumpError if NumPy does not run here; it is tried, but only on a processor that lacks something."""
    if (lacking := missing()) and not _runs():
        raise KdumpError(
            f"NumPy {_version()} does not run on this processor",
            why=f"it lacks {', '.join(lacking)}, which NumPy's packages need from 2.4 on (x86-64-v2)",
            remedy="install an older one where kdump is installed: pip install 'numpy<2.3'; "
            "or give the virtual machine a newer processor model",
        )


class _Check:
    """Waits for NumPy's import, as an importer in `sys.meta_path`, and finds nothing."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        """Look at the processor first: NumPy would end the process without a word."""
        if name == "numpy":
            require_numpy()
            sys.meta_path.remove(self)


def check_when_imported() -> None:
    """Have `require_numpy` called when this process imports NumPy: only then is it known that a command needs it."""
    sys.meta_path.insert(0, _Check())


@functools.cache
def _runs() -> bool:
    # By the paths of this process: what it would import is what is tried.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", _PROBE]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _version() -> str:
    try:
        return version("numpy")
    except PackageNotFoundError:
        return ""
