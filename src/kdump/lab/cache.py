"""The lab's cache: $XDG_CACHE_HOME/kdump (default ~/.cache/kdump). Entries appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from kdump.errors import KdumpError


def directory() -> Path:
    """The cache's directory, made if missing."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base) / "kdump"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold a lock that other runs of kdump respect; released by the kernel if we die."""
    path = directory() / "locks" / name.replace("/", "_")
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def entry(name: str, make: Callable[[Path], None]) -> Path:
    """The directory `name` in the cache; `make(path)` fills a new one, which is renamed into place when complete.

    Two runs that want the same entry make it once. Raises KdumpError when the disk is full.
    """
    final = directory() / name
    if final.is_dir():
        return final
    with lock(name):
        if final.is_dir():
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
        try:
            staging.chmod(0o755)
            make(staging)
            staging.rename(final)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise KdumpError(
                    f"no room for {final.name} in the cache",
                    why=f"the file system of {final.parent} is full",
                    remedy="free some space, or point XDG_CACHE_HOME at a larger disk",
                ) from error
            raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return final
