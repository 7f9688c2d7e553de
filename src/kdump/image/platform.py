"""Where the binaries of an image come from: this machine, or files of another architecture that were put together.

Which modules are needed is found out by this machine's Python either way, and it compiles them too: byte code is the
same on all architectures, for one version of Python. So nothing of the other architecture is run.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.metadata import packages_distributions, version
from pathlib import Path

import kdump
from kdump.errors import KdumpError
from kdump.image import elf_files

Found = tuple[str, str, bool, bool]  # a module: its name, file, whether it is a package, whether it has a source


class Platform:
    """This machine. `machine` is its architecture, as `uname -m` prints it."""

    machine = os.uname().machine

    @property
    def interpreter(self) -> Path:
        """Python's executable."""
        return Path("/proc/self/exe").resolve()

    @property
    def directories(self) -> Sequence[str]:
        """Where shared libraries are looked for."""
        return elf_files.system_directories()

    def place(self, found: Found) -> Found | None:
        """A module of this machine as it is there; None if the interpreter has it built in. Raises KdumpError."""
        return found

    def file(self, path: str) -> Path:
        """A file that an executable names by its absolute path."""
        return Path(path)

    def here(self, path: Path) -> Path:
        """The file of this machine's that stands for one of the platform's, of a module that was placed."""
        return path

    @property
    def identity(self) -> str:
        """The key of results that were made for it."""
        return ""


NATIVE = Platform()


class Foreign(Platform):
    """Another architecture.

    `root` is a directory with the files of a distribution's Python, of this Python's version; `wheels(distribution,
    version)` gives the directory of an unpacked wheel; `library` is kdump's own shared library, None where it could not
    be compiled.
    """

    def __init__(
        self, machine: str, triplet: str, root: Path, wheels: Callable[[str, str], Path], library: Path | None
    ) -> None:
        self.machine = machine
        self._triplet, self._root, self._wheels, self._library = triplet, root, wheels, library
        self._here: dict[Path, Path] = {}
        self._kdump = Path(kdump.__file__).parent
        self._standard = Path(sysconfig.get_path("stdlib"))
        self._sites = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}

    @property
    def interpreter(self) -> Path:
        """Python's executable."""
        return self._root / "usr/bin" / f"python{sysconfig.get_python_version()}"

    @property
    def directories(self) -> Sequence[str]:
        """Where shared libraries are looked for."""
        return [f"{self._root}/{place}/{self._triplet}" for place in ("lib", "usr/lib")]

    def file(self, path: str) -> Path:
        """A file that an executable names by its absolute path."""
        return self._root / path.lstrip("/")

    def here(self, path: Path) -> Path:
        """The file of this machine's that stands for one of the platform's, of a module that was placed."""
        return self._here[path]

    @property
    def identity(self) -> str:
        """The key of results that were made for it."""
        return self.machine

    def place(self, found: Found) -> Found | None:
        """A module of this machine as it is there; None if the interpreter has it built in. Raises KdumpError."""
        name, origin, package, has_source = found
        there = self._find(name, Path(origin), has_source)
        if there is None:
            return None
        self._here[there] = Path(origin)
        return name, str(there), package, has_source

    def _find(self, name: str, origin: Path, has_source: bool) -> Path | None:
        if origin.is_relative_to(self._kdump):
            return origin if has_source else self._library
        site = next((site for site in self._sites if origin.is_relative_to(site)), None)
        if site:
            place = self._wheel(name.partition(".")[0]) / origin.relative_to(site)
        elif origin.is_relative_to(self._standard):
            place = self._root / "usr/lib" / self._standard.name / origin.relative_to(self._standard)
            if not has_source and name in self._built_in:
                return None
        elif has_source:  # somebody's own, which serves all architectures
            return origin
        else:
            raise KdumpError(f"the module {name} cannot be found for {self.machine}", why=f"here it is {origin}")
        return self._existing(place, name) if has_source else self._extension(place.parent, name)

    def _extension(self, directory: Path, name: str) -> Path:
        base = name.rpartition(".")[2]
        names = [f"{base}.cpython-{sysconfig.get_config_var('py_version_nodot')}-{self._triplet}.so"]
        names += [f"{base}.abi3.so", f"{base}.so"]
        return next((directory / each for each in names if (directory / each).is_file()), None) or self._existing(
            directory / names[0], name
        )

    def _existing(self, path: Path, name: str) -> Path:
        if not path.is_file():
            raise KdumpError(f"the module {name} does not exist for {self.machine}", why=f"there is no {path}")
        return path

    @cached_property
    def _built_in(self) -> frozenset[str]:
        prefix = "PyInit_"
        names = elf_files.symbols(self.interpreter).defined
        return frozenset(name.removeprefix(prefix) for name in names if name.startswith(prefix))

    @cached_property
    def _distributions(self) -> dict[str, list[str]]:
        return dict(packages_distributions())

    def _wheel(self, top: str) -> Path:
        if top not in self._distributions:
            raise KdumpError(f"the module {top} cannot be found for {self.machine}", why="no package brings it here")
        distribution = self._distributions[top][0]
        return self._wheels(distribution, version(distribution))
