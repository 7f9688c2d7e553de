"""Images of another architecture: its files are found for what this Python imports, and nothing of them is run."""

from __future__ import annotations

import ctypes
import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from tests.image.test_blas import USERS

from kdump.capture import plan
from kdump.errors import KdumpError
from kdump.image import blas, elf_files
from kdump.image.platform import Foreign

STANDARD = Path(sysconfig.get_path("stdlib"))


@pytest.fixture
def foreign(tmp_path: Path) -> Foreign:
    """A platform whose interpreter has one module built in, math; it has zlib and json as files, and one wheel."""
    version = sysconfig.get_python_version()
    library = tmp_path / "usr/lib" / STANDARD.name
    for name in ("json/__init__.py", f"lib-dynload/zlib.cpython-{version.replace('.', '')}-aarch64-linux-gnu.so"):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).touch()
    (tmp_path / "wheel/numpy/_core").mkdir(parents=True)
    (tmp_path / "wheel/numpy/_core/fast.abi3.so").touch()

    def wheels(distribution: str, version: str) -> Path:
        assert (distribution, version) == ("numpy", np.__version__)
        return tmp_path / "wheel"

    platform = Foreign("aarch64", "aarch64-linux-gnu", tmp_path, wheels, None)
    platform.__dict__["_built_in"] = frozenset({"math"})
    return platform


def test_a_module_is_found_where_the_other_architecture_has_it(foreign: Foreign, tmp_path: Path) -> None:
    def place(name: str, origin: Path | str, has_source: bool = False) -> str | None:
        found = foreign.place((name, str(origin), False, has_source))
        return found[1] if found else None

    dynload = STANDARD / "lib-dynload"
    numpy = Path(np.__file__).parent
    assert place("json", json.__file__, True) == str(tmp_path / "usr/lib" / STANDARD.name / "json/__init__.py")
    assert place("math", dynload / "math.so") is None
    assert (place("zlib", dynload / "zlib.so") or "").endswith("aarch64-linux-gnu.so")
    assert place("numpy._core.fast", numpy / "_core/fast.so") == str(tmp_path / "wheel/numpy/_core/fast.abi3.so")
    assert place("kdump.capture.plan", plan.__file__, True) == plan.__file__
    assert place("kdump.native.libkdump", Path(plan.__file__).parents[1] / "native/libkdump.so") is None
    assert place("elsewhere", "/opt/elsewhere.py", True) == "/opt/elsewhere.py"
    for name, origin, has_source in (
        ("xml", STANDARD / "xml/__init__.py", True),
        ("_ctypes", dynload / "_ctypes.so", False),
        ("numpy._core.gone", numpy / "_core/gone.so", False),
        ("elsewhere", "/opt/elsewhere.so", False),
    ):
        with pytest.raises(KdumpError, match=f"module {name} "):
            place(name, origin, has_source)


def test_the_stand_in_for_blas_is_a_library_of_that_architecture(tmp_path: Path) -> None:
    """Its code is run by the lab's machines: importing NumPy calls a dot product."""
    names = sorted(
        {name for user in USERS for name in elf_files.symbols(user).undefined if "cblas_" in name or "lapack" in name}
    )
    path = tmp_path / "libscipy_openblas64_.so"
    path.write_bytes(blas._shared_object(path.name, names, "aarch64"))
    parsed = elf_files.parse(path)
    assert (parsed.machine, parsed.soname, parsed.needed) == ("aarch64", path.name, ())
    loads = [program for program in parsed.programs if program[0] == 1]
    assert all(program[7] == 0x10000 and program[2] == program[3] for program in loads)  # alignment, offset = address
    assert loads[0][3] // 0x10000 < loads[1][3] // 0x10000  # code and data are on pages of their own, whatever the size
    with pytest.raises(OSError):
        ctypes.CDLL(str(path))
