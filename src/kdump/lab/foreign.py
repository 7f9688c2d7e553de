"""The parts of an image for another architecture: Debian's Python, wheels, and kdump's library, cross-compiled.

All of it lies in the lab's cache. Nothing of it is installed or run here.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

from kdump import arch
from kdump.arch import Architecture
from kdump.errors import KdumpError
from kdump.image.platform import NATIVE, Foreign, Platform
from kdump.lab import apt, cache
from kdump.native import library
from kdump.native.build import OPTIMISED, compile_library

_PYTHON = f"python{sysconfig.get_python_version()}"
_LIBRARIES = ("libc6", "libgcc-s1", "libstdc++6")  # what wheels are linked against besides
_PATIENCE = 600.0  # seconds for pip to fetch a wheel
_WHEEL_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_26", "manylinux2014", "manylinux_2_17")


@functools.cache
def platform_of(machine: str) -> Platform:
    """Where the binaries of an image for that architecture come from. Raises KdumpError."""
    architecture = arch.by_machine(machine)
    if architecture is arch.native():
        return NATIVE
    wheels = functools.partial(_wheel, architecture)
    return Foreign(machine, architecture.triplet, _python(architecture), wheels, library_for(architecture))


def _python(architecture: Architecture) -> Path:
    packages = (f"{_PYTHON}-minimal", f"lib{_PYTHON}-minimal", f"lib{_PYTHON}-stdlib")

    def fetch(directory: Path) -> None:
        source = apt.host(architecture.debian)
        if source.dependencies(packages[0]) is None:
            raise KdumpError(
                f"there is no {_PYTHON} for {architecture.name}",
                why="Debian's archive, as this machine knows it, has another version of Python",
                remedy=f"run kdump by the distribution's own Python (/usr/bin/python3), not by {sys.executable}",
            )
        needed = [name for package in packages for name in source.dependencies(package) or () if _is_library(name)]
        source.get("download", *dict.fromkeys([*packages, *needed, *_LIBRARIES]), cwd=directory)
        for package in sorted(directory.glob("*.deb")):
            apt.extract(package, directory)

    return cache.entry(f"foreign/{architecture.name}/{_PYTHON}", fetch)


def _is_library(package: str) -> bool:
    return package.startswith(("lib", "zlib"))


def _wheel(architecture: Architecture, distribution: str, version: str) -> Path:
    """The unpacked wheel of a distribution, of the version that is installed here."""

    def fetch(directory: Path) -> None:
        platforms = [f"--platform={each}_{architecture.name}" for each in _WHEEL_PLATFORMS]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={_PYTHON.removeprefix('python')}"]
        command += [*platforms, "--dest", str(directory), f"{distribution}=={version}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_PATIENCE)
        if done.returncode:
            raise KdumpError(
                f"the wheel of {distribution} {version} for {architecture.name} cannot be fetched",
                why="".join(done.stderr.strip().splitlines()[-1:]),
                remedy="check the network, and whether PyPI has such a wheel",
            )
        for wheel in directory.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(directory)
            wheel.unlink()

    tag = f"{sys.implementation.cache_tag}-{distribution}-{version}"
    return cache.entry(f"foreign/{architecture.name}/{tag}", fetch)


def library_for(architecture: Architecture) -> Path | None:
    """kdump's shared library; None without a cross compiler or without the sources: NumPy does the work then."""
    compiler = shutil.which(f"{architecture.triplet}-gcc")
    digest = library.source_digest()
    if not compiler or digest is None:
        return None

    def build(directory: Path) -> None:
        compile_library(Path(library.HERE), directory / library.LIBRARY.name, (*OPTIMISED, "-w"), compiler=compiler)

    return cache.entry(f"foreign/{architecture.name}/libkdump-{digest:08x}", build) / library.LIBRARY.name
