"""Which modules an entry module needs: found by importing it in a fresh interpreter, not listed by hand.

A module that imports lazily declares what its users will need, as `__capture_imports__ = ("package.module", …)`.
"""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import kdump
from kdump.errors import KdumpError

# Codecs are looked up by name, so no import shows them; these are what start-up and text files ask for.
_ALWAYS = (
    "encodings",
    "encodings.aliases",
    "encodings.utf_8",
    "encodings.latin_1",
    "encodings.ascii",
    "runpy",
    "pkgutil",
)


@dataclass(frozen=True)
class PythonModule:
    """A module of the closure. `code` is its .pyc, or empty for an extension module, which is the file `path`."""

    name: str
    path: Path
    package: bool
    code: bytes

    @property
    def place(self) -> str:
        """Where it belongs below the image's library directory."""
        base = self.name.replace(".", "/")
        if not self.code:
            return f"{base.rpartition('/')[0]}/{self.path.name}".lstrip("/")
        return f"{base}/__init__.pyc" if self.package else f"{base}.pyc"


def find(entry: str) -> list[PythonModule]:
    """The closure of `entry`, in the order of import. Built-in and frozen modules are part of the interpreter.

    KdumpError if the module cannot be imported.
    """
    path = [str(Path(kdump.__file__).parent.parent), *filter(None, sys.path)]
    # A fixed hash seed and a fresh process make the byte code the same every time.
    environment = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}
    if "LD_LIBRARY_PATH" in os.environ:
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    probe = Path(__file__).with_name("probe.py")
    command = [sys.executable, "-s", "-S", "-P", str(probe), entry]
    result = subprocess.run(
        command, input=marshal.dumps((path, _ALWAYS)), capture_output=True, env=environment, check=False
    )
    if result.returncode:
        lines = result.stderr.decode(errors="replace").strip().splitlines()
        raise KdumpError(f"{entry} cannot be put in an image", why="importing it failed: " + " ".join(lines[-1:]))
    found = marshal.loads(result.stdout)  # noqa: S302 - our own child wrote it
    return [PythonModule(name, Path(origin), package, code) for name, origin, package, code in found]
